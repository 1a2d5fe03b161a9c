"""The controller's way to workers. A run has its own; the trials of a sweep share a pool."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from cluster.resources import ClusterConfig
from cluster.session import ray_session
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import digest
from orchestrator.run.evaluation import Scored, scored
from orchestrator.run.signals import stop_signals
from orchestrator.track.events import AnswersTold, Floors, RowCounts, TaskDescription
from orchestrator.track.state import RunState
from trainers.config import ModelConfig
from trainers.data.generative.config import GenerativeTask
from trainers.data.prompts import prompt_for
from trainers.data.tasks import TaskData
from trainers.folders import for_workers, model_folder
from trainers.identity import Identity, digests_again, settings_of
from trainers.messages import Job, Order, TaskDone, Watched
from trainers.workers.group import WorkerGroup

if TYPE_CHECKING:
    from torch import nn

    from trainers.models.base import Backbone
    from trainers.models.tokens import Rows, TaskExamples, Tokenized

Say = Callable[[str], None]
Check = Callable[[], None]


class Group(Protocol):
    """Workers that are there, or on their way."""

    cluster: ClusterConfig

    def train(self, order: Order, on_event: Callable[[Watched | None], None]) -> TaskDone:
        """As `WorkerGroup.train`."""


class Workers(Protocol):
    """The requests of a controller, in this order."""

    def check(self) -> None:
        """Raises ConfigError if the model cannot be adapted as the configuration says."""

    def describe(self) -> list[TaskDescription]:
        """Reads the tasks' data, after `check`, and describes them as the log keeps it, see `describe_data`.

        Raises:
            ConfigError: as `check_tasks`. DataError: as `load_tasks`.
        """

    def session(self) -> AbstractContextManager[Check]:
        """A connection to Ray; what it yields raises Interrupted if the driver is told to leave."""

    def share(self, files: tuple[bytes, ...]) -> Any:
        """A committed task's files as an item of `Order.history`, for all later orders. Called inside the session."""

    def group(self, job: Job, cluster: ClusterConfig, check: Check) -> AbstractContextManager[Group]:
        """Workers for the job, inside the session; `check` is called while they are waited for."""

    def scored(self, index: int) -> Scored:
        """The evaluations of task `index`: `zero_shot`, `validation` and `test` of its `Order`."""


class OwnWorkers:
    """Ray Train worker groups of the run's own."""

    def __init__(self, config: RunConfig, say: Say) -> None:
        self.config, self.say = config, say
        self.folder = model_folder(config.model.name)
        self.tasks: list[Rows | Tokenized] = []
        self.rows: tuple[Any, ...] = ()

    def check(self) -> None:
        """See Workers."""
        _ = self.model

    @cached_property
    def model(self) -> "nn.Module":
        """The model without weights, checked with the method over it."""
        from trainers.methods.registry import check_method

        return check_method(self.config.model, self.config.adapter, self.config.train)[0]

    def describe(self) -> list[TaskDescription]:
        """See Workers."""
        from trainers.models.checks import not_asked_for

        if note := not_asked_for(self.config.model, self.model.config):
            self.say(f"note: {note}")
        data = load_tasks(self.config, self.say)
        reader, self.tasks = check_tasks(self.config, data, self.model)
        return with_answers(self.config, describe_tasks(self.config, data), self.tasks, reader)

    @contextmanager
    def session(self) -> Iterator[Check]:
        """See Workers."""
        import ray

        with ray_session(self.config.cluster), stop_signals(self.say) as stop:
            self.rows = tuple(map(ray.put, self.tasks))
            yield stop

    def share(self, files: tuple[bytes, ...]) -> Any:
        """See Workers: in Ray's object store."""
        import ray

        return ray.put(files)

    def group(self, job: Job, cluster: ClusterConfig, check: Check) -> AbstractContextManager[Group]:
        """See Workers."""
        import ray

        self.say(f"starting {cluster.num_workers} worker{'s' if cluster.num_workers.max > 1 else ''}")
        if shortage := cluster.shortage(ray.cluster_resources()):
            self.say(f"waiting for the cluster to grow: {shortage}")
        held = replace(job, tasks=self.rows, folder=for_workers(self.folder))
        return WorkerGroup(held, cluster, check)

    def scored(self, index: int) -> Scored:
        """See `orchestrator.run.evaluation`."""
        return scored(self.config, index)


