"""The figures that bounds are compared with, from a run's state: validation scores, parameters, room and money."""

from orchestrator.gates.bounds import Measured
from orchestrator.gates.capacity import fullness
from orchestrator.track.metrics import best_before, of_the_same_rows
from orchestrator.track.spending import cost_of
from orchestrator.track.state import Matrix, RunState, score_at


def measured(state: RunState, *, last_whole: bool = False) -> Measured:
    """The figures after the newest task. What needs the scores of all tasks is None if not all were scored then; with
    `last_whole`, it is what it was when all tasks so far were scored last."""
    whole, by_loss, new = state.whole("validation"), state.of_loss, new_tasks(state)
    known = last_whole or whole >= state.learned
    found = state.metrics("validation") if known else {}
    worst = worst_forgotten(state) if known else None
    scores = [score_at(state.commits[-1].validation, index) for index in new - by_loss]
    own = [score.accuracy() if score else None for score in scores]
    config = state.readable_config()
    fullest = next(fullness(config.adapter.protection, state), None) if config else None
    return Measured(
        tasks=whole if last_whole else state.learned,
        average_accuracy=found.get("aa"),
        forgetting=found.get("forgetting"),
        active_parameters=state.active_parameters,
        by_loss=by_loss,
        nll_increase=state.loss_metrics("validation")["nll_increase"] if known else None,
        new=new,
        new_accuracy=min((each for each in own if each is not None), default=None) if None not in own else None,
        task_forgetting=worst[1] if worst else None,
        worst=state.tasks[worst[0]].name if worst else "",
        task_parameters=state.commits[-1].active_parameters if state.commits else None,
        capacity_left=1 - fullest.occupancy if fullest else None,
        fullest=fullest.shown if fullest else "",
        cost=cost_of(state),
        currency=config.cost.currency if config and config.cost else "",
    )


def new_tasks(state: RunState) -> frozenset[int]:
    """The tasks, from 0, that the last commit learned."""
    before = state.commits[-2].version if len(state.commits) > 1 else 0
    return frozenset(range(before, state.learned))


def compared(state: RunState) -> Matrix:
    """The rows of the validation matrix up to the last whole one, without scores of other rows than the last one's."""
    whole = state.whole("validation")
    matrix, counts = state.matrix("validation")[:whole], state.counts("validation")[:whole]
    return of_the_same_rows(matrix, counts, None)


def forgotten(state: RunState) -> dict[int, int]:
    """By each task, from 0, that can have been forgotten: the row, from 0, in which its score was best before the last
    whole one."""
    return places_of(compared(state))


def places_of(matrix: Matrix) -> dict[int, int]:
    """`forgotten` of these rows."""
    places = {j: best_before(matrix, j) for j in range(len(matrix) - 1) if matrix[-1][j] is not None}
    return {task: place for task, place in places.items() if place is not None}


def worst_forgotten(state: RunState) -> tuple[int, float] | None:
    """The task, from 0, that is forgotten most, and by how much; None if none can have been."""
    matrix = compared(state)
    lost = {task: _minus(matrix[place][task], matrix[-1][task]) for task, place in places_of(matrix).items()}
    return max(lost.items(), key=lambda item: item[1]) if lost else None


def _minus(a: float | None, b: float | None) -> float:
    assert a is not None and b is not None  # both are scored, see `forgotten`
    return a - b
