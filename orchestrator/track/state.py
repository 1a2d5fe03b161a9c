"""The state of a run: a pure function of its track's log, see `events`.

Entries of the garbage collector count too: no `commit` stands if an earlier `abort` names its files, and `delete`
removes versions. Other entries of non-drivers do not count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar

from cluster.errors import ConfigError, IntegrityError
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import Entry
from orchestrator.log.event import Decided, Event, Json, decided, events
from orchestrator.track import metrics
from orchestrator.track.aside import Abort, Delete
from orchestrator.track.driving import Counting, Drivers, Driving
from orchestrator.track.driving import Status as DrivingStatus
from orchestrator.track.events import Commit, Committed, Fork, Import, Open, Quarantined, TaskDescription
from orchestrator.track.intervals import half_widths
from orchestrator.track.scores import Score
from trainers.identity import Identity
from trainers.objectives.intervals import Bounds

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
Matrix = list[list[float | None]]
V = TypeVar("V")
Status = DrivingStatus | Literal["published"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The replayed log. `commits` and `tasks` are in task order; a task that only its commit describes has no rows.

    `config` is the configuration as it was stored, empty if there is none: read it through `completed`. `head` is the
    newest entry, `deleted` the versions that were deleted, `fork` the stream that the run began as, `imported` the
    adapter from elsewhere. `decisions` are the automatic decisions, in order. `quarantined` is what would have been the
    next version, if a guard stopped it.
    """

    team: str
    name: str
    driving: Driving = field(default_factory=Driving)
    config: Json = field(default_factory=dict)
    tasks: tuple[TaskDescription, ...] = ()
    commits: tuple[Committed, ...] = ()
    head: Entry | None = None
    deleted: frozenset[int] = frozenset()
    fork: Fork | None = None
    imported: Import | None = None
    decisions: tuple[Decided, ...] = ()
    quarantined: Quarantined | None = None

    @property
    def status(self) -> Status:
        """The run's status; `published` if versions were published to the track and no driver ever took it up."""
        return "published" if self.commits and self.driving.status == "absent" else self.driving.status

    @property
    def label(self) -> str:
        """team/name."""
        return f"{self.team}/{self.name}"

    @property
    def learned(self) -> int:
        """The number of tasks that are learned."""
        return self.commits[-1].version if self.commits else 0

    @property
    def joint(self) -> bool:
        """Whether all tasks are trained at once: the one commit then is the version of as many as there are tasks."""
        train = self.config.get("train")
        return isinstance(train, Mapping) and train.get("joint") is True

    @property
    def standing(self) -> tuple[Committed, ...]:
        """The commits that were not deleted."""
        return tuple(commit for commit in self.commits if commit.version not in self.deleted)

    def completed(self) -> RunConfig:
        """The configuration, with the defaults of keys that came later.

        Raises:
            ConfigError: there is none, as in a track that only `publish` wrote to, or this version cannot read it.
        """
        if not self.config:
            raise ConfigError(f"{self.label}: its log holds no configuration; only versions were published to it")
        try:
            return RunConfig.stored(self.config)
        except ValueError as error:
            raise ConfigError(f"{self.label}: its configuration cannot be read by this Orthoplex: {error}") from None

    def readable_config(self) -> RunConfig | None:
        """As `completed`; None if that raises ConfigError."""
        try:
            return self.completed()
        except ConfigError:
            return None

    def upto(self, version: int) -> "RunState":
        """The state with the commits up to a version alone."""
        return replace(self, commits=tuple(commit for commit in self.commits if commit.version <= version))

    def with_commit(self, commit: Commit) -> "RunState":
        """The state as it will be once this stands in the log."""
        seq, time = (self.head.seq + 1, self.head.time) if self.head else (1, "")
        committed = Committed.model_validate({**commit.model_dump(exclude_unset=True), "seq": seq, "time": time})
        return replace(self, commits=(*self.commits, committed), quarantined=None)

    @property
    def reached(self) -> "RunState":
        """The state with what is quarantined, as far as it was trained."""
        return self.with_commit(self.quarantined.commit) if self.quarantined else self

    def version(self, number: int) -> Committed:
        """The commit of a version. Raises ConfigError if the run has no such version, or no more."""
        if number in self.deleted:
            raise ConfigError(f"{self.label}@v{number}: was deleted by `adapters gc`; choose another version")
        for commit in self.commits:
            if commit.version == number:
                return commit
        shown = ", ".join(f"v{commit.version}" for commit in self.commits) or "none"
        raise ConfigError(f"{self.label}@v{number}: no such version; {self.label} has {shown}")

    @property
    def base_model(self) -> str | None:
        """The name of the base, None if the log does not say it."""
        return self.completed().model.name if self.config else None

    @property
    def base_digest(self) -> str | None:
        """The digest of the weights that the first task was trained on, None if no commit says it."""
        return next((commit.base_digest for commit in self.commits if commit.base_digest), None)

    @property
    def base(self) -> Identity:
        """The base that the first task was trained on, as far as commits say it."""
        tokenizers = (commit.tokenizer for commit in self.commits if commit.tokenizer)
        configs = (commit.base_config for commit in self.commits if commit.base_config)
        return Identity(self.base_digest, next(tokenizers, {}), next(configs, {}))

    @property
    def not_compared(self) -> str | None:
        """A note if the log, of an older Orthoplex, does not tell the base's tokenizer or configuration."""
        told = {"tokenizer": self.base.tokenizer, "configuration": self.base.config}
        absent = [part for part, known in told.items() if not known]
        if not absent or not self.commits:
            return None
        compared = "these are" if len(absent) > 1 else f"the {absent[0]} is"
        return (
            f"{self.label}: its log does not say which {' and '.join(absent)} its base had, so {compared} not compared"
        )

    @property
    def zero_shot(self) -> list[float | None]:
        """Accuracy of the untrained model on each task's test split, (T,)."""
        return self._row(self.untrained, Score.accuracy)

    def matrix(self, split: Split) -> Matrix:
        """The T × T accuracy matrix of a split; rows of tasks not yet trained are None."""
        return self._matrix(split, Score.accuracy)

    @property
    def zero_shot_losses(self) -> list[float | None]:
        """The untrained model's nll per token on each task's test split, (T,); None for tasks of accuracy."""
        return self._row(self.untrained, Score.nll)

    def f1(self, split: Split) -> Matrix:
        """The T × T matrix of macro F1, None for tasks that have none, and unless `evaluate.macro_f1` asks for it."""
        return self._matrix(split, Score.f1)

    def losses(self, split: Split) -> Matrix:
        """The T × T matrix of nll per token, in nats, None for tasks that are not judged by their loss."""
        return self._matrix(split, Score.nll)

    def bounds(self, split: Split) -> list[list[Bounds | None]]:
        """The 95% intervals of `matrix` and `losses`, T × T."""
        return self._matrix(split, Score.bounds)

    def halves(self, split: Split) -> Matrix:
        """Half the width of each of `bounds`."""
        return self._matrix(split, Score.half)

    def counts(self, split: Split) -> Matrix:
        """The rows that each score of `matrix` and `losses` is of, T × T."""
        return self._matrix(split, Score.counted)

    @property
    def of_loss(self) -> frozenset[int]:
        """The tasks, from 0, that are judged by their loss, as far as commits say it."""
        rows = [scores_of(commit, split) for commit in self.commits for split in SPLITS]
        return frozenset(j for row in rows for j, score in enumerate(row) if score.metrics and score.nll() is not None)

    def whole(self, split: Split) -> int:
        """The number of tasks, from the first on, after which all of them were scored last on a split."""
        ends = ((each.version, scores_of(each, split)) for each in reversed(self.commits))
        return next((n for n, scores in ends if all(score.rows for score in scores[:n])), 0)

    def metrics(self, split: Split) -> dict[str, float | None]:
        """Accuracy metrics over the first `whole` tasks, as fractions; None if not measured."""
        matrix, alike = self._compared(split, Score.accuracy)
        return self._at_once(metrics.summary(matrix, self.zero_shot, self._sizes(split), alike))

    def loss_metrics(self, split: Split) -> dict[str, float | None]:
        """Metrics of those of the first `whole` tasks that are judged by their loss, in nats per token."""
        return metrics.loss_summary(*self._compared(split, Score.nll))

    def of_other_rows(self, split: Split) -> list[str]:
        """Tasks that were scored after their own training on other rows than last, since `evaluate.rows` was changed:
        BWT and forgetting leave those scores out."""
        counts = self._matrix(split, Score.counted)[: self.whole(split)]
        return [self.tasks[j].name for j in range(len(counts) - 1) if counts[j][j] not in (None, counts[-1][j])]

    def half_widths(self, split: Split) -> dict[str, float | None]:
        """Half the width of the 95% interval of each of `metrics`, and of each of `loss_metrics`."""
        halves, untrained = self.halves(split), self._row(self.untrained, Score.half)
        found, of_losses = (
            half_widths(matrix, halves, untrained, self._sizes(split), alike)
            for matrix, alike in (self._compared(split, read) for read in (Score.accuracy, Score.nll))
        )
        return {**self._at_once(found), "nll": of_losses["aa"], "nll_increase": of_losses["bwt"]}

    @property
    def objective(self) -> dict[str, float | None]:
        """The metrics that a sweep reads: `metrics` of the validation split. If no task has an accuracy, the same of
        exp(−nll), the geometric mean of a token's probability, which is from 0 to 1 too."""
        found = self.metrics("validation")
        if found["aa"] is not None:
            return found
        likelihoods, alike = self._compared("validation", Score.likelihood)
        return metrics.summary(likelihoods, self._row((), Score.likelihood), self._sizes("validation"), alike)

    @property
    def active_parameters(self) -> int | None:
        """Of all committed tasks together; None if one does not say."""
        counts = [commit.active_parameters for commit in self.commits]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def stored_bytes(self) -> int:
        """Of all committed tasks together."""
        return sum(commit.stored_bytes for commit in self.commits)

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the stream is done, if the tasks left take as long per training row as those done; None before
        the first, and if those done do not say."""
        sizes, done = [task.rows.train for task in self.tasks], self.learned
        costs = [commit.cost for commit in self.commits if commit.cost]
        if not sum(sizes[:done]) or len(costs) < len(self.commits):
            return None
        return float(sum(cost.total_s for cost in costs) * sum(sizes[done:]) / sum(sizes[:done]))

    def reference(self, commit: Committed) -> str:
        """The name of a committed task in commands: team/track@vN."""
        return f"{self.label}@v{commit.version}"

    def _at_once(self, found: dict[str, float | None]) -> dict[str, float | None]:
        """The same; if all tasks are learned at once, AA is their accuracy right after they were trained."""
        return {**found, "learning_accuracy": found["aa"]} if self.joint else found

    @property
    def untrained(self) -> Sequence[Score]:
        """The scores of the untrained model on test splits, by task; none if it was not scored."""
        return self.commits[0].zero_shot if self.commits else ()

    def _sizes(self, split: Split) -> list[int]:
        return [getattr(task.rows, split) for task in self.tasks]

    def _compared(self, split: Split, read: Callable[[Score], float | None]) -> tuple[Matrix, Matrix]:
        """The rows of the first `whole` tasks, and the same without what `metrics.of_the_same_rows` leaves out. The
        untrained model was scored on test splits alone."""
        matrix, counts = (self._matrix(split, each)[: self.whole(split)] for each in (read, Score.counted))
        untrained = self._row(self.untrained, Score.counted) if split == "test" else None
        return matrix, metrics.of_the_same_rows(matrix, counts, untrained)

    def _matrix(self, split: Split, read: Callable[[Score], V | None]) -> list[list[V | None]]:
        rows = {commit.version: scores_of(commit, split) for commit in self.commits}
        return [self._row(rows.get(number, ()), read) for number in range(1, len(self.tasks) + 1)]

    def _row(self, scores: Sequence[Score], read: Callable[[Score], V | None]) -> list[V | None]:
        return [*map(read, scores), *[None] * (len(self.tasks) - len(scores))]


def scores_of(commit: Committed, split: Split) -> tuple[Score, ...]:
    """The scores of a commit on a split, by task."""
    return commit.validation if split == "validation" else commit.test


def score_at(scores: Sequence[Score], task: int) -> Score | None:
    """The score of a task, by its index; None if there is none."""
    return scores[task] if task < len(scores) else None


class Numbered(Protocol):
    """A commit: its number among the versions, and that of its entry."""

    @property
    def seq(self) -> int:
        """Of the entry."""

    @property
    def version(self) -> int:
        """Of the version."""


def check_follows(label: str, before: Numbered | None, commit: Numbered) -> None:
    """Raises IntegrityError, which names entry and key, unless a commit's version is above that of the one before."""
    if before and commit.version <= before.version:
        raise IntegrityError(
            f"{label}: entry {commit.seq} (commit): version: {commit.version}, but entry {before.seq} committed "
            f"{before.version} before; do not use this log, or restore a backup of it"
        )


