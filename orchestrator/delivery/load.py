"""`from orchestrator import load`: a committed stream in a transformers model. Importing this imports no torch."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from orchestrator.log.entry import Entry


def load(
    reference: str, *, base: "PreTrainedModel | str | Path | None" = None, store: str | None = None
) -> "PreTrainedModel":
    """The transformers model with the stream up to `reference`, as in team/track@v3, in its weights.

    Args:
        reference: which version; all tasks before it are in the model too.
        base: the unadapted model, loaded (it is changed and returned), or its folder or hub id. Default: the one that
            the run's configuration names.
        store: a folder or s3://bucket/prefix. Default: $ORTHOPLEX_STORE, else .orthoplex/store.

    Raises:
        ConfigError: no such version, or no such model.
        IntegrityError: the base has other weights than the stream was trained on, or a stored file was changed.
    """
    from cluster.storage import open_store
    from orchestrator.delivery.serving import apply
    from orchestrator.registry.references import resolve

    version = resolve(open_store(store_uri(store)), reference)
    warn_of_skipped(version.track.label, version.entries)
    return apply(version, str(base) if isinstance(base, Path) else base)


def warn_of_skipped(label: str, entries: "Sequence[Entry]") -> None:
    """Warns if entries of a newer Orthoplex are left out of the log of `label`."""
    from orchestrator.track.events import skipped

    if left_out := skipped(entries):
        warnings.warn(f"{label}: {left_out}", stacklevel=3)


def store_uri(store: str | None) -> str:
    """The store that is meant: the given one, else $ORTHOPLEX_STORE, else .orthoplex/store."""
    from cluster.storage import DEFAULT_STORE

    return store or os.environ.get("ORTHOPLEX_STORE") or DEFAULT_STORE
