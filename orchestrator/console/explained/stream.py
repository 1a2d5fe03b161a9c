"""A run's decisions in the order of its stream: about the layers of each task, and those that its log carries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.console.budgets import Logged
from orchestrator.console.explained.advice import advice, verdict
from orchestrator.console.explained.task import print_task
from orchestrator.console.screen import out
from orchestrator.console.story import few, in_words, second
from orchestrator.console.views import ALL, View
from orchestrator.log.entry import JsonLike
from orchestrator.log.event import Decided as Carried
from orchestrator.registry.decisions import Decided
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState
from trainers.method_config import AdapterConfig

WHY = (
    "a dimension stays while |g| > τ. The task's loss pulls |g| up and τ down where a dimension helps; "
    "budget_weight {budget_weight} pulls the other way, starting from τ₀ = {threshold}."
)


def print_explanation(state: RunState, found: Sequence[Decided], logs: Mapping[int, Logged], view: View = ALL) -> None:
    """What was decided in a run, and why, as far as the view asks for it.

    `found` are the decisions of the view's commits, `logs` the columns of training.parquet by version; only those of
    versions whose ranks no rule chose are needed.
    """
    told = [each for each in found if each.commit.budget and (each.lines or logs.get(each.commit.version))]
    for task in told:
        view.layers(task.commit.budget)  # a name that is none is refused before anything is printed
    print_head(state, told)
    events: list[Decided | Carried] = [*told, *carried(state, view)]
    for each in sorted(events, key=place):
        if isinstance(each, Decided):
            print_task(state, each, logs.get(each.commit.version, {}), view)
        else:
            out.print(f"{second(each.entry.time)}  {each.decision.subject}: {in_words(each.decision)}", markup=False)
    for line in (*changes(state, told), *pending(state, view)):
        out.print(line, markup=False)


def with_quarantined(state: RunState) -> RunState:
    """The state with what is quarantined as its last commit, at the place of its entry."""
    held = state.quarantined
    if held is None:
        return state
    commit = state.reached.commits[-1].model_copy(update={"seq": held.seq, "time": held.time})
    return replace(state, commits=(*state.commits, commit))


def place(event: Decided | Carried) -> int:
    """The number of the log's entry in which it stands."""
    return event.commit.seq if isinstance(event, Decided) else event.entry.seq


def print_head(state: RunState, told: Sequence[Decided]) -> None:
    """The rule of the run's method; or why there is nothing to tell of layers."""
    if not state.commits:
        out.print(f"{state.label}: {state.status}; no task is committed yet, so no budget is chosen", markup=False)
        return
    if not told:
        out.print(f"{state.label}: no version says how its budget was chosen", markup=False)
        return
    settings = state.completed().adapter
    given = f"adapter.method {settings.method} gives every layer its rank; there is no budget that a layer chooses."
    if isinstance(settings, AdapterConfig):
        given = WHY.format(**settings.model_dump())
    elif settings.chooses:
        given = f"adapter.method {settings.method}: {settings.chooses}."
    out.print(f"{state.label}: {given}", markup=False)
    if note := older(state, told):
        out.print(note, markup=False)


def older(state: RunState, told: Sequence[Decided]) -> str | None:
    """A note on the tasks that kept no decisions; None if there are none."""
    names = [state.reference(each.commit) for each in told if each.lines and not each.recorded]
    return (
        f"note: {', '.join(names)}: told from training logs and commits, since an older Orthoplex kept no decisions; "
        "how much of a single layer's output lies in what earlier tasks write is not recorded"
        if names
        else None
    )


def changes(state: RunState, told: Sequence[Decided]) -> Iterator[str]:
    """What to change if budgets did nothing, by the newest task of which that holds."""
    for each in reversed([each for each in told if each.chosen and verdict(each.chosen)]):
        config = state.completed()
        if isinstance(config.adapter, AdapterConfig):
            train, commit = config.training_of(each.commit.version - 1), each.commit
            yield from ("", *advice(config.adapter, train, each.chosen, commit.active_parameters))
        return


def carried(state: RunState, view: View) -> list[Carried]:
    """The decisions in the log that are about the view's tasks; all of them if none is named."""
    if not view.tasks:
        return [*state.decisions]
    asked = {subject for index in view.indices(state) for subject in (state.tasks[index].name, f"v{index + 1}")}
    return [each for each in state.decisions if each.decision.subject in asked]


def pending(state: RunState, view: View) -> Iterator[str]:
    """What is said of the tasks that are not committed."""
    left = [index for index in view.indices(state) if index >= state.learned]
    at = state.driving.progress
    if left and at and at.index in left and state.status == "running":
        left.remove(at.index)
        name = state.tasks[at.index].name
        yield f"\n{name}: {at.phase} {at.step}/{at.total_steps}; its budgets are decided when its training ends"
    if left and state.commits:
        yield f"\n{state.status}, nothing is decided yet about {few([state.tasks[index].name for index in left])}"


def shown(
    state: RunState, found: Sequence[Decided], logs: Mapping[int, Logged], view: View
) -> list[dict[str, JsonLike]]:
    """The form that `--json` prints: a part per committed task, and per other task that the log decided about."""
    parts = [part(state, each, logs.get(each.commit.version, {}), view) for each in found]
    names = {state.tasks[index].name for index in view.indices(state) if index >= state.learned}
    begun = dict.fromkeys(each.decision.subject for each in state.decisions if each.decision.subject in names)
    return parts + [
        {"task": name, "budget": {}, "training": {}, "decided": decided_view(state, None, name)} for name in begun
    ]


def part(state: RunState, found: Decided, log: Logged, view: View) -> dict[str, JsonLike]:
    """One committed task."""
    commit = found.commit
    layers = sorted(view.layers(commit.budget))
    modules = [vars(each) for each in found.lines if each.module in {*layers}]
    return {
        "task": commit.task,
        "budget": {name: commit.budget[name].body() for name in layers},
        "training": log,
        "decided": {**decided_view(state, commit, commit.task), "recorded": found.recorded, "modules": modules},
    }


def decided_view(state: RunState, commit: Committed | None, task: str) -> dict[str, JsonLike]:
    """The version that a task is, and what the log's decisions say of it."""
    subjects = {task} | ({f"v{commit.version}"} if commit else set())
    return {
        "ref": state.reference(commit) if commit else None,
        "quarantined": bool(commit and state.quarantined and state.quarantined.version == commit.version),
        "run": [each.shown() for each in state.decisions if each.decision.subject in subjects],
    }
