"""What a version can answer, read from its log alone: its tasks, their label words and prompts. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.errors import ConfigError, DataError
from cluster.storage import Store
from cluster.words import did_you_mean
from orchestrator.config.run import RunConfig
from orchestrator.registry.references import Version, find_track, resolve
from orchestrator.track.events import TaskDescription
from orchestrator.track.state import replay
from trainers.data.examples import SourceRow
from trainers.data.generative.asking import asking, asking_text
from trainers.data.generative.config import AnyTask, FormatTask, GenerativeTask
from trainers.data.generative.rows import RowFault, written
from trainers.data.prompts import Prompt, prompt_for
from trainers.data.sources import ColumnsTask, listed

Asked = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]  # a text, turns of a conversation, or a row as read


@dataclass(frozen=True, kw_only=True)
class Known:
    """A task that a version has learned, number `index` of its stream from 0."""

    index: int
    task: AnyTask
    description: TaskDescription

    @property
    def generative(self) -> bool:
        """Whether it is answered with a text of the model's own, not with one of its labels."""
        return isinstance(self.task, GenerativeTask)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Label words, and what is around a text that is to get one. `index` is that of the task; None for the words of all
    tasks."""

    index: int | None
    words: tuple[str, ...]
    prompt: Prompt
    max_length: int | None


@dataclass(frozen=True)
class Repertoire:
    """The tasks of the stream up to a version."""

    version: Version

    @cached_property
    def run(self) -> RunConfig:
        """The run's configuration."""
        return self.version.state.completed()

    @cached_property
    def tasks(self) -> Mapping[str, Known]:
        """The tasks learned so far by name, in order; all of them if they were trained at once."""
        state, configured = self.version.state, {task.name: task for task in self.run.tasks}
        described = {task.name: task for task in state.tasks}
        names = [*described] if state.joint else [commit.task for commit in self.version.stream]
        return {
            name: Known(index=index, task=configured[name], description=described[name])
            for index, name in enumerate(names)
            if name in configured
        }

    @cached_property
    def classifying(self) -> list[Known]:
        """The tasks that are answered with labels."""
        return [known for known in self.tasks.values() if not known.generative]

    def asked(self, name: str | None, *, union: bool) -> Known | None:
        """The task that is asked; None for the labels of all tasks. Raises ConfigError as `choose` and `union`, or if
        both are given."""
        if not union:
            return self.choose(name)
        if name is not None:
            raise ConfigError(f"task {name!r}: union chooses from the labels of all tasks; give one of them")
        self.union()
        return None

    def choose(self, name: str | None) -> Known:
        """The task of that name. Without a name: the only one; or, if all have the same labels and prompt and the run's
        method answers all tasks alike, the newest.

        Raises:
            ConfigError: there is no such task, or several could be meant.
        """
        if name is not None and name not in self.tasks:
            raise ConfigError(f"task {name!r}: {self.reference} has learned no such task; {self._hint(name)}")
        if name is not None:
            return self.tasks[name]
        known = [*self.tasks.values()]
        if not known:
            raise ConfigError(f"{self.reference}: its log describes no task; only versions of runs can answer")
        if len(known) > 1 and not self._alike(known):
            ways = "name the one that is asked: --task NAME (in Python task=NAME)"
            if len(self.classifying) > 1 and not self.run.adapter.needs_task:
                ways = (
                    "name the one that is asked, or choose over the union of their labels: --task NAME, or --union "
                    "(in Python task=NAME, or union=True)"
                )
            raise ConfigError(f"task: {self.reference} has learned {listed(self.tasks)}; {ways}")
        return known[-1]

    def labels_of(self, known: Known) -> Labels:
        """The labels of a task. Raises ConfigError if it is generative, or the log does not hold them."""
        task, words = known.task, known.description.labels
        if known.generative:
            raise ConfigError(f"task {task.name!r}: it generates answers, and has no labels; {self._classifying()}")
        if not words:
            raise ConfigError(f"task {task.name!r}: the log of {self.reference} does not hold its labels")
        prompt = prompt_for(self.run.model.prompt, task, words)
        return Labels(index=known.index, words=words, prompt=prompt, max_length=task.max_length)

    def union(self) -> Labels:
        """The labels of all tasks that have some, each once.

        Raises:
            ConfigError: no task has labels, or texts are put to the model in another way for each task.
        """
        if not self.classifying:
            raise ConfigError(f"union: {self.reference} has learned no task with labels")
        if self.run.adapter.needs_task:
            raise ConfigError(
                f"union: {self.reference} answers each task with an adapter of its own ({self.run.adapter.method}), so "
                "that the task must be known; name it"
            )
        words = tuple(dict.fromkeys(word for known in self.classifying for word in known.description.labels))
        ways = [
            (prompt_for(self.run.model.prompt, each.task, words), each.task.max_length) for each in self.classifying
        ]
        if len({*ways}) > 1:
            raise ConfigError(
                f"union: the tasks of {self.reference} put texts to the model in different ways (model.prompt, "
                "instruction or max_length), so that the task must be known; name it"
            )
        prompt, max_length = ways[0]
        return Labels(index=None, words=words, prompt=prompt, max_length=max_length)

    @property
    def reference(self) -> str:
        """team/run@vN."""
        return self.version.reference

    def _alike(self, known: Sequence[Known]) -> bool:
        if self.run.adapter.needs_task or any(each.generative for each in known):
            return False
        ways = [self.labels_of(each) for each in known]
        return len({(way.words, way.prompt, way.max_length) for way in ways}) == 1

    def _hint(self, name: str) -> str:
        return did_you_mean(name, self.tasks) or f"it has {listed(self.tasks) or 'none'}"

    def _classifying(self) -> str:
        names = [known.task.name for known in self.classifying]
        return f"labels have {listed(names)}" if names else "use `generate`"


