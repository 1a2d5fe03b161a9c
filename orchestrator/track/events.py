"""What a track's log says: one frozen model per operation.

A log entry's body is stored as JSON. This module is the only place that knows its keys: everything else reads and
writes these models. `body` gives back exactly what was given, byte for byte, so a model may gain optional fields and
old entries still round-trip. Keys that a model does not know are kept.

    start open fork workers retry commit renew finish stop interrupt fail     a run's driver
    promote rollback                                                          people who move aliases
    orphans abort delete index                                                the garbage collector, and listing
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from cluster.errors import IntegrityError, StoreError
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry

Number = int | float  # as it was written: 1 stays 1, and 1.0 stays 1.0
Json = Mapping[str, JsonValue]


class Part(BaseModel):
    """Part of a body. Keys that it does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class Event(Part):
    """One operation. `lease` is the seq of the `start` entry under which a driver wrote it, `decisions` are those that
    were taken since the entry before."""

    op: ClassVar[str]
    lease: int | None = None
    decisions: tuple[Decision, ...] = ()

    def body(self) -> dict[str, Any]:
        """The body as it is stored: the fields that were given, and no others."""
        return self.model_dump(mode="json", exclude_unset=True)

    def under(self, lease: int | None) -> Self:
        """The same event, written under a lease."""
        return self.model_copy(update={"lease": lease})


class Process(Part):
    """The process that drives. `space` names the process table that knows `pid`, empty if that cannot be told;
    `started` is when the process began, in that kernel's ticks."""

    host: str
    pid: int
    space: str
    started: int


class Start(Event):
    """A driver took the log up. It holds the log for `lease_s` seconds after it was heard last."""

    op = "start"
    versions: dict[str, str]
    driver: Process
    lease_s: Number
    cluster: Json = {}


class RowCounts(Part):
    """Rows of each split."""

    train: int = 0
    validation: int = 0
    test: int = 0


class TaskDescription(Part):
    """A task's data: label words in order, digest of its rows, rows per split, and what was left out."""

    name: str
    labels: tuple[str, ...] = ()
    fingerprint: str = ""
    rows: RowCounts = RowCounts()
    warnings: tuple[str, ...] = ()


class Open(Event):
    """What is about to run: the configuration, and a description of each task's data."""

    op = "open"
    config: Json
    tasks: tuple[TaskDescription, ...]


class Fork(Event):
    """The run begins as the first `tasks` tasks of `source` (team/track)."""

    op = "fork"
    source: str
    tasks: int
    described: tuple[TaskDescription, ...]


class Workers(Event):
    """A worker group is there; `seconds` is what its start took, by cause."""

    op = "workers"
    workers: int
    seconds: dict[str, Number]


class Retry(Event):
    """The worker group broke while task `index` was trained, and the task goes on."""

    op = "retry"
    index: int
    reason: str
    kind: str


class Score(Part):
    """Correct rows among `rows` of one split."""

    correct: int
    rows: int


class ModuleBudget(Part):
    """The budget that one module chose: r_eff, r_max and τ."""

    rank: Number
    max_rank: Number
    tau: Number


class Occupancy(Part):
    """How full a module's bases are, as shares of its width; dimensions left; energy that was dropped."""

    written: Number
    read: Number
    free: Number
    dropped: Number


class Cost(Part):
    """Seconds of training and of evaluation, on so many workers."""

    train_s: Number
    evaluate_s: Number = 0
    workers: Number = 1


class Commit(Event):
    """One task, whole: adapter, new directions, scores, budget and cost.

    A run's driver gives every field. A version that `publish` adds has only those without a default. `zero_shot` is in
    a run's first commit alone; `forked_from` (team/run@vN) says where a copy comes from.
    """

    op = "commit"
    version: int
    task: str
    prefix: str
    manifest_sha256: str
    stored_bytes: int
    index: int | None = None
    base_digest: str = ""
    active_parameters: int = 0
    overlap: Number | None = None
    budget: dict[str, ModuleBudget] = {}
    occupancy: dict[str, Occupancy] = {}
    validation: tuple[Score, ...] = ()
    test: tuple[Score, ...] = ()
    zero_shot: tuple[Score, ...] = ()
    cost: Cost | None = None
    forked_from: str | None = None


