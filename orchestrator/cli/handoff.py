"""`orthoplex adapters serve-layout`."""

from typing import Annotated

import typer

from orchestrator.cli.common import DEFAULT_STORE, StoreUri


def serve_layout(
    reference: Annotated[str, typer.Argument(metavar="ADAPTER", help="team/track@vN")],
    store: StoreUri = DEFAULT_STORE,
    root: Annotated[str, typer.Option("--root", metavar="KEY", help="where in the store")] = "serve",
    base: Annotated[str | None, typer.Option("--base", help="the name the base is served by")] = None,
    model: Annotated[str | None, typer.Option("--model", help="where the base is now: a folder or a hub id")] = None,
) -> None:
    """Put an adapter, with all before it, where servers load it by name. A PEFT folder below ROOT/<base>/."""
    from cluster.storage import open_store
    from orchestrator.cli.common import read_version
    from orchestrator.track.track import Track

    state, commit = read_version(reference, store)
    from orchestrator.delivery.serving import serve_layout as write  # imports torch

    track = Track(open_store(store), state.team, state.name)
    place = write(track, state, commit, root=root, base=base, model=model)
    typer.echo(f"{state.reference(commit)} is at {track.store.uri.partition('?')[0]}/{place}")