def version_of(store: Store, reference: str) -> Version:
    """The version that team/run@vN or team/run@ALIAS names; the newest one that stands of a run that is named alone.

    Raises:
        ConfigError: there is no such run, version or alias, or the run has no version.
    """
    if "@" in reference:
        return resolve(store, reference)
    track = find_track(store, reference)
    entries = track.entries()
    state = replay(track.team, track.name, entries)
    if not state.standing:
        raise ConfigError(f"ADAPTER {reference!r}: {state.label} has committed no task yet")
    return Version(track=track, entries=entries, state=state, commit=state.standing[-1])


def text_column(task: AnyTask) -> str:
    """The column of a text in rows of a classification task."""
    return task.text_column if isinstance(task, ColumnsTask) else "text"


def label_column(task: AnyTask) -> str:
    """The column of the right label."""
    return task.label_column if isinstance(task, ColumnsTask) else "label"


def columns_of(task: AnyTask) -> dict[str, str]:
    """Which columns of the data stand for those of a generative task's format, as far as they have other names."""
    return dict(task.columns) if isinstance(task, FormatTask) else {}


def generative(known: Known) -> GenerativeTask:
    """The task, which generates answers. Raises ConfigError if it does not."""
    if not isinstance(known.task, GenerativeTask):
        raise ConfigError(f"task {known.task.name!r}: it chooses one of its labels, and generates nothing")
    if known.task.form == "text":
        raise ConfigError(f"task {known.task.name!r}: it was trained on plain text, which asks nothing")
    return known.task


def source_row(known: Known, columns: Mapping[str, str], where: str, number: int, asked: Asked) -> SourceRow:
    """What a generative task is asked, in its plain form; `columns` says which columns of a row have other names than
    the format gives them. Raises DataError if it does not fit the format; the message names the row and the fix."""
    form = generative(known).form
    try:
        if isinstance(asked, str):
            values = asking_text(form, asked)
        elif isinstance(asked, Mapping):
            values = asking(form, columns, asked)
        else:
            values = asking("messages", {}, {"messages": [*asked]})
    except RowFault as fault:
        raise DataError(f"task {known.task.name}: {where} row {number}: {fault.found}; {fault.fix}") from None
    return SourceRow(where, number, written(values))
