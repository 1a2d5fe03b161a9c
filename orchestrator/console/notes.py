"""What stands out in a run's state: tasks that learned nothing, budgets that nothing bounded, bounds left open."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from cluster.errors import ConfigError
from orchestrator.track.events import Committed
from orchestrator.track.metrics import points
from orchestrator.track.scores import Score
from orchestrator.track.state import RunState, score_at
from trainers.method_config import AdapterConfig


def notes(state: RunState) -> list[str]:
    """Sentences for people, each with what to change; none if nothing stands out."""
    return [*learned_nothing(state), *full_budgets(state), *left_open(state)]


def left_open(state: RunState) -> Iterator[str]:
    """A sentence per bound on what was learned last that the rows at hand cannot resolve."""
    subject = f"v{state.reached.learned}"
    last = {each.decision.rule: each.decision for each in state.decisions if each.decision.subject == subject}
    yield from (each.reason for each in last.values() if each.open)


def learned_nothing(state: RunState, since: int = 0) -> Iterator[str]:
    """A sentence per task, of the commits from number `since` on, whose score on its test rows, right after it was
    trained, is not better than before, or than without a model. One that nothing can be better than says nothing."""
    for commit in state.commits[since:]:
        first = 0 if state.joint else commit.version - 1
        for index, score in enumerate(commit.test[first : commit.version], start=first):
            if found := no_better(state, index, score):
                yield (
                    f"task {state.tasks[index].name}: nothing was learned: {found}. More steps (train.epochs, "
                    "train.min_steps) or another train.learning_rate may help; `orthoplex curves` shows how the loss "
                    "went"
                )


def no_better(state: RunState, index: int, score: Score) -> str | None:
    """The score of task `index` beside what it is no better than; None if it is better, or not known."""
    before = score_at(state.untrained, index)
    accuracy, loss = score.accuracy(), score.nll()
    if loss is not None:
        nll = before.nll() if before else None
        worse = nll is not None and loss >= nll
        return f"nll {loss:.3f} on its test rows, {nll:.3f} untrained" if worse else None
    floors = state.tasks[index].floors
    untrained, floor = before.accuracy() if before else None, floors.best if floors else None
    known = [each for each in (untrained, floor) if each is not None]
    if accuracy is None or not known or accuracy > max(known) or max(known) >= 1:
        return None
    beside = [f"{points(untrained)} untrained"] if untrained is not None else []
    beside += [f"{points(floor)} without a model"] if floor is not None else []
    return f"{points(accuracy)} on its test rows, {' and '.join(beside)}"


def full_budgets(state: RunState) -> Iterator[str]:
    """A sentence if every layer kept its full budget in some tasks: why, and what to change."""
    try:
        settings = state.completed().adapter if state.commits else None
    except ConfigError:
        return
    full = [commit for commit in state.commits if is_full(commit)]
    if not full or not isinstance(settings, AdapterConfig):
        return
    named = "every task" if len(full) == len(state.commits) else ", ".join(commit.task for commit in full)
    yield f"every layer kept its full budget in {named}: {why_full(settings, full)}"


def is_full(commit: Committed) -> bool:
    """Whether all layers have r_max dimensions."""
    return bool(commit.budget) and all(each.rank >= each.max_rank for each in commit.budget.values())


def why_full(settings: AdapterConfig, full: Sequence[Committed]) -> str:
    """Why, as far as the thresholds tell, and what to change."""
    if settings.threshold == 0:
        return "adapter.threshold 0 stays 0, which keeps all; --set adapter.threshold=0.2 lets layers choose"
    if settings.min_rank >= settings.max_rank:
        return f"adapter.min_rank {settings.min_rank} keeps all; lower it to let layers choose"
    tau = fmean(abs(each.tau) for commit in full for each in commit.budget.values())
    moved = f"τ went from {settings.threshold:.3f} to {tau:.3f} on average"
    if tau < settings.threshold:
        return (
            f"{moved}, so the loss asked for every dimension. A higher adapter.max_rank gives it more; a higher "
            "adapter.budget_weight or adapter.threshold asks for less"
        )
    return (
        f"{moved}, and no |g| fell below it. More steps (train.epochs), a higher adapter.threshold or a higher "
        "adapter.budget_weight switches dimensions off"
    )
