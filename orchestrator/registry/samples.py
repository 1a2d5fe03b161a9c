"""Answers that a run keeps, row by row: what was answered before and after each later task."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster.errors import ConfigError, KeyAbsentError
from cluster.words import did_you_mean
from orchestrator.log.chain import READERS
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from trainers.data.answers import ANSWERS, KeptAnswer, read_answers
from trainers.data.generative.config import GenerativeTask
from trainers.data.sources import listed

KEEP = "evaluate.keep_answers"


@dataclass(frozen=True, kw_only=True)
class Given:
    """An answer to a row by the version `ref`, when the stream had learned `learned` tasks, last of all `after`; None
    of the untrained model. `metrics` has the primary one first. It was cut after `cut` tokens; None if it ended."""

    learned: int
    after: str | None
    ref: str | None
    answer: str
    metrics: dict[str, float]
    cut: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row of a task's test split, and the answers to it, the oldest first."""

    task: str
    row: int
    prompt: str
    references: tuple[str, ...]
    answers: tuple[Given, ...]

    def change(self, since: int) -> float:
        """The primary metric of the last answer less that of the first one after `since` tasks."""
        first = next(each for each in self.answers if each.learned >= since)
        then, now = (next(iter(each.metrics.values()), 0.0) for each in (first, self.answers[-1]))
        return now - then


def samples(track: Track, state: RunState, task: str) -> list[Sample]:
    """The rows of a task whose answers are kept, in the order of its test split.

    Raises:
        ConfigError: there is no such task, it is not generative, or no answers to it are kept.
        IntegrityError: a file is missing or differs from its manifest.
    """
    names = [each.name for each in state.tasks]
    if task not in names:
        hint = did_you_mean(task, names) or f"it has {listed(names)}"
        raise ConfigError(f"--task {task!r}: {state.label} has no such task; {hint}")
    index, order = names.index(task), metrics_of(state, task)
    scored = [commit for commit in state.standing if answered(commit, index)]
    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda commit: kept(track, commit), scored))
    rows: dict[int, list[tuple[KeptAnswer, Given]]] = {}
    for commit, answers in zip(scored, files, strict=True):
        for each in answers:
            if each.task == task:
                rows.setdefault(each.row, []).append((each, given(state, commit, each, order)))
    if not scored:
        raise ConfigError(
            f"--task {task!r}: {state.label} has not scored its test split, and answers to test rows alone are kept; a "
            "trial of a sweep is scored on validation splits alone: train its configuration as a run of its own"
        )
    if not rows:
        raise ConfigError(
            f"--task {task!r}: {state.label} keeps no answers to it; set {KEEP} above 0 in its configuration, and the "
            "tasks that are trained from then on keep them"
        )
    return [
        Sample(
            task=task, row=row, prompt=found[0][0].prompt, references=found[0][0].references,
            answers=tuple(each for _, each in found),
        )
        for row, found in sorted(rows.items())
    ]  # fmt: skip


def metrics_of(state: RunState, task: str) -> tuple[str, ...]:
    """The metrics of a task, the primary one first; none if the log holds no configuration. Raises ConfigError if the
    task is not generative."""
    if not state.config:
        return ()
    (found,) = (each for each in state.completed().tasks if each.name == task)
    if not isinstance(found, GenerativeTask):
        raise ConfigError(
            f"--task {task!r}: it is answered with one of its label words, and only generated answers are kept; "
            f"{generative(state)}"
        )
    return found.scored_by


def generative(state: RunState) -> str:
    """The generative tasks of a run, in words."""
    names = [each.name for each in state.completed().tasks if isinstance(each, GenerativeTask)]
    return f"{state.label} generates those to {listed(names)}" if names else f"{state.label} has no generative task"


def answered(commit: Committed, index: int) -> bool:
    """Whether the test split of task `index` was scored with a commit. A fork's file may have answers to other tasks,
    of its source."""
    return any(index < len(row) and row[index].rows for row in (commit.zero_shot, commit.test))


def kept(track: Track, commit: Committed) -> list[KeptAnswer]:
    """The answers beside a version; none if it has none."""
    try:
        (data,) = track.committed(commit, ANSWERS)
    except KeyAbsentError:
        return []
    return read_answers(data)


def given(state: RunState, commit: Committed, answer: KeptAnswer, order: tuple[str, ...]) -> Given:
    """An answer that was kept with a commit."""
    names = sorted(answer.metrics, key=lambda name: order.index(name) if name in order else len(order))
    return Given(
        learned=answer.learned,
        after=commit.task if answer.learned else None,
        ref=state.reference(commit) if answer.learned else None,
        answer=answer.answer,
        metrics={name: answer.metrics[name] for name in names},
        cut=answer.cut,
    )


def striking(track: Track, state: RunState, most: int) -> Iterator[Sample]:
    """Of each of the first `most` generative tasks the row whose primary metric changed most after the task was
    learned; before that, if nothing was learned after it. Nothing of tasks without kept answers."""
    for index, task in enumerate(state.completed().tasks[: state.learned]):
        if not isinstance(task, GenerativeTask) or most < 1:
            continue
        try:
            found = samples(track, state, task.name)
        except ConfigError:
            continue
        since = index + 1 if index + 1 < state.learned else 0
        compared = [each for each in found if sum(answer.learned >= since for answer in each.answers) > 1]
        if compared:
            most -= 1
            row = max(compared, key=lambda each: abs(each.change(since)))
            yield Sample(**{**vars(row), "answers": tuple(each for each in row.answers if each.learned >= since)})
