"""The packages that Orthoplex is made of: whether Python finds these, or folders of a user with the same names."""

import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]


def check() -> None:
    """Looks where each package would be imported from, or was; imports none.

    Raises:
        ImportError: it is not the folder beside this package; names the place that is in the way.
    """
    for name in ("orchestrator", "trainers", "cluster"):
        found = place(name)
        if found is None:
            raise ImportError(f"{HOME / name}: this package of Orthoplex is missing; install Orthoplex anew")
        if found != HOME / name:
            raise ImportError(
                f"{found}: has the name of a package of Orthoplex, and Python imports it in its place; rename it, or "
                "start Python in another folder (or without that folder in PYTHONPATH)"
            )


def place(name: str) -> Path | None:
    """The folder of a package, or the file of a module, of that name; None if Python finds neither."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = find_spec(name)
        origin = spec.origin if spec else None
    if origin is None:
        return None
    path = Path(origin).resolve()
    return path.parent if path.name == "__init__.py" else path
