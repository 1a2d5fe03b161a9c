"""What the controller and the workers say to each other.

No message is stored as an object, but the controller copies the values of many into the store, so what they mean must
not change:

- `TaskDone`: into the run's `commit` entry, the task's manifest, or both; each `Score` as {"correct", "rows"}, and
  {"metrics", "interval", "macro_f1"} if it has some.
- `Started`: `workers` and `seconds` into the `workers` entry.
- `Progress`: `index`, `phase`, `step` and `total_steps` into `renew` entries; the figures go to the sinks.
- `Checkpointed`: its `told` into the next `renew` entry.
- `Lost`: `kind`, and `reason` as part of a longer one, into the `retry` entry.
- `Failed`: `message` and `evidence` into the entry that ends the run's driver.
- `Order`: `identity` into the checkpoint of the task in training.

`Saved`, `Said`, `TaskRows` and `Job` are in transit only. Workers also write every event to their log files, which Ray
keeps and the store does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.storage import FileRecord
from trainers.any_method import AnyMethod
from trainers.config import DeepSpeedConfig, ModelConfig, OwnTraining, TrainConfig
from trainers.data.generative.config import GenerativeTask
from trainers.data.prompts import Prompt
from trainers.identity import Identity


@dataclass(frozen=True)
class TaskRows:
    """One task as workers get it.

    `labels` are the label words; for an objective other than classification they may be all its answers. `splits` has
    texts and label indices per split. `prompt` is put around every text. `objective` is a key of
    `trainers.objectives.known.OBJECTIVES`. `max_length` is the task's own, if it has one.
    """

    name: str
    labels: tuple[str, ...]
    splits: dict[str, tuple[list[str], list[int]]]
    prompt: Prompt
    objective: str = "classification"
    max_length: int | None = None


@dataclass(frozen=True, eq=False)
class GenerativeRows:
    """One generative task as workers get it: its configuration, and per split a table of rows in their plain form, see
    `trainers.data.generative.preparing`."""

    name: str
    task: GenerativeTask
    fingerprint: str
    splits: dict[str, Any]
    objective: str = "generation"


@dataclass(frozen=True)
class Job:
    """Everything a worker needs that does not change between tasks.

    `run` is team/name. `tasks` are references to `TaskRows` and `GenerativeRows`, or to tasks which are token ids
    already (`trainers.models.tokens`). `base` is a reference to the base in Ray's object store
    (`trainers.models.packed`). If it is None, each worker loads the base from its files. So does ZeRO 3 always, since
    no worker holds the whole base. `folder` has those files, see `trainers.folders.for_workers`; None if `model.name`
    is enough.
    """

    run: str
    model: ModelConfig
    adapter: AnyMethod
    train: TrainConfig
    deepspeed: DeepSpeedConfig
    store_uri: str
    tasks: tuple[Any, ...]
    base: Any = None
    folder: str | None = None


@dataclass(frozen=True)
class Vouched:
    """A stored checkpoint: the steps done, the sha256 of its bytes, and that of its identity (`Order.identity` and the
    base). The log names it, so that another one in its place is told from it."""

    step: int
    sha256: str
    of: str


@dataclass(frozen=True)
class Order:
    """Train task `index`, in `accumulation` micro-batches per update.

    `history` holds one reference per committed task, to the bytes of its files in Ray's object store, in the order of
    `MethodConfig.files`. A worker reads those that it does not hold already, and checks them against `digests`, their
    sha256. `version_root` is the key prefix under which a fresh folder is written. `checkpoint` is the key of the
    checkpoint of the task in training. A checkpoint that is there is resumed from if its identity equals `identity`.
    With `zero_shot`, every task is scored on its test split before training. After training, the tasks with the indices
    `validation` are scored on their validation splits, and those of `test` on their test splits, on at most `rows` rows
    each. Of a generative task's test split, `keep_answers` rows are kept with their answers. `keep_rows` also keeps the
    scores of single rows. With `union`, test splits of tasks that are learned are also scored among the labels of all
    of these. `macro_f1` asks for that of classification tasks. `job` is the run to train for, if it is not the one that
    the workers were started for. `base` is the base that the history was trained on. `training` are the task's own
    values in place of those of `Job.train`. `vouched` is the checkpoint that the log names, None if it names none; with
    `only_vouched` no other one is resumed from.
    """

    index: int
    accumulation: int
    version_root: str
    history: tuple[Any, ...]
    digests: tuple[tuple[str, ...], ...]
    checkpoint: str
    identity: dict[str, Any]
    zero_shot: bool
    validation: Sequence[int]
    test: Sequence[int]
    job: Job | None = None
    base: Identity = field(default_factory=Identity)
    rows: int | None = None
    keep_answers: int = 0
    keep_rows: bool = False
    union: bool = False
    macro_f1: bool = False
    training: OwnTraining | None = None
    vouched: Vouched | None = None
    only_vouched: bool = False


@dataclass(frozen=True)
class Progress:
    """How far task `index` is, from rank 0. `loss` is the mean over the loss terms of the last effective batch; the
    penalties `orthogonality` and `functional` are without their weights. `tokens_per_s` is over all ranks since the
    last report, `gpu_bytes` the most that rank 0 has had on its GPU. What is not measured is NaN."""

    index: int
    phase: str
    step: int
    total_steps: int
    loss: float = float("nan")
    orthogonality: float = float("nan")
    overlap: float = float("nan")
    mean_rank: float = float("nan")
    functional: float = float("nan")
    tokens_per_s: float = float("nan")
    gpu_bytes: float = float("nan")


@dataclass(frozen=True)
class Score:
    """`correct` rows among the `rows` that were scored of one split; none were if `rows` is 0.

    Of a generative task, `correct` is the sum of its primary metric over the rows, and None if that metric is not from
    0 to 1. `metrics` has the mean of each of its metrics. `interval` has the bounds of the 95% interval of the primary
    one, or of the nll per token if that judges the task, see `trainers.objectives.intervals`. `macro_f1` is that of a
    classification task, if the order asks for it.
    """

    correct: float | None
    rows: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    macro_f1: float | None = None

    @property
    def value(self) -> float:
        """The share of correct rows, the mean of the primary metric, or the nll per token of a task judged by it."""
        return nll_of(self.metrics) if self.correct is None else self.correct / self.rows


def nll_of(metrics: Mapping[str, float]) -> float:
    """The nll per token among the metrics of a task that is judged by its loss, from its perplexity if need be."""
    return metrics["nll"] if "nll" in metrics else math.log(metrics["perplexity"])


NOT_SCORED = Score(None, 0)


@dataclass(frozen=True)
class TaskDone:
    """Task `index` is trained, and the tasks that its order names are scored; `validation` and `test` have a score per
    task up to the last of these, NOT_SCORED for others. Its `files` are stored under the key `prefix`, but are not
    committed yet. `base_digest`, `tokenizer` and `base_config` tell its base, see `trainers.identity`. `kept` has the
    fields of `methods.base.Kept`. `union` are the scores of test splits among the labels of all tasks learned, none if
    the order did not ask for them. `functional` is the functional penalty of the last step, if there is one.
    `trained_rows` has the rows that were trained on by task, if they are not the task's
    own alone."""

    index: int
    prefix: str
    files: list[FileRecord]
    base_digest: str
    budget: dict[str, dict[str, float]]
    overlap: float | None
    occupancy: dict[str, dict[str, float]]
    angles: list[dict[str, float]]
    active_parameters: int
    validation: list[Score]
    test: list[Score]
    zero_shot: list[Score] | None
    cost: dict[str, float] = field(default_factory=dict)
    tokenizer: dict[str, str] = field(default_factory=dict)
    base_config: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] | None = None
    union: list[Score] = field(default_factory=list)
    trained_rows: dict[str, int] = field(default_factory=dict)
    functional: float | None = None


@dataclass(frozen=True)
class Started:
    """`workers` workers have started. `began` is when rank 0 began to work (Unix time); `seconds` are those that it
    spent per activity since."""

    workers: int
    began: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint of task `index`, of `total_steps` steps, is stored."""

    index: int
    total_steps: int
    told: Vouched


@dataclass(frozen=True)
class Said:
    """A line for the user, of what a worker has decided."""

    line: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint of task `index` was stored at `step` because the driver is leaving; the workers are leaving too."""

    index: int
    step: int


@dataclass(frozen=True)
class Lost:
    """The worker group broke; Ray starts another, which waits for an order. `kind` is `out_of_memory` or `workers`."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """A worker met an error that a retry does not mend. `message` is for the user, `evidence` for the run's log.

    `workers` says what becomes of the group. If all ranks met the same error, they `stay` for the next order; else a
    new group is started (`restart`). A group that cannot start, or has ended, is `gone`.
    """

    message: str
    exit_code: int
    evidence: dict[str, Any] = field(default_factory=dict)
    workers: Literal["stay", "restart", "gone"] = "restart"


Watched = Started | Progress | Checkpointed | Said  # what a driver follows a task by
Event = Started | Progress | Checkpointed | Said | Saved | TaskDone | Lost | Failed
