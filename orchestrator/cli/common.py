"""What the verbs share: their common options, how runs are found in a store, how JSON is printed."""

import io
import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from cluster.finite import finite

StoreUri = Annotated[str, typer.Option("--store", envvar="ORTHOPLEX_STORE", help="a folder, or s3://bucket/prefix")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for other programs")]
DEFAULT_STORE = ".orthoplex/store"


def read_run(name: str, store: str) -> Any:
    """The state of a run named `name` or `team/name` in a store.

    Raises:
        ConfigError: no run has the name, or several teams have one.
    """
    from cluster.storage import open_store
    from orchestrator.registry.references import find_track
    from orchestrator.track.state import replay

    track = find_track(open_store(store), name)
    return replay(track.team, track.name, track.entries())


def read_version(reference: str, store: str) -> tuple[Any, Any]:
    """The state of the run and the commit that `team/track@vN` or `team/track@ALIAS` names.

    Raises:
        ConfigError: it is malformed, or there is no such run, version or alias.
    """
    from cluster.storage import open_store
    from orchestrator.registry.references import resolve

    found = resolve(open_store(store), reference)
    return found.state, found.commit


def read_log(state: Any, commit: dict[str, Any], store: str) -> dict[str, list[Any]]:
    """The columns of a committed task's training.parquet, its digest checked."""
    import pyarrow.parquet as pq

    from cluster.storage import open_store
    from orchestrator.track.track import Track

    track = Track(open_store(store), state.team, state.name)
    (data,) = track.committed(commit, "training.parquet")
    table = pq.read_table(io.BytesIO(data))
    columns: dict[str, list[Any]] = table.to_pydict()
    return columns


def print_json(value: Any) -> None:
    """Indented JSON on standard output; NaN and infinity, which JSON lacks, become null."""
    typer.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_json_rows(rows: Iterable[Any]) -> None:
    """A JSON list on standard output, a row a line. Raises ValueError: NaN or infinity."""
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    typer.echo(f"[\n  {lines}\n]" if lines else "[]")
