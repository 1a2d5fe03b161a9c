"""The entries of a sweep's log: one frozen model per operation, beside those of a driver that any log has.

start open renew finish stop interrupt fail     the driver
pool trial outcome choice                       the sweep
index                                           listing
"""

from typing import Literal

from pydantic import Field

from orchestrator.log.event import Event, Index, Json, Number, Part
from orchestrator.sweeps.space import Scalar
from orchestrator.track.events import ENDINGS, Open, Renew, Start

Ended = Literal["finished", "stopped", "failed"]
TrialStatus = Literal["running", Ended]


class PoolSize(Event):
    """The number of trials that run at once, on workers of this cluster."""

    op = "pool"
    slots: int
    cluster: Json


class Point(Event):
    """A trial that is about to begin: its number from 1, its values by searched key, its run."""

    op = "trial"
    number: int
    values: dict[str, Scalar]
    run: str


class Row(Part):
    """The figures of a trial after `tasks` tasks, on the validation splits.

    AA, BWT and forgetting are fractions, None before the second task. `parameters` are the active ones of the whole
    stream. Seconds of training and evaluation are those so far, on `gpus` GPUs, a part of one if it was shared; tasks
    that were taken over from elsewhere cost nothing.
    """

    tasks: int
    aa: Number
    parameters: int
    bwt: Number | None
    forgetting: Number | None
    train_s: Number
    evaluate_s: Number
    gpus: Number


class Outcome(Event):
    """How a trial ended, and its rows in order of tasks."""

    op = "outcome"
    number: int
    status: Ended
    reason: str | None
    rows: tuple[Row, ...]


class StoredFile(Part):
    """A file of the result: see `cluster.storage.FileRecord`."""

    path: str
    size: int
    sha256: str


class Chosen(Event):
    """The front and the recommended trial (None if no trial meets the bounds), by number; why; what mattered.

    `importance` is by objective and key. The files of the result stand below `prefix`.
    """

    op = "choice"
    pareto: tuple[int, ...]
    recommended: int | None = None
    reason: str = ""
    importance: dict[str, dict[str, Number]] = Field(default_factory=dict)
    prefix: str = ""
    files: tuple[StoredFile, ...] = ()

    def same(self, other: "Chosen | None") -> bool:
        """Whether both say the same of the trials, wherever their files stand."""
        return other is not None and self._content() == other._content()

    def _content(self) -> tuple[object, ...]:
        return self.pareto, self.recommended, self.reason, self.importance


OPERATIONS: tuple[type[Event], ...] = (Start, Open, PoolSize, Point, Outcome, Chosen, Renew, *ENDINGS, Index)
KINDS = {kind.op: kind for kind in OPERATIONS}
KNOWN = frozenset(KINDS)