class Position(Part):
    """Where a task in training stands."""

    index: int
    phase: str
    step: int
    total_steps: int


class Renew(Event):
    """The driver is alive."""

    op = "renew"
    progress: Position | None = None


class Ending(Event):
    """How a driver left. `status` is what the run is from then on."""

    status: ClassVar[Literal["finished", "stopped", "interrupted", "failed"]]
    reason: str | None = None
    evidence: Json = {}


class Finish(Ending):
    """All is done."""

    op, status = "finish", "finished"


class Stop(Ending):
    """A guard stopped it."""

    op, status = "stop", "stopped"


class Interrupt(Ending):
    """Ctrl-C or SIGTERM."""

    op, status = "interrupt", "interrupted"


class Fail(Ending):
    """An error."""

    op, status = "fail", "failed"


class Move(Event):
    """An alias is pointed at a version. `expect` is the seq of the entry that moved it last, 0 if none did."""

    alias: str
    version: int
    expect: int
    why: str = ""


class Promote(Move):
    """Forward, within the bounds of revision `rules_revision` of the team's rules."""

    op = "promote"
    rules_revision: int = 0


class Rollback(Move):
    """Back to the version before."""

    op = "rollback"


class Orphans(Event):
    """No commit names these prefixes."""

    op = "orphans"
    prefixes: tuple[str, ...]


class Abort(Event):
    """These prefixes are collected: no later commit may name them."""

    op = "abort"
    prefixes: tuple[str, ...]


class Delete(Event):
    """Versions that somebody took away, and their prefixes."""

    op = "delete"
    versions: tuple[int, ...]
    prefixes: tuple[str, ...] = ()
    why: str = ""


class Index(Event):
    """An index of the entries up to `upto` has this digest."""

    op = "index"
    upto: int
    index_sha256: str


ENDINGS: tuple[type[Ending], ...] = (Finish, Stop, Interrupt, Fail)
DRIVEN: tuple[type[Event], ...] = (Start, Open, Fork, Workers, Retry, Commit, Renew, *ENDINGS)
ASIDE: tuple[type[Event], ...] = (Promote, Rollback, Orphans, Abort, Delete, Index)
KINDS: dict[str, type[Event]] = {kind.op: kind for kind in (*DRIVEN, *ASIDE)}

E = TypeVar("E", bound=Event)
_parsed: WeakKeyDictionary[Entry, Event] = WeakKeyDictionary()


def parse(entry: Entry, kind: type[E]) -> E:
    """The entry's body as an event; it is parsed once per entry.

    Raises:
        IntegrityError: a key is missing or has another type.
    """
    found = _parsed.get(entry)
    if not isinstance(found, kind):
        try:
            found = _parsed[entry] = kind.model_validate(entry.body)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "body"
            raise IntegrityError(
                f"entry {entry.seq} ({entry.op}): {key}: {first['msg']}; do not use this log, or restore a backup of it"
            ) from None
    return found


def lease_of(entry: Entry, default: int | None) -> int | None:
    """The lease under which an entry was written; `default` if it names none."""
    lease: int | None = entry.body.get("lease", default)
    return lease


def events(entries: Sequence[Entry], *kinds: type[E]) -> Iterator[tuple[Entry, E]]:
    """The entries of these operations, each with its event, in order. Others are not parsed."""
    by_op = {kind.op: kind for kind in kinds}
    for entry in entries:
        if (kind := by_op.get(entry.op)) is not None:
            yield entry, parse(entry, kind)


def unknown(entries: Sequence[Entry], known: Mapping[str, type[Event]] = KINDS) -> list[Entry]:
    """The entries whose operation this version does not know."""
    return [entry for entry in entries if entry.op not in known]


def refuse_unknown(label: str, entries: Sequence[Entry], known: Mapping[str, type[Event]] = KINDS) -> None:
    """Raises StoreError if the log of `label` holds an operation that this version does not know.

    Readers skip such entries. Who writes on top of them must know what they mean.
    """
    for entry in unknown(entries, known):
        raise StoreError(f"{label}: entry {entry.seq} ({entry.op}) was written by a newer Orthoplex; upgrade")
