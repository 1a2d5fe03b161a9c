"""What stands out in a run's state: tasks that learned nothing, and budgets that nothing bounded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from cluster.errors import ConfigError
from orchestrator.track.events import Committed, Floors
from orchestrator.track.metrics import points
from orchestrator.track.state import Matrix, RunState
from trainers.method_config import AdapterConfig


def notes(state: RunState) -> list[str]:
    """Sentences for people, each with what to change; none if nothing stands out."""
    return [*learned_nothing(state), *full_budgets(state)]


def learned_nothing(state: RunState) -> Iterator[str]:
    """A sentence per task whose score on its test rows, right after it was trained, is not better than before, or than
    without a model. One that nothing can be better than says nothing."""
    scored = Scored.of(state)
    for commit in state.commits:
        first = 0 if state.joint else commit.version - 1
        for index in range(first, commit.version):
            if found := scored.no_better(commit.version - 1, index):
                yield (
                    f"task {state.tasks[index].name}: nothing was learned: {found}. More steps (train.epochs, "
                    "train.min_steps) or another train.learning_rate may help; `orthoplex curves` shows how the loss "
                    "went"
                )


@dataclass(frozen=True)
class Scored:
    """What is known of all tasks' test rows, read once: the matrices, the untrained model, floors."""

    accuracies: Matrix
    losses: Matrix
    untrained: Sequence[float | None]
    untrained_losses: Sequence[float | None]
    floors: Sequence[Floors | None]

    @classmethod
    def of(cls, state: RunState) -> "Scored":
        """That of a run."""
        floors = [task.floors for task in state.tasks]
        return cls(state.matrix("test"), state.losses("test"), state.zero_shot, state.zero_shot_losses, floors)

    def no_better(self, row: int, index: int) -> str | None:
        """The score of task `index` in a row of the matrix beside what it is no better than; None if it is better, or
        not known."""
        accuracy, loss = self.accuracies[row][index], self.losses[row][index]
        if loss is not None:
            before = self.untrained_losses[index]
            worse = before is not None and loss >= before
            return f"nll {loss:.3f} on its test rows, {before:.3f} untrained" if worse else None
        floors = self.floors[index]
        untrained, floor = self.untrained[index], floors.best if floors else None
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
