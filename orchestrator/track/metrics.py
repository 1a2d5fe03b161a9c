"""Metrics of learning and forgetting, from a stream's accuracy matrix.

R[i][j] is the accuracy on task j after training task i, 0-based, a fraction; None if it was not evaluated. T tasks
are trained so far. Means leave None out, and are None if nothing is left. Sources: Lopez-Paz and Ranzato,
arXiv:1706.08840 (AA, BWT, FWT); Chaudhry et al., arXiv:1801.10112 (forgetting).
"""

from collections.abc import Sequence

Row = Sequence[float | None]


def points(fraction: float, decimals: int = 2) -> str:
    """A fraction in the unit that people read: 0.6125 is "61.25 points"."""
    return f"{100 * fraction:z.{decimals}f} points"


def average_accuracy(matrix: Sequence[Row]) -> float | None:
    """AA (macro) = 1/T · Σ_{j<T} R[T−1][j]; None before the first task."""
    return mean([matrix[-1][j] for j in range(len(matrix))]) if matrix else None


def micro_average_accuracy(matrix: Sequence[Row], rows: Sequence[int]) -> float | None:
    """AA (micro) = Σ_{j<T} n_j · R[T−1][j] / Σ_{j<T} n_j with n_j the rows of task j's split; None if all are 0."""
    if not matrix:
        return None
    scored = [(rows[j], value) for j, value in enumerate(matrix[-1][: len(matrix)]) if value is not None]
    total = sum(n for n, _ in scored)
    return sum(n * value for n, value in scored) / total if total else None


def backward_transfer(matrix: Sequence[Row]) -> float | None:
    """BWT = 1/(T−1) · Σ_{j<T−1} (R[T−1][j] − R[j][j]), not clipped; None for fewer than two tasks."""
    last = len(matrix) - 1
    return mean([_minus(matrix[last][j], matrix[j][j]) for j in range(last)])


def forgetting(matrix: Sequence[Row]) -> float | None:
    """F = 1/(T−1) · Σ_{j<T−1} (max_{j≤l<T−1} R[l][j] − R[T−1][j]); None for fewer than two tasks."""
    last = len(matrix) - 1
    places = [best_before(matrix, j) for j in range(last)]
    best = [None if place is None else matrix[place][j] for j, place in enumerate(places)]
    return mean([_minus(best[j], matrix[last][j]) for j in range(last)])


def best_before(matrix: Sequence[Row], task: int) -> int | None:
    """The first row, of those from the task's own to the last but one, in which the task's score is highest; None if it
    has no score in them."""
    scores = [(value, -i) for i, row in enumerate(matrix[:-1]) if i >= task and (value := row[task]) is not None]
    return -max(scores)[1] if scores else None


def forward_transfer(matrix: Sequence[Row], zero_shot: Row) -> float | None:
    """FWT = 1/(T−1) · Σ_{1≤j<T} (R[j−1][j] − z_j), z_j the untrained model's; None for fewer than two tasks."""
    return mean([_minus(matrix[j - 1][j], zero_shot[j]) for j in range(1, len(matrix))])


def learning_accuracy(matrix: Sequence[Row]) -> float | None:
    """LA = 1/T · Σ_{j<T} R[j][j], the mean accuracy on each task right after it was trained."""
    return mean([matrix[j][j] for j in range(len(matrix))])


def summary(
    matrix: Sequence[Row], zero_shot: Row, rows: Sequence[int], alike: Sequence[Row] | None = None
) -> dict[str, float | None]:
    """All of the above by their short names. `rows` holds the split's size per task. Differences are those of `alike`,
    the matrix without scores that are not of the rows that they are compared on; the matrix itself by default."""
    compared = matrix if alike is None else alike
    return {
        "aa": average_accuracy(matrix),
        "aa_micro": micro_average_accuracy(matrix, rows),
        "bwt": backward_transfer(compared),
        "forgetting": forgetting(compared),
        "fwt": forward_transfer(compared, zero_shot),
        "learning_accuracy": learning_accuracy(matrix),
    }


def loss_summary(losses: Sequence[Row], alike: Sequence[Row]) -> dict[str, float | None]:
    """Of tasks that are judged by their loss, from L[i][j], the nll per token of task j after task i, in nats.

    nll = mean of L[T−1][j] over those tasks; nll_increase = mean of L[T−1][j] − L[j][j] over those before the last,
    from `alike` as in `summary`.
    """
    return {"nll": average_accuracy(losses), "nll_increase": backward_transfer(alike)}


def of_the_same_rows(matrix: Sequence[Row], counts: Sequence[Row], zero_counts: Row | None) -> list[list[float | None]]:
    """The matrix without scores that are compared with one of other rows: on and below the diagonal with the last score
    of the task, above it with the untrained model's. `counts[i][j]` and `zero_counts[j]` are the rows of each score;
    without the latter, nothing above the diagonal is left out."""

    def same(i: int, j: int) -> bool:
        if i >= j:
            return counts[i][j] == counts[-1][j]
        return zero_counts is None or counts[i][j] == zero_counts[j]

    return [[value if same(i, j) else None for j, value in enumerate(row)] for i, row in enumerate(matrix)]


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what was measured, None if nothing was."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
