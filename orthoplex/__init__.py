"""Continual learning for language models on Ray, from Python.

    Predictor   answers new texts with a committed stream
    load        a committed stream in a transformers model
    plan, run, status, sweep        as the commands of these names
    Registry    the adapters in a store

What a name needs is imported when it is asked for: this module alone imports none of it.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from orthoplex.names import check

if TYPE_CHECKING:
    from orchestrator.delivery.load import load as load
    from orchestrator.delivery.predictor import Predictor as Predictor
    from orthoplex.registry import Registry as Registry
    from orthoplex.runs import plan as plan
    from orthoplex.runs import run as run
    from orthoplex.runs import status as status
    from orthoplex.runs import sweep as sweep

HOMES = {
    "Predictor": "orchestrator.delivery.predictor",
    "Registry": "orthoplex.registry",
    "load": "orchestrator.delivery.load",
    "plan": "orthoplex.runs",
    "run": "orthoplex.runs",
    "status": "orthoplex.runs",
    "sweep": "orthoplex.runs",
}
__all__ = ["Predictor", "Registry", "__version__", "load", "plan", "run", "status", "sweep"]


def __getattr__(name: str) -> Any:
    """The object of that name, imported now."""
    if name == "__version__":
        try:
            return metadata.version("orthoplex")
        except metadata.PackageNotFoundError:
            return "0"  # run from source
    if name not in HOMES:
        raise AttributeError(f"module 'orthoplex' has no attribute {name!r}")
    check()
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__]
