"""What the rows at hand leave open of a figure: the paired bootstrap over the scores of single rows.

A run with `evaluate.keep_rows` has the score of each validation row after each task. What is drawn of a task are its
rows, so that two scores of the same rows are drawn together: of forgetting, the difference per row. Tasks are drawn
independently. The limits are one-sided quantiles of the figure over the draws: with confidence c, a bound is broken
only if the 1 − c quantile is above it (or, of an accuracy, the c quantile below it). Which earlier score is the best
one is taken as given. Of m tasks that are judged one by one, each is judged with 1 − (1 − c)/m (Bonferroni).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

from cluster.errors import KeyAbsentError
from orchestrator.config.bounds import READS_ACCURACY, BoundsConfig
from orchestrator.config.run import RunConfig
from orchestrator.gates.bounds import Noise
from orchestrator.gates.figures import forgotten, new_tasks
from orchestrator.track.events import Commit
from orchestrator.track.metrics import points
from orchestrator.track.state import RunState
from orchestrator.track.track import Track

if TYPE_CHECKING:
    import numpy as np

    from trainers.data.row_scores import RowScores

Kept = Callable[[Commit], "Mapping[str, RowScores]"]  # by task: the validation rows that were scored after a commit


def kept_rows(track: Track, split: str = "validation") -> Kept:
    """Reads row scores in a track's store; empty of a commit that has none. What was read is kept."""
    read: dict[str, Mapping[str, RowScores]] = {}

    def rows(commit: Commit) -> "Mapping[str, RowScores]":
        if commit.prefix not in read:
            read[commit.prefix] = _read(track, commit, split)
        return read[commit.prefix]

    return rows


def _read(track: Track, commit: Commit, split: str) -> "Mapping[str, RowScores]":
    from trainers.data.row_scores import ROWS, read_row_scores

    try:
        (data,) = track.committed(commit, ROWS)
    except KeyAbsentError:
        return {}
    asked = (split, commit.version)
    return {each.task: each for each in read_row_scores(data) if (each.split, each.learned) == asked}


def noise(bounds: BoundsConfig, state: RunState, kept: Kept) -> dict[str, Noise]:
    """By bound that is set, what the rows leave open of its figure; bounds are left out that `confidence` does not
    concern, or whose rows were not kept. Empty without `confidence`."""
    level = bounds.confidence
    if level is None or not state.commits:
        return {}
    rows = _Rows(state, kept)
    found: dict[str, Noise | None] = {}
    for key in bounds.asks(READS_ACCURACY):
        match key:
            case "min_average_accuracy":
                found[key] = of_mean(rows.of_accuracies(), level, least=0)
            case "min_new_accuracy":
                found[key] = least_of(rows.of_new_tasks(), level)
            case "max_forgetting":
                found[key] = of_mean(rows.of_forgetting(), level, least=-1)
            case "max_task_forgetting":
                found[key] = most_of(rows.of_forgetting(), level)
    return {key: each for key, each in found.items() if each}


class _Rows:
    """The rows that figures are means of; None if one that is needed was not kept."""

    def __init__(self, state: RunState, kept: Kept) -> None:
        self.state, self.kept = state, kept
        self.commits = {commit.version: commit for commit in state.commits}

    def _of(self, task: int, version: int) -> "RowScores | None":
        return self.kept(self.commits[version]).get(self.state.tasks[task].name)

    def _accuracies(self, tasks: Sequence[int], version: int) -> "list[np.ndarray] | None":
        found = [self._of(task, version) for task in tasks if task not in self.state.of_loss]
        return None if None in found else [each.values for each in found if each]

    def of_accuracies(self) -> "list[np.ndarray] | None":
        """Of all tasks, when all were scored last."""
        whole = self.state.whole("validation")
        return self._accuracies(range(whole), whole)

    def of_new_tasks(self) -> "list[np.ndarray] | None":
        """Of the tasks that were learned last."""
        return self._accuracies(sorted(new_tasks(self.state)), self.state.learned)

    def of_forgetting(self) -> "list[np.ndarray] | None":
        """Per task, best score minus last score, row by row."""
        whole = self.state.whole("validation")
        found: list[np.ndarray] = []
        for task, place in forgotten(self.state).items():
            best, last = self._of(task, place + 1), self._of(task, whole)
            if best is None or last is None or best.rows.tolist() != last.rows.tolist():
                return None
            found.append(best.values - last.values)
        return found


def of_mean(rows: "Sequence[np.ndarray] | None", level: float, least: float) -> Noise | None:
    """Of the mean over tasks of their means over rows; values are from `least` to 1."""
    import numpy as np

    from trainers.objectives.paired import drawn_means

    if not rows:
        return None
    drawn_B = np.mean([drawn_means(each, number, least) for number, each in enumerate(rows)], axis=0)
    low, high = np.quantile(drawn_B, [1 - level, level])
    return Noise(low=float(low), high=float(high), level=level)


def _each(rows: "Sequence[np.ndarray]", level: float, least: float) -> Iterator[Noise]:
    for each in rows:
        if found := of_mean([each], 1 - (1 - level) / len(rows), least):
            yield found


def most_of(rows: "Sequence[np.ndarray] | None", level: float) -> Noise | None:
    """Of the largest of the tasks' means over rows, which are from −1 to 1."""
    each = [*_each(rows, level, -1)] if rows else []
    return Noise(low=max(n.low for n in each), high=max(n.high for n in each), level=level) if each else None


def least_of(rows: "Sequence[np.ndarray] | None", level: float) -> Noise | None:
    """Of the smallest of the tasks' means over rows, which are from 0 to 1."""
    each = [*_each(rows, level, 0)] if rows else []
    return Noise(low=min(n.low for n in each), high=min(n.high for n in each), level=level) if each else None


def too_few_rows(config: RunConfig, validation: Sequence[int]) -> list[str]:
    """The guards of a run that its validation rows cannot resolve. `validation` are those of each task, of which
    `evaluate.rows` at most are scored; tasks that are judged by their loss do not count."""
    most = config.evaluate.rows
    counted = [rows for rows, by_loss in zip(validation, config.by_loss, strict=False) if not by_loss]
    return unresolvable(config.guards, [min(rows, most or rows) for rows in counted], "guards.")


def unresolvable(bounds: BoundsConfig, rows: Sequence[int], section: str = "") -> list[str]:
    """The bounds that so many validation rows of each task cannot resolve: even if twice as much as is allowed was
    forgotten, or answered wrongly, it would be within their noise. Empty without `confidence`.

    Of a share d of N rows that differ, the standard error is √(d (1 − d) / N) at the least; that of a mean over T
    tasks is √(Σ 1/N) / T times √(d (1 − d)).
    """
    if bounds.confidence is None or not rows or not all(rows):
        return []
    z = NormalDist().inv_cdf(bounds.confidence)
    means = ("min_average_accuracy", "max_forgetting")
    said = []
    for key in bounds.asks(READS_ACCURACY):
        bound: float = getattr(bounds, key)
        allowed = bound if key.startswith("max") else 1 - bound
        counted = [*rows] if key in means else [min(rows)]
        spread = sqrt(max(0.0, 2 * allowed * (1 - 2 * allowed)))
        margin = z * spread * sqrt(sum(1 / n for n in counted)) / len(counted)
        if margin > allowed + 1e-12:
            needed = (z * spread / allowed) ** 2 / len(counted)
            said.append(
                f"{section}{key} {bound:g}: the validation rows cannot resolve it: at {100 * bounds.confidence:g}%, "
                f"twice what it allows is within their noise, {points(margin)}; about {needed:,.0f} per task could"
            )
    return said
