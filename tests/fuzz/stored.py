"""What stands in a store, changed as somebody could who may write to it: bodies of entries, manifests. The digests of
what was changed, and of all that follows in the log, are made right again, so that the change itself must be judged."""

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from cluster.errors import OrthoplexError
from orchestrator.log.entry import canonical, digest
from orchestrator.log.event import Event
from orchestrator.sweeps import events as sweep_events
from orchestrator.track.events import KINDS
from tests.fuzz.harness import Case
from tests.golden.golden import RUNS, SWEEP, TEAM, Recorded, copy_to

DEEP: Any = json.loads("[" * 400 + "]" * 400)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.5, 1e308, -1e308, "", "x", "x" * 5_000, "\x1b[2J\x07",
    "\ud800", "9" * 400, "nan", [], {}, [[]], [None], {"": None}, {"\x1b[31m": 1}, ["x"] * 300, DEEP,
)  # fmt: skip
TRACK_VERBS = (
    ("status", "{run}"), ("status", "{run}", "--json"), ("explain", "{run}"), ("adapters", "list"),
    ("adapters", "list", "--json"), ("adapters", "show", "{run}@v1"), ("adapters", "show", "{run}@v1", "--tree"),
    ("adapters", "show", "{run}@production"), ("adapters", "verify", "{run}"), ("adapters", "gc", "{run}"),
    ("adapters", "promote", "{run}@v1", "--alias", "staging"), ("adapters", "rollback", "{run}@production"),
    ("adapters", "pull", "{run}@v1", "pulled"), ("adapters", "index", "{run}"),
    ("adapters", "list", "--quarantined"), ("adapters", "reject", "{run}@v1", "--why", "odd"),
)  # fmt: skip
SWEEP_VERBS = (("sweep", "sweep.yaml", "--show"),)
MANIFEST_VERBS = (
    ("adapters", "show", "{run}@v1"), ("adapters", "show", "{run}@v1", "--json"), ("adapters", "verify", "{run}"),
    ("adapters", "pull", "{run}@v1", "pulled"),
)  # fmt: skip


class Refused(OrthoplexError):
    """The command ended with this message."""


def log_bodies(draw: random.Random, folder: Path) -> Iterator[Case]:
    """The body of one entry of a recorded run or sweep, changed. One that its operation's model does not take must be
    refused, with the number of the entry, by every command that reads the log."""
    recorded, whole = unsigned_copy(folder), folder / "whole"
    logs = {
        **{f"t/{TEAM}/{run}": KINDS for run in (*RUNS, "published")},
        f"t/{TEAM}/.sweeps/{SWEEP}": sweep_events.KINDS,
    }
    while True:
        root = draw.choice(sorted(logs))
        entries = read_log(whole / root)
        at = draw.randrange(len(entries))
        said = changed(entries[at], draw, FIELDS) if draw.random() < 0.9 else repeated(entries, at)
        kind = logs[root].get(entries[at]["op"]) if said != "repeated" else None
        verbs = SWEEP_VERBS if "sweeps" in root else TRACK_VERBS
        verb = tuple(word.format(run=root.rpartition("/")[2]) for word in draw.choice(verbs))
        must = f"entry {at + 1}" if kind and not taken(kind, entries[at]) else None

        work = partial(judged, recorded, folder, root, entries, verb=verb, must=must)
        yield Case(f"{root}: entry {at + 1} ({entries[at]['op']}): {said}: {' '.join(verb)}", work)


def manifests(draw: random.Random, folder: Path) -> Iterator[Case]:
    """The manifest of a recorded version, changed, and the digest of it that its commit holds."""
    recorded, root = unsigned_copy(folder), f"t/{TEAM}/stream"
    whole = folder / "whole"
    while True:
        entries = read_log(whole / root)
        commit = next(entry for entry in entries if entry["op"] == "commit")
        key = f"{commit['prefix']}/manifest.json"
        manifest = json.loads((whole / key).read_bytes())
        said, verb = changed(manifest, draw), draw.choice(MANIFEST_VERBS)
        verb = tuple(word.format(run="stream") for word in verb)
        data = canonical(manifest)
        if draw.random() < 0.1:
            data, said = data.replace(b"1", b"NaN", 1), f"{said}, and a NaN"
        commit["manifest_sha256"] = digest(data)

        work = partial(judged, recorded, folder, root, entries, verb=verb, must=None, files={key: data})
        yield Case(f"manifest of stream@v1: {said}: {' '.join(verb)}", work)


