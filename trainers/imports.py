"""Imports of large packages, in processes that import them once and then work."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = "mlflow"  # DeepSpeed imports it, if it is installed, for an autotuner that nothing here uses


@contextmanager
def quick_imports() -> Iterator[None]:
    """A block that imports DeepSpeed or transformers. It costs a fifth less processor time per process.

    The garbage collector is off: it would walk through all that was imported so far again and again, and modules stay.
    MLflow cannot be imported in the block, unless it was before.
    """
    collecting, hidden = gc.isenabled(), UNUSED not in sys.modules
    gc.disable()
    if hidden:
        sys.modules[UNUSED] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[UNUSED]
        if collecting:
            gc.enable()
