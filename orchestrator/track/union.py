"""Scores on test splits if a label is chosen among those of all tasks learned so far (`evaluate.labels: both`), as
commits hold them beside the scores among each task's own labels. No decision reads them.

A row of the matrix has what was scored after a task, of the tasks learned until then; labels become more from row to
row. BWT and forgetting therefore hold what further labels cost, beside what the model forgot.
"""

from collections.abc import Sequence

from orchestrator.log.entry import JsonLike
from orchestrator.track import metrics
from orchestrator.track.events import Committed
from orchestrator.track.scores import Score

MEASURED = ("aa", "aa_micro", "bwt", "forgetting", "learning_accuracy")


def union_view(commits: Sequence[Committed], rows: Sequence[int]) -> dict[str, JsonLike]:
    """`union` of `status --json`: {"matrix", "metrics"}, without it if nothing was scored so. `rows` are the test rows
    of each task."""
    if not any(commit.union for commit in commits):
        return {}
    return {"union": {"matrix": union_matrix(commits, len(rows)), "metrics": union_metrics(commits, rows)}}


def union_matrix(commits: Sequence[Committed], tasks: int) -> list[list[float | None]]:
    """The matrix of accuracies, tasks × tasks; None for what was not scored so."""
    return [[None if score is None else score.accuracy() for score in row] for row in scores_by_task(commits, tasks)]


def union_metrics(commits: Sequence[Committed], rows: Sequence[int]) -> dict[str, float | None]:
    """Metrics as fractions, after the last task after which all tasks so far were scored; None if not measured. FWT is
    not: a task that is not learned has no labels in the union."""
    done = next((each.version for each in reversed(commits) if each.union and _whole(each)), 0)
    scores = scores_by_task(commits, len(rows))[:done]
    matrix, counts = (
        [[None if score is None else read(score) for score in row] for row in scores]
        for read in (Score.accuracy, Score.counted)
    )
    alike = metrics.of_the_same_rows(matrix, counts, None)
    found = metrics.summary(matrix, [None] * len(rows), rows, alike)
    if done > len(commits):  # all tasks were learned at once
        found["learning_accuracy"] = found["aa"]
    return {key: found[key] for key in MEASURED}


def scores_by_task(commits: Sequence[Committed], tasks: int) -> list[list[Score | None]]:
    """Per number of tasks learned, the scores of each task; None for what is not there."""
    found = {commit.version: commit.union for commit in commits}
    every = [found.get(number, ()) for number in range(1, tasks + 1)]
    return [[*row, *[None] * (tasks - len(row))] for row in every]


def _whole(commit: Committed) -> bool:
    """Whether all tasks up to a commit were scored with it."""
    return all(score.rows for score in commit.test[: commit.version])
