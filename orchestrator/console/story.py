"""A log in words: what happened, and what was decided for which reason, a sentence per entry."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from cluster.errors import ConfigError, IntegrityError
from cluster.words import did_you_mean
from orchestrator.console.scores import nats, number
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry, JsonLike
from orchestrator.log.event import Event, Index, Json, decided, lease_of, parse
from orchestrator.run.changes import differences
from orchestrator.sweeps import events as sweep_events
from orchestrator.sweeps.events import Chosen, Outcome, Point, PoolSize
from orchestrator.sweeps.space import shown_values
from orchestrator.track import events as track_events
from orchestrator.track.aside import Abort, Approval, Delete, Move, Orphans, Promote
from orchestrator.track.events import (
    Committed,
    Ending,
    Fork,
    Import,
    Open,
    Placed,
    Quarantined,
    Renew,
    Retry,
    Start,
    TaskDescription,
    Workers,
)
from orchestrator.track.metrics import points

BY_OP: Mapping[str, type[Event]] = {**sweep_events.KINDS, **track_events.KINDS}
KINDS = tuple(BY_OP.values())
MOST_NAMES = 6  # of tasks, or changed keys, in a sentence


@dataclass(frozen=True, kw_only=True)
class Told:
    """An entry in words. `task` is the one that it is about, if it is about one. `known` is whether this version knows
    its operation, `void` whether it does not count, since another driver had taken over before it was written."""

    seq: int
    time: str
    actor: str
    op: str
    text: str
    task: str | None = None
    decisions: tuple[Decision, ...] = ()
    known: bool = True
    void: bool = False

    def shown(self) -> dict[str, JsonLike]:
        """The form that `--json` prints."""
        return {**vars(self), "decisions": [each.model_dump() for each in self.decisions]}

    def about(self, task: str, version: int) -> "Told | None":
        """The part that is about a task, of which v`version` is the commit; None if nothing is."""
        mine = tuple(each for each in self.decisions if each.subject in (task, f"v{version}"))
        return replace(self, decisions=mine) if mine or self.task == task else None

    @property
    def lines(self) -> list[str]:
        """For people: the time in UTC and the sentence; below it each decision with its reason."""
        note = " (void: another driver had taken over)" if self.void else ""
        return [
            f"{second(self.time)}  {self.text}{note}",
            *(f"{'':21}decided: {in_words(each)}" for each in self.decisions),
        ]


def second(time: str) -> str:
    """A time of a log, to the second."""
    return time[:19].replace("T", " ")


def minute(time: str) -> str:
    """A time of a log, to the minute."""
    return time[:16].replace("T", " ")


def in_words(decision: Decision) -> str:
    """A decision: the verdict, the reason, and the key that it comes from."""
    return f"{decision.verdict.replace('_', ' ')}, since {decision.reason} [{decision.rule}]"


@dataclass
class Story:
    """Tells entries in words, in their order. It remembers what entries refer to."""

    config: Json = field(default_factory=dict)
    tasks: Sequence[TaskDescription] = ()
    lease: int | None = None
    moved: dict[str, int] = field(default_factory=dict)  # by alias, the seq of the entry that moved it last

    def tell(self, entries: Iterable[Entry]) -> Iterator[Told]:
        """Each entry in words."""
        for entry in entries:
            yield self.told(entry)

    def told(self, entry: Entry) -> Told:
        """An entry in words."""
        void = lease_of(entry, self.lease) != self.lease
        head = Told(seq=entry.seq, time=entry.time, actor=entry.actor, op=entry.op, text="", void=void)
        if (kind := BY_OP.get(entry.op)) is None:
            text = f"an entry ({entry.op}) of a newer Orthoplex, which this one does not know; upgrade to read it"
            return replace(head, text=text, known=False)
        try:
            text, task = self.event(entry, parse(entry, kind))
        except IntegrityError as error:
            text, task = f"an entry ({entry.op}) that cannot be read: {error}", None
        if entry.op == Start.op and not void:
            self.lease = entry.seq
        decisions = tuple(each.decision for each in decided([entry]))
        return replace(head, text=text, task=task, decisions=decisions)

    def event(self, entry: Entry, event: Event) -> tuple[str, str | None]:
        """An event in words, and the task that it is about."""
        match event:
            case Open() | Fork() | Import() | Move():
                return self.remembered(entry, event), None
            case Retry():
                return f"{self.name(event.index)}: {event.reason}", self.name(event.index)
            case Committed():
                return f"{event.task}: committed as {placed(event)}", event.task
            case Quarantined():
                return f"{event.task}: quarantined, not committed: what would be {placed(event)}", event.task
            case Renew() if at := event.progress:
                return f"alive: {self.name(at.index)}: {at.phase} {at.step}/{at.total_steps}", self.name(at.index)
        return plain(entry, event), None

    def remembered(self, entry: Entry, event: Open | Fork | Import | Move) -> str:
        """An event that later ones refer to."""
        if isinstance(event, Fork):
            self.tasks = event.described
            return f"begins with the first {of(event.tasks, 'task')} of {event.source}"
        if isinstance(event, Import):
            self.config, self.tasks, folder = event.config, (event.task,), event.origin.get("folder")
            return f"begins as a LoRA from elsewhere, the folder {folder}{settings(event.config)}"
        return self.opened(event) if isinstance(event, Open) else self.move(entry, event)

    def move(self, entry: Entry, event: Move) -> str:
        """A move of an alias, and whether it counts: only if the alias stood where its writer saw it."""
        verb = "points to" if isinstance(event, Promote) else "points back to"
        told = f"{event.alias} {verb} v{event.version}, by {entry.actor}{f': {event.why}' if event.why else ''}"
        if event.overridden:
            told += f", setting aside {', '.join(event.overridden)}"
        if event.expect != self.moved.get(event.alias, 0):
            return f"{told} (does not count: somebody else had moved it)"
        self.moved[event.alias] = entry.seq
        return told

    def name(self, index: int) -> str:
        """The name of a task, counted from 0; its number if the log has none."""
        return self.tasks[index].name if index < len(self.tasks) else f"task {index + 1}"

    def version_of(self, task: str, label: str) -> int:
        """The version that is a task's commit. Raises ConfigError if the log of `label` names no such task."""
        known = [each.name for each in self.tasks]
        if task not in known:
            hint = did_you_mean(task, known) or f"it has {', '.join(known) or 'none'}"
            raise ConfigError(f"--task {task!r}: {label} has no such task; {hint}")
        return known.index(task) + 1

    def opened(self, event: Open) -> str:
        """What a driver is about to run: all of it at first, later what is different."""
        before, named = self.config, [task.name for task in self.tasks]
        self.config, self.tasks = event.config, event.tasks
        if not before:
            return f"is to learn {few([task.name for task in event.tasks])}{settings(event.config)}"
        changed = differences(without_tasks(before), without_tasks(event.config))
        added = [task.name for task in event.tasks[len(named) :]]
        parts = [f"{key}: {old!r} → {new!r}" for key, old, new, _ in changed[:MOST_NAMES]]
        parts += [f"{len(changed) - MOST_NAMES} more keys"] * (len(changed) > MOST_NAMES)
        parts += [f"{few(added)} added"] * bool(added)
        return f"goes on with changes: {'; '.join(parts) or 'of what is said of its data'}"


