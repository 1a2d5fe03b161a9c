"""A run's configuration: YAML → frozen models, every error at once with its path, its value and the likely fix."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from cluster.errors import ConfigError
from cluster.resources import ClusterConfig
from cluster.schema import STORED, Grown
from cluster.storage import DEFAULT_STORE, open_store
from orchestrator.config.bounds import READS_ACCURACY, BoundsConfig
from orchestrator.config.errors import Yaml, described, refuse_unusable
from orchestrator.config.file import override, read_mapping
from orchestrator.config.policies import check_policies
from orchestrator.sinks.config import TrackingConfig
from trainers.any_method import AnyMethod
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.sources import listed
from trainers.data.tasks import DataConfig

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
MOST_FLOPS = 1e32  # of a base's training; a millionfold of the largest known


class GuardConfig(BoundsConfig):
    """Bounds that a run's tasks must keep, judged before each is committed, see `BoundsConfig`."""


class EvaluateConfig(Grown):
    """What is scored after a task, see `orchestrator.run.evaluation`.

    `tasks` is `all` or `seen`, those learned so far. A whole row is scored after every `every`-th task and after the
    last. `rows` are scored at most per split, the same each time; null is all. Of a generative task, `keep_answers`
    test rows are kept with their answers; 0 keeps none. `keep_rows` keeps the score of every row that is scored, see
    `trainers.data.row_scores`. With `labels: both`, the test splits of tasks that are learned are also scored among the
    labels of all tasks learned; no decision reads these scores. `macro_f1` also keeps that of classification tasks.
    """

    added: ClassVar[tuple[str, ...]] = ("keep_rows", "labels", "macro_f1")

    tasks: Literal["all", "seen"] = "all"
    every: Annotated[int, Field(gt=0)] = 1
    rows: Annotated[int, Field(gt=0)] | None = None
    keep_answers: Annotated[int, Field(ge=0)] = 50
    keep_rows: bool = False
    labels: Literal["own", "both"] = "own"
    macro_f1: bool = False