class Replay:
    """Reads a run's log into its state as it grows: entries that were read before are not read again."""

    def __init__(self, team: str, name: str) -> None:
        self.team, self.name, self.found = team, name, _Found()

    def __call__(self, entries: Sequence[Entry]) -> RunState:
        """The state after these entries, oldest first, which begin with those of the call before or are others.
        Operations that this version does not know are left out.

        Raises IntegrityError if a body is malformed, or a version is committed twice.
        """
        read = self.found.read
        if read and not (len(entries) >= read and entries[read - 1] is self.found.last):
            self.found = _Found()
        for entry in entries[self.found.read :]:
            self.found.take(entry, f"{self.team}/{self.name}")
        found = self.found
        return RunState(
            team=self.team, name=self.name, driving=found.drivers.now, config=found.config,
            tasks=_with_published(found.tasks, found.commits), commits=tuple(found.commits), head=found.last,
            deleted=frozenset(found.deleted), fork=found.fork, imported=found.imported,
            decisions=tuple(found.decisions), quarantined=found.quarantined,
        )  # fmt: skip


@dataclass
class _Found:
    """What the first `read` entries say."""

    read: int = 0
    last: Entry | None = None
    counts: Counting = field(default_factory=Counting)
    drivers: Drivers = field(default_factory=Drivers)
    config: Json = field(default_factory=dict)
    tasks: tuple[TaskDescription, ...] = ()
    fork: Fork | None = None
    imported: Import | None = None
    commits: list[Committed] = field(default_factory=list)
    aborted: set[str] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    decisions: list[Decided] = field(default_factory=list)
    quarantined: Quarantined | None = None

    def take(self, entry: Entry, label: str) -> None:
        """Takes the next entry."""
        if self.counts(entry):
            for _, event in events([entry], Open, Fork, Import, Abort, Delete, Committed, Quarantined):
                self._take(event, label)
            self.drivers.take(entry)
            self.decisions += decided([entry])
        self.read, self.last = self.read + 1, entry

    def _take(self, event: Event, label: str) -> None:
        match event:
            case Open():
                self.config, self.tasks = event.config, event.tasks
            case Fork():
                self.fork, self.tasks = event, event.described
            case Import():
                self.imported, self.config, self.tasks = event, event.config, (event.task,)
            case Committed() if event.prefix not in self.aborted:
                check_follows(label, self.commits[-1] if self.commits else None, event)
                self.commits.append(event)
                self.quarantined = None
            case Quarantined() if event.prefix not in self.aborted:
                self.quarantined = event
            case Abort():
                self.aborted.update(event.prefixes)
                if self.quarantined and self.quarantined.prefix in self.aborted:
                    self.quarantined = None
            case Delete():
                self.deleted.update(event.versions)


def replay(team: str, name: str, entries: Sequence[Entry]) -> RunState:
    """The state after these entries, see `Replay`."""
    return Replay(team, name)(entries)


def _with_published(tasks: tuple[TaskDescription, ...], commits: Sequence[Committed]) -> tuple[TaskDescription, ...]:
    """The tasks, and those that only a published version names."""
    return (*tasks, *(TaskDescription(name=commit.task) for commit in commits[len(tasks) :]))
