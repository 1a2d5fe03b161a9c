"""What the verbs share: their common options, how runs are found in a store, how JSON is printed."""

import difflib
import io
import json
import math
from typing import Annotated, Any

import typer

from cluster.errors import ConfigError

StoreUri = Annotated[str, typer.Option("--store", envvar="ORTHOPLEX_STORE", help="a folder, or s3://bucket/prefix")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for other programs")]
DEFAULT_STORE = ".orthoplex/store"


def read_run(name: str, store: str) -> Any:
    """The state of a run named `name` or `team/name` in a store.

    Raises:
        ConfigError: no run has the name, or several teams have one.
    """
    from cluster.storage import open_store
    from orchestrator.registry import list_tracks
    from trainers.sources import listed

    opened = open_store(store)
    known = list_tracks(opened)
    found = [(team, track) for team, track in known if name in (track, f"{team}/{track}")]
    if len(found) == 1:
        return read_track(opened, *found[0])
    names = [f"{team}/{track}" for team, track in known]
    if found:
        shown = ", ".join(f"{team}/{track}" for team, track in found)
        raise ConfigError(f"RUN {name!r}: several teams have one; give one of {shown}")
    near = difflib.get_close_matches(name, [*names, *(track for _, track in known)], n=1, cutoff=0.5)
    hint = f"which holds {listed(names)}" if names else "which holds no runs"
    if near:
        hint = f"did you mean {near[0]!r}?"
    raise ConfigError(f"RUN {name!r}: not in the store {opened.uri}, {hint} (--store names another store)")


def read_track(store: Any, team: str, track: str) -> Any:
    """The replayed state of one track."""
    from orchestrator.registry import Track
    from orchestrator.state import replay

    return replay(team, track, Track(store, team, track).entries())


def read_log(state: Any, commit: dict[str, Any], store: str) -> dict[str, list[Any]]:
    """The columns of a committed task's training.parquet, its digest checked."""
    import pyarrow.parquet as pq

    from cluster.storage import open_store
    from orchestrator.registry import Track

    track = Track(open_store(store), state.team, state.name)
    manifest = track.read_manifest(commit["prefix"], commit["manifest_sha256"])
    table = pq.read_table(io.BytesIO(track.read_file(commit["prefix"], manifest, "training.parquet")))
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def print_json(value: Any) -> None:
    """Indented JSON on standard output; NaN and infinity, which JSON lacks, become null."""
    typer.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """The value with None for every NaN and infinity in it."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
