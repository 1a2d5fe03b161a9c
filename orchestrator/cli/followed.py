"""`orthoplex trend`: how a stream does after its training."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ConfigError, GuardStop
from orchestrator.cli.common import DEFAULT_STORE, AsJson, RunName, StoreUri, print_json

if TYPE_CHECKING:
    from orchestrator.followed.trend import Series


def trend(
    name: RunName,
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="only this task")] = None,
    *,
    level: Annotated[
        float, typer.Option("--level", min=0, max=1, metavar="P", help="of significance, of each comparison")
    ] = 0.01,
    last: Annotated[int | None, typer.Option("--last", min=1, metavar="N", help="only the newest of each task")] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="exit with 3 if a newest score is worse than noise explains")
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show recorded scores, and what is drift. Scores are those that `eval --record` keeps."""
    from cluster.storage import open_store
    from orchestrator.followed.records import records_of
    from orchestrator.followed.trend import trend as read_trend
    from orchestrator.registry.references import find_track

    track = find_track(open_store(store), name)
    found = read_trend(records_of(track), task=task, level=level, last=last)
    if not found:
        of = f" of task {task!r}" if task else ""
        raise ConfigError(
            f"RUN {name!r}: no score{of} is recorded; record one: orthoplex eval {track.label}@v1 --data FILE --record"
        )
    if as_json:
        print_json({"track": track.label, "series": [each.shown() for each in found]})
    else:
        from orchestrator.console.trend import print_trend

        print_trend(track.label, found)
    if fail_on_drift:
        refuse_drift(track.label, found)


def refuse_drift(label: str, found: "list[Series]") -> None:
    """Raises GuardStop, which names the tasks, if the newest score of one is worse, outside the noise."""
    worse = [each for each in found if each.drifted]
    if worse:
        told = "; ".join(
            f"{each.task}: {each.metric} {each.points[-1].record.score:.4g} of {each.points[-1].record.reference}"
            for each in worse
        )
        raise GuardStop(f"{label}: drift: {told}; worse than noise explains at p < {worse[0].level:g}")
