"""The content of log entries, as one frozen model per operation. A log has one operation of its own, `index`.

`Event.body` gives back exactly the body it was parsed from, byte for byte. A model may therefore gain optional fields,
and old entries still round-trip. Unknown keys are kept. Numbers are strict, so that 1 stays 1 and 1.0 stays 1.0.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict, ValidationError

from cluster.errors import ConflictError, IntegrityError
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry, canonical

Json = Mapping[str, JsonValue]
Int = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)]  # a larger one is no float
Count = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Number = Int | Annotated[float, Strict()]
MOST_SHOWN = 200  # characters of a key in a message


class Part(BaseModel):
    """Part of a body. Unknown keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    def body(self) -> dict[str, JsonValue]:
        """The stored form: the fields that were given, and no others, keys sorted."""
        stored: dict[str, JsonValue] = json.loads(canonical(self.model_dump(mode="json", exclude_unset=True)))
        return stored


class Event(Part):
    """One operation. `lease` is the seq of the `start` entry under which a driver wrote it. `decisions` are those taken
    since the entry before."""

    op: ClassVar[str]
    lease: Int | None = None
    decisions: tuple[JsonValue, ...] = ()

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The entry's event. Raises ValidationError if its body is malformed."""
        return cls.model_validate(entry.body)

    def under(self, lease: int | None) -> Self:
        """The same event, written under a lease."""
        return self.model_copy(update={"lease": lease})

    def with_decisions(self, decisions: Sequence[Decision]) -> Self:
        """The same event with further decisions; itself if there are none."""
        made = (*self.decisions, *(each.model_dump() for each in decisions))
        return self.model_copy(update={"decisions": made}) if decisions else self


class Index(Event):
    """An index of the entries up to `upto` has this digest."""

    op = "index"
    upto: Int
    index_sha256: str


class Written(Protocol):
    """Anything that can be appended to a log: an Event, or another object with an operation and a body."""

    @property
    def op(self) -> str:
        """The operation."""

    def body(self) -> Mapping[str, JsonValue]:
        """The entry's content, as JSON."""


class Requirement(Protocol):
    """A condition that must still hold when an entry lands."""

    def check(self, since: Sequence[Entry]) -> None:
        """Takes the entries that others wrote since the writer last looked. Raises ConflictError if one forbids it."""


class Unchanged:
    """Nobody has written anything since."""

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""
        for other in since:
            raise ConflictError(f"{other.actor} wrote entry {other.seq} ({other.op}) first, at {other.time}; run again")


class Anything:
    """Entries of others are no hindrance."""

    def check(self, since: Sequence[Entry]) -> None:
        """See Requirement."""


E = TypeVar("E", bound=Event)
_parsed: WeakKeyDictionary[Entry, Event] = WeakKeyDictionary()


def parse(entry: Entry, kind: type[E]) -> E:
    """The entry's body as an event; it is parsed once per entry.

    Raises:
        IntegrityError: a key is missing or has another type.
    """
    if fault := fault_of(entry, kind):
        raise IntegrityError(f"entry {entry.seq} ({entry.op}): {fault}; do not use this log, or restore a backup of it")
    found = _parsed[entry]
    assert isinstance(found, kind)
    return found


def fault_of(entry: Entry, kind: type[Event]) -> str | None:
    """The key of an entry's body that is missing or malformed, and how; None if the body is whole."""
    if isinstance(_parsed.get(entry), kind):
        return None
    try:
        _parsed[entry] = kind.of(entry)
    except ValidationError as error:
        return told(error, entry.body)
    return None


def told(error: ValidationError, content: JsonValue) -> str:
    """The first thing that is wrong in `content`: key, and what is wrong with it."""
    first = error.errors(include_url=False, include_input=False)[0]
    keys = list[str]()
    for part in first["loc"]:
        keys.append(str(part))
        if isinstance(content, Mapping) and part in content:
            content = content[str(part)]
        elif isinstance(content, Sequence) and isinstance(part, int) and part < len(content):
            content = content[part]
        else:  # a key that is missing, or, in a union, the kind of value that was tried
            keys = keys if first["type"] == "missing" else keys[:-1]
            break
    said = first["msg"].removeprefix("Value error, ")
    return f"{shown('.'.join(keys)) or 'body'}: {said[:1].lower()}{said[1:]}"


def shown(text: str) -> str:
    """A string of somebody else's for a message: bounded, on one line, without characters that move a cursor."""
    cut = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut)


def events(entries: Iterable[Entry], *kinds: type[E]) -> Iterator[tuple[Entry, E]]:
    """The entries of these operations, each with its event, in order. Other entries are not parsed."""
    by_op = {kind.op: kind for kind in kinds}
    for entry in entries:
        if (kind := by_op.get(entry.op)) is not None:
            yield entry, parse(entry, kind)


def well_formed(entries: Iterable[Entry], *kinds: type[E]) -> Iterator[tuple[Entry, E]]:
    """`events` without those whose body is malformed."""
    by_op = {kind.op: kind for kind in kinds}
    for entry in entries:
        if (kind := by_op.get(entry.op)) is not None:
            try:
                yield entry, parse(entry, kind)
            except IntegrityError:
                continue


class Carried(BaseModel):
    """The part of a body that an entry of any operation may have, see `Event`. It is any JSON, as written: a newer
    version may have written the entry."""

    model_config = ConfigDict(frozen=True)

    lease: JsonValue = None
    decisions: JsonValue = None


_carried: WeakKeyDictionary[Entry, Carried] = WeakKeyDictionary()


def carried(entry: Entry) -> Carried:
    """That part of an entry; it is parsed once per entry."""
    if (found := _carried.get(entry)) is None:
        found = _carried[entry] = Carried.model_validate(entry.body)
    return found


def lease_of(entry: Entry, default: int | None) -> JsonValue:
    """The lease under which an entry was written; `default` if it names none."""
    found = carried(entry)
    return found.lease if "lease" in found.model_fields_set else default


@dataclass(frozen=True)
class Decided:
    """A decision and the entry that carries it."""

    entry: Entry
    decision: Decision

    def shown(self) -> dict[str, JsonValue]:
        """The form that `--json` prints."""
        return {"seq": self.entry.seq, "time": self.entry.time, **self.decision.model_dump()}


def decided(entries: Iterable[Entry]) -> tuple[Decided, ...]:
    """The decisions that entries carry, in order. A malformed one is left out; a newer version may have written it."""
    found = []
    for entry in entries:
        made = carried(entry).decisions
        for each in made if isinstance(made, list) else ():
            with suppress(ValueError):
                found.append(Decided(entry, Decision.model_validate(each)))
    return tuple(found)
