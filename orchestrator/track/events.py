"""The entries of a track's log: one frozen model per operation.

A log entry's body is stored as JSON. This module is the only place that knows its keys: everything else reads and
writes these models. `body` gives back exactly the body that was parsed, byte for byte. A model may therefore gain
optional fields, and old entries still round-trip. Unknown keys are kept.

    start open fork workers retry commit quarantine renew finish stop interrupt fail     a run's driver
    import                                                                    people who bring an adapter in
    those of `aside`                                                          people and housekeeping beside a driver
"""

from collections import Counter
from collections.abc import Container, Iterable
from typing import ClassVar, Literal, Self

from pydantic import Field, JsonValue

from cluster.errors import StoreError
from orchestrator.log.entry import Entry
from orchestrator.log.event import Count, Event, Int, Json, Number, Part
from orchestrator.track.aside import ASIDE, ASIDE_ROLES
from orchestrator.track.layout import VersionNumber
from orchestrator.track.scores import Score
from trainers.identity import Identity


class Process(Part):
    """The process that drives. `space` names the process table that knows `pid` (boot and namespace), empty if that
    cannot be told; `started` is when it began, in that kernel's ticks, so that a reused pid is another process."""

    host: str
    pid: Int
    space: str
    started: Int


class Start(Event):
    """A driver took the log up. It holds the log for `lease_s` seconds after it was heard last."""

    op = "start"
    versions: dict[str, str] = Field(default_factory=dict)
    driver: Process
    lease_s: Number
    cluster: Json = Field(default_factory=dict)


class RowCounts(Part):
    """Rows of each split."""

    train: Count = 0
    validation: Count = 0
    test: Count = 0


class Floors(Part):
    """What a task's primary metric gives without a model on `rows` test rows, by how the answers were made, see
    `trainers.objectives.floors`."""

    rows: Count
    scores: dict[str, Number] = Field(min_length=1)

    @property
    def best(self) -> float:
        """The floor: the highest of them."""
        return max(self.scores.values())


class AnswersTold(Part):
    """How a generative task is answered, beyond its configuration: answers have at most `max_new_tokens` tokens, and
    one of the token ids `ends` may end them. `template` is the text of the chat template that its configuration
    names."""

    max_new_tokens: Int
    ends: tuple[Int, ...] = ()
    template: str | None = None


class TaskDescription(Part):
    """A task's data: label words in order, digest of its rows, rows per split, and what was left out. `floors` are
    there unless the task is judged by its loss; older logs have none of classification tasks. A task that is answered
    with texts has `answers`, also except in older logs."""

    name: str
    labels: tuple[str, ...] = ()
    fingerprint: str = ""
    rows: RowCounts = RowCounts()
    warnings: tuple[str, ...] = ()
    floors: Floors | None = None
    answers: AnswersTold | None = None


class Open(Event):
    """The run that is about to begin: the configuration, and a description of each task's data."""

    op = "open"
    config: Json
    tasks: tuple[TaskDescription, ...]


class Fork(Event):
    """The run begins as the first `tasks` tasks of `source` (team/track)."""

    op = "fork"
    source: str
    tasks: Count
    described: tuple[TaskDescription, ...]


class Import(Event):
    """The run begins as an adapter from elsewhere, which has learned one task. `files` are the sha256 of what was read,
    `origin` says what wrote it: its folder's name, the base that it names, and the version of PEFT, if it says so."""

    op = "import"
    config: Json
    task: TaskDescription
    origin: dict[str, str]
    files: dict[str, str]


class Workers(Event):
    """A worker group is there. `seconds` are those of its start, by cause."""

    op = "workers"
    workers: Int
    seconds: dict[str, Number]


class Retry(Event):
    """The worker group broke while task `index` was trained, and the task goes on."""

    op = "retry"
    index: Int
    reason: str
    kind: str


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


class Kept(Part):
    """Share of the change by the stream's tasks that the rounded weights hold, over all layers and per layer."""

    overall: Number
    modules: dict[str, Number]


class Cost(Part):
    """Seconds of training and of evaluation, on `workers` workers. The rows that were trained on had `tokens` tokens,
    in all passes together and without padding; `base_parameters` read them, and `trained_parameters` learned. Older
    logs have none of the last three."""

    train_s: Number
    evaluate_s: Number = 0
    workers: Number = 1
    tokens: Count | None = None
    base_parameters: Count | None = None
    trained_parameters: Count | None = None

    @property
    def total_s(self) -> Number:
        """Of training and evaluation."""
        return self.train_s + self.evaluate_s


class Learned(Part):
    """The facts of a task that are known before its files are stored. A run's driver gives every field.

    A figure that was not measured is None, or empty. `index` counts tasks from 0; `overlap` is a share;
    `active_parameters` counts the parameters that the budget left. `zero_shot` is in a run's first commit alone.
    `union` has the scores on test splits among the labels of all tasks learned, if these were asked for. `trained_rows`
    has the rows that were trained on by task, if they are not the task's own alone.
    `forked_from` (team/run@vN) is the source of a copy. `tokenizer` is the sha256 of each file of the base's tokenizer,
    `base_config` what its config.json says about computing (`trainers.architecture`). `kept` is there if tasks are
    folded into weights in bfloat16, `functional`, the penalty of the last step, if the method has it.
    `decisions_sha256` is the digest of the task's `decisions.parquet` (`trainers.training.decisions`); older logs, and
    methods that decide nothing per module, have none.
    """

    task: str
    index: Count | None = None
    base_digest: str | None = None
    tokenizer: dict[str, str] = Field(default_factory=dict)
    base_config: dict[str, JsonValue] = Field(default_factory=dict)
    active_parameters: Count | None = None
    overlap: Number | None = None
    budget: dict[str, ModuleBudget] = Field(default_factory=dict)
    occupancy: dict[str, Occupancy] = Field(default_factory=dict)
    validation: tuple[Score, ...] = ()
    test: tuple[Score, ...] = ()
    zero_shot: tuple[Score, ...] = ()
    union: tuple[Score, ...] = ()
    trained_rows: dict[str, Count] = Field(default_factory=dict)
    cost: Cost | None = None
    kept: Kept | None = None
    forked_from: str | None = None
    functional: Number | None = None
    decisions_sha256: str | None = None

    @property
    def base(self) -> Identity:
        """The base that it was trained on."""
        return Identity(self.base_digest, self.tokenizer, self.base_config)


