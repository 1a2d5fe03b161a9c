"""The recorded store and what is read off it. All names of the product that the golden tests need are imported here.

A test opens a copy of the store; `DOCUMENTS` and `TEXTS` say what is read off it, by name. `expected.json` and
`expected_text.json` hold what this gave when the store was recorded; `python -m tests.golden.expected` writes them.
"""

import dataclasses
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from cluster.storage import open_store
from orchestrator import load
from orchestrator.cli import main as cli
from orchestrator.config.run import load_config
from orchestrator.log.entry import Entry, canonical, parse_entry
from orchestrator.log.event import Event, Part
from orchestrator.log.index import raw
from orchestrator.registry.publish import publish
from orchestrator.run.changes import objections
from orchestrator.sweeps.sweep_state import replay_sweep, sweep_log
from orchestrator.track.aside import ASIDE
from orchestrator.track.driving import Driving
from orchestrator.track.events import DRIVEN, Learned, Rules, TaskDescription
from orchestrator.track.moves import moves
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track, parse_manifest
from trainers.models.loading import resolve_name

__all__ = [
    "TaskDescription",
    "canonical",
    "load",
    "load_config",
    "objections",
    "open_store",
    "parse_entry",
    "parse_manifest",
    "raw",
    "resolve_name",
]
GOLDEN = Path(__file__).parent
TEAM, SWEEP = "golden", "grid"
RUNS = ("branch", "diverged", "grid-00001", "grid-00002", "stream", "unread")
TRACKS = (*RUNS, "published")
KINDS: tuple[type[Event], ...] = (*DRIVEN, *ASIDE, Rules)
EVENTS = {kind.op: kind for kind in KINDS}


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Recorded(NamedTuple):
    """A copy of the recorded store in `folder`/store, beside the configurations and data that it was made with."""

    folder: Path

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def call(self, *argv: object) -> Result:
        """Runs the command in this process, in the folder; output has STORE for the store's place."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        words = ["orthoplex", *map(str, argv)]
        environment = {"COLUMNS": "120", "ORTHOPLEX_STORE": self.store, "TERM": "dumb"}
        with ExitStack() as stack:
            for each in (chdir(self.folder), patch.object(sys, "argv", words), patch.dict(os.environ, environment)):
                stack.enter_context(each)
            for stream in (redirect_stdout(out), redirect_stderr(err)):
                stack.enter_context(stream)
            try:
                cli.main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        return Result(code, *(stream.getvalue().replace(self.store, "STORE") for stream in (out, err)))

    def printed(self, *argv: object) -> str:
        """What the command prints; it must succeed, and note no more than that recorded logs do not tell the base."""
        result = self.call(*argv)
        notes = [line for line in result.err.splitlines() if not line.endswith("so these are not compared")]
        assert (result.code, notes) == (0, []), result
        return result.out

    def json(self, *argv: object) -> Any:
        """The JSON that it prints."""
        return json.loads(self.printed(*argv, "--json"))

    def track(self, name: str) -> Track:
        return Track(open_store(self.store), TEAM, name)

    def run_state(self, name: str) -> RunState:
        return replay(TEAM, name, self.track(name).entries())

    def sweep_entries(self) -> list[Entry]:
        return sweep_log(open_store(self.store), TEAM, SWEEP).entries()


def copy_to(folder: Path) -> Recorded:
    """A copy in a folder that exists, without symbolic parts, since messages name the store as it is opened."""
    folder = folder.resolve()
    for name in ("store", "data"):
        shutil.copytree(GOLDEN / name, folder / name)
    for path in GOLDEN.glob("*.yaml"):
        shutil.copy(path, folder)
    return Recorded(folder)


def publish_files(store: str, team: str, name: str, folder: Path) -> None:
    """Publishes the files of a folder, as `record.py` does."""
    learned = Learned(task="imported", active_parameters=10, overlap=0.0, base_digest="b" * 64)
    metadata = {"base_model": {"name": "minilm"}, "base_digest": "b" * 64}
    publish(Track(open_store(store), team, name), folder, learned, metadata)


def logged(root: Path = GOLDEN / "store") -> dict[str, list[bytes]]:
    """The bytes of every entry of every log in a folder store, by the log's key, oldest first."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(root.glob("t/*/*/**/log/*.json"), reverse=True):  # names count down
        found.setdefault(str(path.parent.relative_to(root)), []).append(path.read_bytes())
    return found


