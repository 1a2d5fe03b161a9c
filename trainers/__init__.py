"""One task in, one adapter out."""

import os
from contextlib import suppress
from pathlib import Path


def keep_compiled() -> None:
    """What torch compiles is kept in the user's own cache. Torch would make a folder in /tmp, under a name that others
    can take first, already when it is imported. Without a cache that can be written it still does."""
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        state = os.environ.get("ORTHOPLEX_STATE") or "~/.cache/orthoplex"
        with suppress(OSError):
            folder = Path(os.path.expanduser(state)).absolute() / "compiled"  # noqa: PTH111  `~` may have no meaning
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


keep_compiled()
