"""What a sweep's log says beside what any driver's log says: one frozen model per operation."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue

from orchestrator.log.event import Event, Index, Int, Json, Number
from orchestrator.sweeps.space import Scalar
from orchestrator.track.events import ENDINGS, Open, Renew, Start


class Pool(Event):
    """How many trials run at once, and on what."""

    op = "pool"
    slots: Number
    cluster: Json = Field(default_factory=dict)


class Trial(Event):
    """A point, before it is begun, and the name of its run."""

    op = "trial"
    number: Int
    values: Mapping[str, Scalar]
    run: str


class Outcome(Event):
    """How a trial ended and why, and what it measured after each task."""

    op = "outcome"
    number: Int
    status: Literal["running", "finished", "stopped", "failed"]
    reason: str | None = None
    rows: tuple[dict[str, Any], ...] = ()


class Choice(Event):
    """The front and the recommended point, and where their files are."""

    op = "choice"
    pareto: tuple[Int, ...] = ()
    recommended: Int | None = None
    reason: str | None = None
    importance: dict[str, dict[str, Number]] = Field(default_factory=dict)
    prefix: str = ""
    files: tuple[JsonValue, ...] = ()


KINDS: tuple[type[Event], ...] = (Start, Open, Renew, *ENDINGS, Pool, Trial, Outcome, Choice, Index)
KNOWN = frozenset(kind.op for kind in KINDS)
