"""`orthoplex serve`: adapters behind an OpenAI-compatible API."""

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completion
from orchestrator.cli.answering import BatchSize, Device
from orchestrator.cli.common import DEFAULT_STORE, Model, StoreUri, only_our_output, tell


def serve(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER…",
            help="team/run@ALIAS, which is followed; or @vN; of one base",
            autocompletion=completion.adapters,
        ),
    ],
    *,
    address: Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="where to listen")] = "127.0.0.1:8000",
    store: StoreUri = DEFAULT_STORE,
    model: Model = None,
    device: Device = None,
    batch_size: BatchSize = None,
    cpus: Annotated[
        int | None, typer.Option("--cpus", min=1, metavar="N", help="threads; default: all cores but one")
    ] = None,
    max_concurrent: Annotated[int, typer.Option("--max-concurrent", min=1, metavar="N", help="requests at once")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, metavar="N", help="of an answer at most")] = 1024,
    max_body_kib: Annotated[int, typer.Option("--max-body", min=1, metavar="KIB", help="of a request at most")] = 1024,
    refresh_s: Annotated[
        float, typer.Option("--refresh", min=0.1, metavar="SECONDS", help="between two looks at aliases")
    ] = 2.0,
) -> None:
    """Serve adapters over one base. OpenAI's API and /v1/classify; API keys from $ORTHOPLEX_API_KEYS."""
    from orchestrator.serve.launch import Address, check, prepare, serving, until_told
    from orchestrator.serve.settings import ServeSettings

    at = Address.parse(address)
    settings = ServeSettings(
        adapters=tuple(references),
        store=store if "://" in store else str(Path(store).resolve()),  # replicas may run in another folder
        model=model,
        device=device,
        batch_size=batch_size,
        max_concurrent=max_concurrent,
        max_tokens=max_tokens,
        max_body_bytes=max_body_kib << 10,
        refresh_s=refresh_s,
        cpus=cpus or max(1, (os.cpu_count() or 1) - 1),
        open=True,
    )
    with only_our_output():
        prepare(os.environ)
        check(settings, at, os.environ)
        tell("starting Ray and loading the base")
        with serving(settings, at) as look:
            typer.echo(f"serving at http://{at}/v1; Ctrl-C ends it")
            until_told(look, typer.echo, min(refresh_s, 2.0))
    tell("stopped")