class CostConfig(Grown):
    """What a GPU costs per hour, to say what a run costs; and the floating-point operations that the base's own
    training took (`base_flops`), to say which share of them a run takes. Nothing else depends on either."""

    added: ClassVar[tuple[str, ...]] = ("base_flops",)

    gpu_hour: Annotated[float, Field(ge=0)] | None = None
    currency: Annotated[str, Field(min_length=1, max_length=8)] = "USD"
    base_flops: Annotated[float, Field(gt=0, le=MOST_FLOPS)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "CostConfig":
        if self.gpu_hour is None and self.base_flops is None:
            raise ValueError("give cost.gpu_hour, the price of a GPU for an hour, or cost.base_flops")
        return self


class RunConfig(Grown):
    """One run: a stream of tasks over one frozen model, written to one track `<team>/<name>` of a store."""

    added: ClassVar[tuple[str, ...]] = ("evaluate", "cost")

    name: Name
    team: Name = "default"
    store: Annotated[str, Field(validate_default=True)] = DEFAULT_STORE
    data_dir: str | None = None
    model: ModelConfig = ModelConfig()
    adapter: AnyMethod
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    cluster: ClusterConfig = ClusterConfig()
    guards: GuardConfig = GuardConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tracking: TrackingConfig = TrackingConfig()
    cost: CostConfig | None = None
    tasks: tuple[AnyTask, ...]

    @field_validator("tasks")
    @classmethod
    def _unique_names(cls, tasks: tuple[AnyTask, ...]) -> tuple[AnyTask, ...]:
        if not tasks:
            raise ValueError("name at least one task")
        repeated = sorted(name for name, count in Counter(task.name for task in tasks).items() if count > 1)
        if repeated:
            raise ValueError(f"task names must differ; repeated: {listed(repeated)}")
        return tasks

    @model_validator(mode="after")
    def _quantised_stays_untouched(self) -> "RunConfig":
        if self.model.quantization and (not self.adapter.takes_quantised or self.deepspeed.zero_stage == 3):
            raise ValueError(
                f"model.quantization {self.model.quantization}: its weights can be neither folded into nor shared out; "
                "use adapter.method oa with adapter.history concatenated, and deepspeed.zero_stage 2 or less"
            )
        return self

    @model_validator(mode="after")
    def _answers_need_a_language_model(self) -> "RunConfig":
        generative = [task for task in self.tasks if isinstance(task, GenerativeTask)]
        if generative and self.model.task_type == "LABEL_EMBEDDING":
            raise ValueError(
                f"model.task_type LABEL_EMBEDDING: it generates no text, and task {generative[0].name} is generative; "
                "use a CAUSAL_LM or SEQ_2_SEQ_LM"
            )
        return self

    @model_validator(mode="after")
    def _guards_have_something_to_read(self) -> "RunConfig":
        for key in self.guards.asks(READS_ACCURACY):
            if all(self.by_loss):
                raise ValueError(
                    f"guards.{key} {getattr(self.guards, key)}: all tasks are judged by their loss (the first of "
                    "`metrics` is nll or perplexity) and have no accuracy; use guards.max_nll_increase"
                )
        if self.guards.max_nll_increase is not None and not any(self.by_loss):
            raise ValueError(
                f"guards.max_nll_increase {self.guards.max_nll_increase}: no task is judged by its loss; use "
                "guards.max_forgetting, or put nll first in the `metrics` of a task"
            )
        return self

    @model_validator(mode="after")
    def _method_knows_the_stage(self) -> "RunConfig":
        if self.deepspeed.zero_stage > (most := self.adapter.most_zero_stage):
            raise ValueError(
                f"deepspeed.zero_stage {self.deepspeed.zero_stage}: adapter.method {self.adapter.method} "
                "works on layers of the base as a whole, and stage 3 has shared them out before that; "
                f"set deepspeed.zero_stage to {most} or less"
            )
        return self

    @model_validator(mode="after")
    def _tasks_fit_the_cluster(self) -> "RunConfig":
        for index, task in enumerate(self.tasks):
            try:
                self.cluster.with_resources(task.resources)
            except ValueError as error:
                raise ValueError(f"tasks.{index}.resources: {error}") from None
        return self

    @model_validator(mode="after")
    def _training_fits_together(self) -> "RunConfig":
        for index in range(len(self.tasks)):
            try:
                self.training_of(index)
            except ValueError as error:
                raise ValueError(f"tasks.{index}.training: {error}") from None
        return self

    @model_validator(mode="after")
    def _policies_fit(self, info: ValidationInfo) -> "RunConfig":
        if info.context != STORED:  # a run that was begun before there was one of these rules stays readable
            check_policies(self)
        return self

    @property
    def stages(self) -> range:
        """The tasks after whose training something is committed, from 0: all, or the last one if all are trained at
        once."""
        return range(len(self.tasks) - 1 if self.train.joint else 0, len(self.tasks))

    def trained_rows(self, sizes: Sequence[int], index: int) -> int:
        """The rows that are trained on in stage `index`; `sizes` are the training rows of each task."""
        return sum(sizes) if self.train.joint else sizes[index] + self.replayed_rows(sizes, index)

    def replayed_rows(self, sizes: Sequence[int], index: int) -> int:
        """The rows of earlier tasks among them, if a share of them is replayed."""
        replay = self.train.replay
        return sum(replay.rows(size) for size in sizes[:index] if replay)

    def training_of(self, index: int) -> TrainConfig:
        """The `train` section with the own values of task `index`."""
        return self.train.with_own(self.tasks[index].training)

    @field_validator("store")
    @classmethod
    def _known_store(cls, store: str) -> str:
        try:
            return open_store(store).uri
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @property
    def by_loss(self) -> list[bool]:
        """For each task, whether its loss judges it, so that it has no accuracy."""
        return [isinstance(task, GenerativeTask) and task.by_loss for task in self.tasks]

    @property
    def data_folder(self) -> Path | None:
        """`data_dir`, else $ORTHOPLEX_DATA_DIR."""
        folder = self.data_dir or os.environ.get("ORTHOPLEX_DATA_DIR")
        try:
            return Path(folder).expanduser() if folder else None
        except RuntimeError:
            raise ConfigError(f"data_dir: {folder!r}: no such home folder; give another path") from None


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file and applies `a.b=value` overrides (values are YAML; list items by number).

    Raises:
        ConfigError: the file is absent or no YAML mapping, or any key or value is wrong. All errors are listed.
    """
    content = read_mapping(path)
    for assignment in overrides:
        override(content, assignment)
    return parse_config(content, str(path))


def parse_config(content: Mapping[str, Yaml], origin: str) -> RunConfig:
    """Validates a mapping; `origin` heads the error message.

    Raises:
        ConfigError: a key or value is wrong. All errors are listed, one line per error, as many as a message holds.
    """
    refuse_unusable(content, origin)
    errors: list[ErrorDetails] = []
    config = None
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        errors += error.errors(include_url=False)
    faults = described(RunConfig, errors, content)
    if config and not faults.lines:
        return config
    raise faults.error(origin)
