"""Folders of users that have the name of one of Orthoplex's packages, and would be imported in its place."""

from importlib import invalidate_caches
from importlib.machinery import PathFinder
from pathlib import Path

from cluster.errors import ConfigError

PACKAGES = ("orchestrator", "trainers", "cluster")
HOME = Path(__file__).resolve().parents[1]


def taken(folder: Path) -> Path | None:
    """A package or module in `folder` with the name of one of Orthoplex's packages; None if there is none.

    A folder without `__init__.py` is no package, and Python goes on looking for one. A copy of Orthoplex, as a
    checkout, counts as Orthoplex.
    """
    if folder.resolve() == HOME or (folder / "orthoplex" / "__init__.py").is_file():
        return None
    invalidate_caches()  # of folders as they were a moment ago
    for name in PACKAGES:
        spec = PathFinder.find_spec(name, [str(folder)])
        if spec and spec.origin:
            return folder / name if spec.submodule_search_locations else Path(spec.origin)
    return None


def refuse_taken(folder: Path, why: str) -> None:
    """Raises ConfigError if `taken`; `why` says who imports from that folder."""
    if found := taken(folder):
        raise ConfigError(
            f"{found}: has the name of a package of Orthoplex, and {why}, so that this one would be imported in its "
            "place; rename it, or start Orthoplex in another folder"
        )
