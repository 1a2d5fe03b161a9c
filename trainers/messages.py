"""What the controller and the workers say to each other. In transit only; nothing here is stored."""

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.storage import FileRecord
from trainers.config import AnyMethod, DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.data.prompts import Prompt


@dataclass(frozen=True)
class TaskRows:
    """One task as workers get it: label words; per split, texts and label indices; what stands around a text; and the
    name of its objective, see `trainers.objectives.known`. To another objective labels may be all its answers."""

    name: str
    labels: tuple[str, ...]
    splits: dict[str, tuple[list[str], list[int]]]
    prompt: Prompt
    objective: str = "classification"


@dataclass(frozen=True)
class Job:
    """Everything a worker needs that does not change between tasks.

    `run` is team/name. `tasks` are references to `TaskRows`, or to tasks which are token ids already
    (`trainers.models.tokens.TokenizedTask`). `base` is a reference to the base in the object store
    (`trainers.models.packed`); None has each worker load it from its files, as ZeRO 3 always does, where no worker
    holds it whole. `folder` is where
    those are, see `trainers.folders.for_workers`; None if `model.name` says it.
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
class Order:
    """Train task `index`, in `accumulation` micro-batches an update.

    `history` holds one reference per committed task, to the bytes of its files in Ray's object store, in the order of
    `MethodConfig.files`; a worker reads those it does not hold already, and checks them against `digests`, their
    sha256. `version_root` is the key prefix under which a fresh folder is written, `checkpoint` the key of the task in
    training; one found there is resumed from if its identity is equal to `identity`. Before training every task is
    scored on the test split with `zero_shot`; after it the first `validation` and the first `test` tasks are on those
    splits. `job` is the run to train for, if it is another than the one that the workers were started for.
    """

    index: int
    accumulation: int
    version_root: str
    history: tuple[Any, ...]
    digests: tuple[tuple[str, ...], ...]
    checkpoint: str
    identity: dict[str, Any]
    zero_shot: bool
    validation: int
    test: int
    job: Job | None = None


@dataclass(frozen=True)
class Progress:
    """Where task `index` stands, from rank 0. `loss` is the mean over the rows of the last effective batch."""

    index: int
    phase: str
    step: int
    total_steps: int
    loss: float = float("nan")
    orthogonality: float = float("nan")
    overlap: float = float("nan")
    mean_rank: float = float("nan")


@dataclass(frozen=True)
class Score:
    """Correct rows among `rows` of one split."""

    correct: int
    rows: int


@dataclass(frozen=True)
class TaskDone:
    """Task `index` is trained, evaluated on the tasks its order names, and its files stand under `prefix`; not yet
    committed."""

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


@dataclass(frozen=True)
class Started:
    """`workers` workers are there; `began` is when rank 0 came to life (Unix time), `seconds` what it then spent on
    what."""

    workers: int
    began: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Saved:
    """Task `index` was kept at `step` because the driver is leaving; the workers are leaving too."""

    index: int
    step: int


@dataclass(frozen=True)
class Lost:
    """The worker group broke; Ray starts another, which waits for an order. `kind` is `out_of_memory` or `workers`."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """A worker met an error that a retry does not mend; `message` is for the user, `evidence` for the log.

    `workers`: where all ranks met it alike they `stay` for the next order; else Ray starts a new group (`restart`);
    `gone` is a group that cannot start, or ended.
    """

    message: str
    exit_code: int
    evidence: dict[str, Any] = field(default_factory=dict)
    workers: Literal["stay", "restart", "gone"] = "restart"


Event = Started | Progress | Saved | TaskDone | Lost | Failed