# --- what is read off it


def without_later(value: Any) -> Any:
    """JSON without what was not there when it was recorded: lists of decisions, which old logs have none of, losses,
    which only generative tasks have, the AA of a listed version, 95% intervals, what a run took, and what was decided
    per module."""
    if isinstance(value, Mapping):
        later = [("decisions", []), ("losses", None), ("average_nll", None)]
        later += [(key, value.get(key)) for key in ("average_accuracy", "intervals", "half_widths", "spent", "decided")]
        return {key: without_later(each) for key, each in value.items() if (key, each) not in later}
    return [without_later(each) for each in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """A value as JSON: what a log says as it is stored, entries by their seq, sets sorted."""
    if isinstance(value, Entry):
        return {"entry": value.seq, "op": value.op}
    if isinstance(value, Part):
        return value.body()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def driver_of(driving: Driving) -> Any:
    """The `start` of the driver that holds a log, with its entry's seq, actor and time; None if none holds it."""
    now = driving.driver
    return now and {**now.start.body(), "seq": now.seq, "actor": now.actor, "time": now.time}


def run_replay(recorded: Recorded, name: str) -> Any:
    """The replayed run; and in brief how it stood after each entry."""
    entries = recorded.track(name).entries()
    stages = [replay(TEAM, name, entries[:count]) for count in range(len(entries) + 1)]
    return {
        "state": whole(stages[-1]),
        "stages": [brief(stage, entry) for stage, entry in zip(stages[1:], entries, strict=True)],
    }


def whole(state: RunState) -> dict[str, Any]:
    """All of a replayed run, bodies as they are stored."""
    now = state.driving
    return {
        "team": state.team, "name": state.name, "state": state.status, "reason": now.reason,
        "config": plain(state.config), "tasks": plain(state.tasks),
        "commits": [{**commit.body(), "time": commit.time} for commit in state.commits],
        "head": plain(state.head), "deleted": plain(state.deleted), "driver": driver_of(now),
        "heard": plain(now.heard), "fork": plain(state.fork), "progress": plain(now.progress),
    }  # fmt: skip


def brief(state: RunState, entry: Entry) -> list[Any]:
    """[op, state, reason, commits, tasks, seq of the driver's start, seq last heard, forked, deleted, progress]."""
    now = state.driving
    return [
        entry.op, state.status, now.reason, len(state.commits), len(state.tasks),
        now.driver and now.driver.seq, now.heard and now.heard.seq, bool(state.fork),
        sorted(state.deleted), plain(now.progress),
    ]  # fmt: skip


TRIAL = ("number", "values", "run", "status", "reason")
ROW = ("tasks", "aa", "parameters", "bwt", "forgetting", "train_s", "evaluate_s", "gpus")


def sweep_replay(recorded: Recorded) -> Any:
    """As `run_replay`, of the sweep."""
    entries = recorded.sweep_entries()
    stages = [replay_sweep(entries[:count]) for count in range(1, len(entries) + 1)]
    told = [
        [e.op, d.status, d.reason, [t.status for t in s.trials], d.driver and d.driver.seq, d.heard and d.heard.seq]
        for s, e in zip(stages, entries, strict=True)
        for d in (s.driving,)
    ]
    last, now = stages[-1], stages[-1].driving
    trials = [{**picked(trial, TRIAL), "rows": [picked(row, ROW) for row in trial.rows]} for trial in last.trials]
    state = {
        "state": now.status, "reason": now.reason, "config": plain(last.config), "tasks": plain(last.tasks),
        "trials": trials, "choice": plain(last.choice), "driver": driver_of(now), "heard": plain(now.heard),
        "head": plain(last.head),
    }  # fmt: skip
    return {"state": state, "stages": told}


def picked(value: object, names: Iterable[str]) -> dict[str, Any]:
    """These attributes of it, as JSON."""
    return {name: plain(getattr(value, name)) for name in names}


def references(recorded: Recorded) -> list[str]:
    """Every version that is listed."""
    return [row["ref"] for row in recorded.json("adapters", "list")]


SHOW = ("sweep", "sweep.yaml", "--show", "--output", "out", "--set")
DOCUMENTS: dict[str, Callable[[Recorded], Any]] = {
    "status": lambda it: {run: it.json("status", f"{TEAM}/{run}") for run in TRACKS},
    "explain": lambda it: {run: it.json("explain", f"{TEAM}/{run}") for run in RUNS},
    "list": lambda it: it.json("adapters", "list"),
    "list of a task": lambda it: it.json("adapters", "list", "--task", "weather", "--team", TEAM),
    "show": lambda it: {ref: it.json("adapters", "show", ref) for ref in references(it)},
    "show by alias": lambda it: it.json("adapters", "show", "stream@production")["ref"],
    "tree": lambda it: {
        run: it.json("adapters", "show", f"{run}@v1", "--tree") for run in TRACKS if run not in ("diverged", "unread")
    },
    "verify": lambda it: it.json("adapters", "verify"),
    "rules": lambda it: json.loads(it.printed("adapters", "rules", TEAM, "--json")),
    "replay": lambda it: {run: run_replay(it, run) for run in RUNS},
    "aliases": lambda it: {
        track: [dataclasses.asdict(move) for move in moves(it.track(track).entries())] for track in TRACKS
    },
    "sweep": lambda it: it.json(*SHOW, f"run.store={it.store}"),
    "sweep replay": sweep_replay,
}
TEXTS: dict[str, Callable[[Recorded], Any]] = {
    **{f"status {run}": lambda it, run=run: it.printed("status", f"{TEAM}/{run}") for run in TRACKS},  # type: ignore[misc]
    **{f"explain {run}": lambda it, run=run: it.printed("explain", f"{TEAM}/{run}") for run in ("branch", "stream")},  # type: ignore[misc]
    "list": lambda it: it.printed("adapters", "list"),
    "show": lambda it: it.printed("adapters", "show", "stream@v2"),
    "tree": lambda it: it.printed("adapters", "show", "stream@v1", "--tree"),
    "verify": lambda it: it.printed("adapters", "verify"),
    "gc": lambda it: it.printed("adapters", "gc", "--grace", "36500d"),  # no grace that ends while this is kept
    "gc without grace": lambda it: it.printed("adapters", "gc", "--grace", "0s"),
    "sweep": lambda it: it.printed(*SHOW, f"run.store={it.store}"),
}  # fmt: skip


MODULES = tuple(f"encoder.layer.{layer}.attention.output.dense" for layer in (4, 5))


def deltas(recorded: Recorded) -> dict[str, float]:
    """The norm of B·A of each module, in a LoRA that is exported of golden/branch@v3 into `folder`/peft."""
    import numpy as np
    from safetensors.numpy import load_file

    recorded.printed("adapters", "export", "branch@v3", "--format", "peft", "--output", "peft")
    lora = load_file(recorded.folder / "peft" / "adapter_model.safetensors")
    sides = {
        (name, side): v for k, v in lora.items() for name in MODULES for side in "AB" if f"{name}.lora_{side}" in k
    }
    adapted = [name for name in MODULES if (name, "B") in sides]
    return {name: float(np.linalg.norm(sides[name, "B"] @ sides[name, "A"])) for name in adapted}


# --- the shapes of entries' bodies

FIELDS = ("seq", "prev_sha256", "nonce", "actor", "time", "op", "signature")
BY_NAME = {  # mappings whose keys are names of modules, packages, searched keys, …
    "budget", "occupancy", "versions", "values", "importance", "importance.*", "evidence", "rules.promotion",
    "rules.keys", "rules.unsigned", "seconds",
}  # fmt: skip
WHOLE = {"config", "cluster"}  # configurations, whose schema is another's matter
Shape = Any


def shape_of(value: Any, path: str = "") -> Shape:
    """JSON types: names of them, joined by | if there are several; objects by key; lists as [shape of the items]."""
    if isinstance(value, dict):
        if path in WHOLE:
            return "object"
        if path in BY_NAME:
            below = [shape_of(each, f"{path}.*" if path else "*") for each in value.values()]
            return {"*": merged(below)} if below else {}
        return {key: shape_of(each, f"{path}.{key}" if path else key) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [merged([shape_of(each, path) for each in value])] if value else []
    return "null" if value is None else type(value).__name__


def merged(shapes: list[Shape]) -> Shape:
    """One shape for all; keys that not all objects have end in ?."""
    kinds = {type(shape) for shape in shapes}
    if len(kinds) > 1:
        return "|".join(
            sorted(
                {
                    word
                    for shape in shapes
                    for word in (shape if isinstance(shape, str) else type(shape).__name__).split("|")
                }
            )
        )
    if kinds == {dict}:
        keys = sorted({key.rstrip("?") for shape in shapes for key in shape})
        found = {key: [s.get(key, s.get(f"{key}?")) for s in shapes if key in s or f"{key}?" in s] for key in keys}
        always = {key: len(found[key]) == len(shapes) and all(key in shape for shape in shapes) for key in keys}
        return {key if always[key] or key == "*" else f"{key}?": merged(found[key]) for key in keys}
    if kinds == {list}:
        items = [item for shape in shapes for item in shape]
        return [merged(items)] if items else []
    return "|".join(sorted({word for shape in shapes for word in shape.split("|")}))


def body_of(data: bytes) -> tuple[str, dict[str, Any]]:
    """(operation, body) of an entry's bytes, by JSON alone."""
    content = json.loads(data)
    return content["op"], {key: value for key, value in content.items() if key not in FIELDS}


def bodies(logs: Mapping[str, list[bytes]]) -> dict[str, Any]:
    """By operation (a sweep's as `sweep OP`): the sets of keys that bodies have, and the shape of all of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, entries in logs.items():
        for data in entries:
            op, body = body_of(data)
            found.setdefault(f"sweep {op}" if "/.sweeps/" in key else op, []).append(body)
    return {
        op: {
            "keys": sorted(map(list, {tuple(sorted(body)) for body in each})),
            "shape": merged([shape_of(body) for body in each]),
        }
        for op, each in sorted(found.items())
    }


def misfits(expected: Mapping[str, Any], logs: Mapping[str, list[bytes]]) -> list[str]:
    """Entries whose body has other keys, or values of other types, than bodies of their operation have; a line each."""
    lines = []
    for key, entries in logs.items():
        for data in entries:
            op, body = body_of(data)
            body.pop("decisions", None)  # came later, and any entry may carry them
            body.pop("tokenizer", None)  # came later, in commits
            op = f"sweep {op}" if "/.sweeps/" in key else op
            known = expected.get(op)
            if known is None:
                lines.append(f"{op}: unknown operation")
            elif sorted(body) not in known["keys"]:
                lines.append(f"{op}: keys {sorted(body)}")
            elif not within(shape_of(body), known["shape"]):
                lines.append(f"{op}: {shape_of(body)} is not {known['shape']}")
    return lines


def within(shape: Shape, wider: Shape) -> bool:
    """Whether merging adds nothing to the wider shape, but for keys that may be absent."""
    return bool(merged([wider, shape]) == wider) or shape in ([], {})