class Placed(Learned):
    """One task, whole: `Learned`, its number in the track, and the place, manifest and size of its files."""

    version: VersionNumber
    prefix: str
    manifest_sha256: str
    stored_bytes: Count


class Commit(Placed, Event):
    """The task is the next version."""

    op = "commit"

    @classmethod
    def placed(
        cls, learned: Learned, *, version: int, prefix: str, manifest_sha256: str, stored_bytes: int
    ) -> "Commit":
        """The commit of these facts."""
        place = {"version": version, "prefix": prefix, "manifest_sha256": manifest_sha256}
        return cls.model_validate({**learned.model_dump(exclude_unset=True), **place, "stored_bytes": stored_bytes})


class Numbered(Event):
    """An event with the number of its entry and when that was written."""

    seq: Int = Field(exclude=True)
    time: str = Field(exclude=True)

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """See Event."""
        return cls.model_validate({**entry.body, "seq": entry.seq, "time": entry.time})


class Committed(Commit, Numbered):
    """A commit as it stands in the log."""


class Quarantine(Placed, Event):
    """The task would be the next version, but a guard stopped it: `decisions` say which. The versions and aliases stay
    as they are, and so do its files. `identity` is the digest of what its training depended on (`Order.identity`): a
    driver that would train the same commits the files instead, once the bounds let it."""

    op = "quarantine"
    identity: str

    @classmethod
    def instead(cls, commit: Commit, identity: str) -> "Quarantine":
        """Of what would have been committed so."""
        return cls.model_validate({**commit.model_dump(exclude_unset=True), "identity": identity})


class Quarantined(Quarantine, Numbered):
    """A quarantine as it stands in the log."""

    @property
    def commit(self) -> Commit:
        """The commit of its files."""
        left_out = {"identity", "seq", "time", "lease", "decisions"}
        return Commit.model_validate(self.model_dump(exclude_unset=True, exclude=left_out))


class CheckpointTold(Part):
    """The checkpoint that was stored last of the task in training, see `trainers.messages.Vouched`."""

    step: Count
    sha256: str
    of: str


class Position(Part):
    """The position of a task in training, and its functional penalty then, if the method has one."""

    index: Count
    phase: str
    step: Count
    total_steps: Count
    functional: Number | None = None
    checkpoint: CheckpointTold | None = None


class Renew(Event):
    """The driver is alive."""

    op = "renew"
    progress: Position | None = None


class Ending(Event):
    """How a driver left. `status` is what the run is from then on."""

    status: ClassVar[Literal["finished", "stopped", "interrupted", "failed"]]
    reason: str | None = None
    evidence: Json = Field(default_factory=dict)


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


class Rules(Event):
    """A team's rules, whole; see `orchestrator.track.rules.TeamRules`. They stand in a log of their own."""

    op = "rules"
    rules: JsonValue
    why: str = ""


ENDINGS: tuple[type[Ending], ...] = (Finish, Stop, Interrupt, Fail)
DRIVEN: tuple[type[Event], ...] = (Start, Open, Fork, Import, Workers, Retry, Commit, Quarantine, Renew, *ENDINGS)
AS_WRITTEN: dict[str, type[Event]] = {Commit.op: Committed, Quarantine.op: Quarantined}
KINDS: dict[str, type[Event]] = {**{kind.op: kind for kind in (*DRIVEN, *ASIDE)}, **AS_WRITTEN}
KNOWN = frozenset(KINDS)
ROLES = {**ASIDE_ROLES, Rules.op: "admin"}


def unknown(entries: Iterable[Entry], known: Container[str] = KNOWN) -> list[Entry]:
    """The entries whose operation this version does not know."""
    return [entry for entry in entries if entry.op not in known]


def skipped(entries: Iterable[Entry], known: Container[str] = KNOWN) -> str | None:
    """A note on the entries that a reader leaves out; None if it knows all."""
    counts = Counter(entry.op for entry in unknown(entries, known))
    if not counts:
        return None
    shown = ", ".join(f"{op} ×{count}" for op, count in sorted(counts.items()))
    return f"entries of a newer Orthoplex are left out ({shown}); upgrade to see them"


def refuse_unknown(label: str, entries: Iterable[Entry], known: Container[str] = KNOWN) -> None:
    """Raises StoreError if the log of `label` holds an operation that this version does not know.

    Readers skip such entries. A writer must know their meaning before it writes on top of them.
    """
    for entry in unknown(entries, known):
        raise StoreError(f"{label}: entry {entry.seq} ({entry.op}) was written by a newer Orthoplex; upgrade")
