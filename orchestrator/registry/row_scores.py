"""Row scores that a run keeps (`evaluate.keep_rows`), as they are compared between runs: by a paired bootstrap, for
instance."""

from cluster.errors import ConfigError, KeyAbsentError
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState, Split, replay, scores_of
from orchestrator.track.track import Track
from trainers.data.row_scores import ROWS, RowScores, read_row_scores

KEEP = "evaluate.keep_rows"


def row_scores(track: Track, split: Split = "test", learned: int | None = None) -> dict[str, RowScores]:
    """The scores of single rows by the task's name, of every task that was scored on a split after `learned` tasks;
    None is all that are committed, 0 the untrained model.

    Two runs over the same data have the same rows of a task, if `evaluate.rows` and `train.seed` are the same.

    Raises:
        ConfigError: nothing was learned, or no rows were kept then; the message says how they are.
        IntegrityError: the file was changed.
    """
    state = replay(track.team, track.name, track.entries())
    after = state.learned if learned is None else learned
    commit = holding(state, after)
    try:
        (data,) = track.committed(commit, ROWS)
    except KeyAbsentError:
        raise ConfigError(
            f"{state.label}: no row scores are kept with {state.reference(commit)}; set {KEEP}: true, and tasks "
            "trained from then on have them"
        ) from None
    row = scores_of(commit, split) if after else commit.zero_shot if split == "test" else ()
    own = {task.name for task, score in zip(state.tasks, row, strict=False) if score.rows}  # a fork's file has others
    kept = [each for each in read_row_scores(data) if (each.split, each.learned) == (split, after)]
    return {each.task: each for each in kept if each.task in own}


def holding(state: RunState, learned: int) -> Committed:
    """The commit that the scores after so many tasks were stored with."""
    found = [each for each in state.commits[: None if learned else 1] if learned in (0, each.version)]
    if not found:
        raise ConfigError(
            f"{state.label}: has learned {state.learned} tasks; there are no scores after {learned} of them"
        )
    return state.version(found[0].version)