def without_tasks(config: Json) -> dict[str, JsonLike]:
    """A configuration without its tasks, which are told by name."""
    return {key: value for key, value in config.items() if key != "tasks"}


def settings(config: Json) -> str:
    """The base and the method of a configuration, behind its tasks."""
    run = config.get("run", config)  # a sweep has the configuration of its runs there
    model, adapter = (run.get("model"), run.get("adapter")) if isinstance(run, Mapping) else (None, None)
    base = f"; base {model.get('name')}" if isinstance(model, Mapping) else ""
    return base + (f", method {adapter.get('method', 'oa')}" if isinstance(adapter, Mapping) else "")


def few(names: Sequence[str]) -> str:
    """Names of tasks, at most MOST_NAMES of them, and how many there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{of(len(names), 'task')} ({', '.join(names[:MOST_NAMES])}{more})"


def of(count: float, noun: str, plural: str = "") -> str:
    """So many of them."""
    return f"{count:,g} {noun if count == 1 else plural or f'{noun}s'}"


def started(entry: Entry, event: Start) -> str:
    """Who took the log up, and with what."""
    packages = [f"{name} {event.versions[name]}" for name in ("python", "torch", "ray") if name in event.versions]
    tools = f"; {', '.join(packages)}" if packages else ""
    return f"taken up by {entry.actor} (pid {event.driver.pid}){tools}"


def placed(event: Placed) -> str:
    """The version that a learned task is, with its figures."""
    figures = []
    own = event.test[event.version - 1 : event.version] or event.validation[event.version - 1 : event.version]
    for score in own:
        accuracy, loss = score.accuracy(), score.nll()
        split = "test" if event.test[event.version - 1 :] else "validation"
        figures += [f"{points(accuracy, 1)} on its {split} rows"] if accuracy is not None else []
        figures += [f"nll {nats(loss)} on its {split} rows"] if loss is not None else []
    if ranks := [each.rank for each in event.budget.values()]:
        figures.append(f"mean r_eff {fmean(ranks):.1f}")
    if event.active_parameters is not None:
        figures.append(f"{event.active_parameters:,} parameters")
    if event.overlap is not None:
        figures.append(f"overlap {number(event.overlap, '.1%')}")
    if cost := event.cost:
        figures.append(
            f"{cost.train_s:.0f} s training, {cost.evaluate_s:.0f} s evaluation on {of(cost.workers, 'worker')}"
        )
    copied = f", a copy of {event.forked_from}" if event.forked_from else ""
    return f"v{event.version}{copied}; {'; '.join(figures) or 'no figures'}"


def plain(entry: Entry, event: Event) -> str:
    """An event that needs nothing from those before it."""
    match event:
        case Start():
            return started(entry, event)
        case Workers():
            seconds = ", ".join(f"{cause} {spent:.1f} s" for cause, spent in event.seconds.items())
            return f"{of(event.workers, 'worker')} started ({seconds})"
        case Renew():
            return "alive"
        case Ending():
            evidence = f" (evidence: {', '.join(event.evidence)})" if event.evidence else ""
            reason = event.reason or event.status
            return f"{reason if reason.startswith(event.status) else f'{event.status}: {reason}'}{evidence}"
    return kept_tidy(entry, event) or of_a_sweep(event)


def kept_tidy(entry: Entry, event: Event) -> str:
    """An entry of the garbage collector or of an index, or a word on a version; empty if it is none of them."""
    match event:
        case Delete():
            versions = ", ".join(f"v{version}" for version in event.versions)
            return f"{versions} deleted{f': {event.why}' if event.why else ''}"
        case Orphans() | Abort():
            found = "found" if isinstance(event, Orphans) else "collected"
            return f"{found} {of(len(event.prefixes), 'folder')} that no commit names"
        case Index():
            return f"an index of the entries up to {event.upto} was written"
        case Approval():
            words = {"pending": "waits for approval", "approved": "approved", "rejected": "rejected"}
            told = f"v{event.version} {words[event.state]}, says {entry.actor}"
            return f"{told}{f': {event.why}' if event.why else ''}"
    return ""


def of_a_sweep(event: Event) -> str:
    """An entry of a sweep."""
    match event:
        case PoolSize():
            return f"{of(event.slots, 'trial')} at once"
        case Point():
            return f"trial {event.number} begins as the run {event.run}: {shown_values(event.values)}"
        case Outcome():
            last = event.rows[-1] if event.rows else None
            why = f": {event.reason}" if event.reason else ""
            if last is None:
                return f"trial {event.number} {event.status}{why}"
            measured = f"AA {points(float(last.aa), 1)}, {last.parameters:,} parameters after {last.tasks} tasks"
            return f"trial {event.number} {event.status}{why}; {measured}"
        case Chosen():
            front = ", ".join(map(str, event.pareto)) or "no trial"
            named = (
                "no trial is recommended" if event.recommended is None else f"recommended: trial {event.recommended}"
            )
            return f"{named}, {event.reason}; on the front: {front}"
    return event.op