def judged(
    recorded: Recorded, folder: Path, root: str, entries: list[dict[str, Any]], *, verb: tuple[str, ...],
    must: str | None, files: Mapping[str, bytes] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Writes a log, and files by key, calls a command (see `call`), and puts all back."""
    for key, data in files.items():
        (folder / "store" / key).write_bytes(data)
    write_log(folder / "store" / root, entries)
    try:
        call(recorded, verb, must)
    finally:
        put_back(folder, folder / "whole", root)


# --- what is changed

FIELDS = frozenset({"seq", "prev_sha256", "nonce", "actor", "time", "op"})


def changed(content: dict[str, Any], draw: random.Random, spared: frozenset[str] = frozenset()) -> str:
    """Changes a value somewhere in `content`, or takes one out, or adds one; says what."""
    places = [place for place in every_place(content) if place[0] not in spared]
    if not places or draw.random() < 0.1:
        key = draw.choice(["decisions", "lease", "version", "config", "x"])
        content[key] = draw.choice(ODD)
        return f"{key} = {content[key]!r:.60}"
    *way, last = draw.choice(places)
    inner: Any = content
    for part in way:
        inner = inner[part]
    name = ".".join(map(str, (*way, last)))
    if draw.random() < 0.3:
        del inner[last]
        return f"without {name}"
    inner[last] = draw.choice(ODD)
    return f"{name} = {inner[last]!r:.60}"


def every_place(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON."""
    inside: Any = ()
    if isinstance(content, dict):
        inside = content.items()
    elif isinstance(content, list):
        inside = enumerate(content)
    for key, value in inside:
        yield (*way, key)
        yield from every_place(value, (*way, key))


def repeated(entries: list[dict[str, Any]], at: int) -> str:
    """Adds an entry once more, at the end of the log."""
    entries.append(dict(entries[at]))
    return "repeated"


def taken(kind: type[Event], entry: dict[str, Any]) -> bool:
    """Whether the model of an operation takes the body."""
    try:
        kind.model_validate({**{key: value for key, value in entry.items() if key not in FIELDS}, **SEEN})
    except (ValidationError, RecursionError):
        return False
    return True


SEEN = {"seq": 1, "time": ""}  # what a committed version has beside its body


# --- logs in a folder


def unsigned_copy(folder: Path) -> Recorded:
    """The recorded store without its rules and signatures, in `folder`/store, and the same in `folder`/whole."""
    recorded = copy_to(folder)
    shutil.rmtree(folder / f"store/t/{TEAM}/.policy")
    for log in (folder / "store").glob("t/*/**/log"):
        write_log(log.parent, read_log(log.parent))
    shutil.copytree(folder / "store", folder / "whole")
    return recorded


def read_log(root: Path) -> list[dict[str, Any]]:
    """The entries of a log, oldest first, without their signatures."""
    entries = [json.loads(path.read_bytes()) for path in sorted((root / "log").iterdir(), reverse=True)]
    return [{key: value for key, value in entry.items() if key != "signature"} for entry in entries]


def write_log(root: Path, entries: list[dict[str, Any]]) -> None:
    """Replaces a log by these entries, numbered and chained."""
    shutil.rmtree(root / "log")
    (root / "log").mkdir()
    before = ""
    for seq, entry in enumerate(entries, start=1):
        data = canonical({**entry, "seq": seq, "prev_sha256": before})
        (root / "log" / f"{10**9 - seq:010d}.json").write_bytes(data)
        before = digest(data)


def put_back(folder: Path, whole: Path, root: str) -> None:
    """Makes one track or sweep of the store again as it was recorded; this machine forgets that it saw another."""
    import os

    shutil.rmtree(folder / "store" / root)
    shutil.copytree(whole / root, folder / "store" / root)
    shutil.rmtree(folder / "pulled", ignore_errors=True)
    shutil.rmtree(Path(os.environ["ORTHOPLEX_STATE"]) / "seen", ignore_errors=True)


def call(recorded: Recorded, verb: tuple[str, ...], must: str | None) -> None:
    """Runs a command. Raises Refused if it ends with a message, which must begin as ours do and hold `must`."""
    result = recorded.call(*verb)
    if result.code == 0:
        assert must is None, f"{' '.join(verb)} accepted what {must} says"
        return
    assert result.code in (1, 2, 3) and "orthoplex: " in result.err, result.err
    message = result.err[result.err.index("orthoplex: ") :]
    assert must is None or must in message or result.code == 2, f"{must} is not named: {message}"
    raise Refused(message.rstrip("\n"))