def load_tasks(config: RunConfig, say: Say) -> list[TaskData]:
    """Every task's data. A warning says what was left out of it."""
    from trainers.objectives.known import OBJECTIVES

    data = [
        OBJECTIVES[task.objective].prepare(task, config.data, config.data_folder, config.train.seed)
        for task in config.tasks
    ]
    for task in data:
        for warning in task.warnings:
            say(f"warning: {warning}")
    return data


def check_tasks(
    config: RunConfig, data: Sequence[TaskData], model: "nn.Module"
) -> "tuple[Backbone, list[Rows | Tokenized]]":
    """Checks the tasks' texts and label words against tokenizer and model, as `plan`, `run` and `sweep` do before any
    worker starts. `model` is the one without weights that `check_method` gives. Returns it with its tokenizer, and the
    tasks as workers get them.

    Raises:
        ConfigError: a token that is needed is not in the model, or a task's words or rows are not fit for it.
    """
    from trainers.models.loading import load_reader
    from trainers.objectives.known import OBJECTIVES

    reader = load_reader(config.model, model)
    every = [*all_rows(config, data)]
    for rows in every if config.evaluate.labels == "both" else ():
        OBJECTIVES[rows.objective].check_among(reader, rows, [other for other in every if other is not rows])
    return reader, [OBJECTIVES[rows.objective].check(reader, rows) for rows in every]


def base_now(state: RunState, model: ModelConfig) -> Identity:
    """The tokenizer and the configuration on this machine, as far as the run's log has some to compare them with."""
    begun = state.base
    if not begun.tokenizer and not begun.config:
        return Identity()
    from trainers.models.loading import read_tokenizer, resolve_name

    where = resolve_name(model.name), model.revision
    now = digests_again(*where, begun.tokenizer)
    same = begun.tokenizer and now == begun.tokenizer
    return Identity(None, read_tokenizer(model) if same else now, settings_of(*where) if begun.config else {})


def describe_tasks(config: RunConfig, data: Sequence[TaskData]) -> list[TaskDescription]:
    """The descriptions of all tasks, with the floors of those that are not judged by their loss."""
    from trainers.objectives.floors import floors_of

    described = []
    for task, rows in zip(config.tasks, data, strict=True):
        found = floors_of(task, rows)
        floors = {"floors": Floors(rows=found.rows, scores=dict(found.scores))} if found else {}
        described.append(describe_data(rows).model_copy(update=floors))
    return described


def with_answers(
    config: RunConfig, described: Sequence[TaskDescription], made: "Sequence[Rows | Tokenized]", reader: "Backbone"
) -> list[TaskDescription]:
    """The descriptions of all tasks; those of tasks that are answered with texts say how, as `made` shows it."""
    from trainers.models.tokens import TaskExamples

    return [
        each.model_copy(update={"answers": told_of(task, rows, reader)})
        if isinstance(task, GenerativeTask) and isinstance(rows, TaskExamples) and task.form != "text"
        else each
        for each, task, rows in zip(described, config.tasks, made, strict=True)
    ]


def told_of(task: GenerativeTask, made: "TaskExamples", base: "Backbone") -> AnswersTold:
    """How a generative task is answered, by its rows as tokens. `ends` are those of its test split, which is scored."""
    from trainers.data.generative.chat import find_template
    from trainers.objectives.generation import most_generated

    told = AnswersTold(max_new_tokens=most_generated(made), ends=made.splits["test"].counts.ends)
    template = find_template(task.name, task.chat_template, base.tokenizer) if task.chat_template else None
    return told if template is None else told.model_copy(update={"template": template})


def describe_data(task: TaskData) -> TaskDescription:
    """The description of a task's data in the form that the log keeps."""
    return TaskDescription(
        name=task.name,
        labels=task.labels,
        fingerprint=task.fingerprint,
        rows=RowCounts(train=len(task.train), validation=len(task.validation), test=len(task.test)),
        warnings=task.warnings,
    )


def describe_joint(tasks: Sequence[TaskDescription]) -> TaskDescription:
    """The description of all tasks as one, as the commit of a joint training has it."""
    sums = {split: sum(getattr(task.rows, split) for task in tasks) for split in RowCounts.model_fields}
    told = digest("\n".join(task.fingerprint for task in tasks).encode())
    return TaskDescription(name="joint", labels=(), fingerprint=told, rows=RowCounts(**sums), warnings=())


def all_rows(config: RunConfig, data: Sequence[TaskData]) -> Iterator["Rows"]:
    """Every task's rows as workers get them."""
    from trainers.objectives.known import OBJECTIVES

    for task, loaded in zip(config.tasks, data, strict=True):
        yield OBJECTIVES[task.objective].rows(task, loaded, prompt_for(config.model.prompt, task, loaded.labels))
