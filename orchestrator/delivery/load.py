"""`from orchestrator import load`: a committed stream in a transformers model. Importing this imports no torch."""

import os
from pathlib import Path
from typing import Any


def load(reference: str, *, base: Any = None, store: str | None = None) -> Any:
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
    from orchestrator.cli.common import DEFAULT_STORE, read_version
    from orchestrator.delivery.serving import apply
    from orchestrator.track.track import Track

    uri = store or os.environ.get("ORTHOPLEX_STORE") or DEFAULT_STORE
    state, commit = read_version(reference, uri)
    return apply(Track(open_store(uri), state.team, state.name), state, commit, as_name(base))


def as_name(base: Any) -> Any:
    """A path as text; anything else as it is."""
    return str(base) if isinstance(base, Path) else base
