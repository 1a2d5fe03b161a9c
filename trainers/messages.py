"""What the controller and the workers say to each other through the feed. In transit only; nothing here is stored."""

from dataclasses import dataclass, field
from typing import Any

from cluster.storage import FileRecord


@dataclass(frozen=True)
class Order:
    """Train task `index`.

    `history` holds one reference a committed task, to its (adapter, bases) bytes in Ray's object store; a worker reads
    those it does not hold already. `version_root` is the key prefix under which a fresh folder is written.
    """

    index: int
    version_root: str
    history: tuple[Any, ...]
    zero_shot: bool


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
    """Task `index` is trained, evaluated on every task, and its files stand under `prefix`; not yet committed."""

    index: int
    prefix: str
    files: list[FileRecord]
    base_digest: str
    budget: dict[str, dict[str, float]]
    overlap: float
    active_parameters: int
    validation: list[Score]
    test: list[Score]
    zero_shot: list[Score] | None
    cost: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A worker met an error that a retry does not mend; `message` is for the user."""

    message: str
    exit_code: int


Event = Progress | TaskDone | Failed
