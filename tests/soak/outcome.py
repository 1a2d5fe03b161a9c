"""What a run came to: what must not depend on what happened meanwhile."""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from cluster.storage import open_store
from orchestrator.log.entry import Entry
from orchestrator.log.event import carried, parse
from orchestrator.track.events import KINDS, Commit
from orchestrator.track.state import replay
from orchestrator.track.track import Track, manifest_files
from tests.soak.memory import anonymous_bytes, held_bytes
from tests.soak.stream import NAME, TEAM
from trainers.methods.oa.artifact import TaskAdapter
from trainers.methods.oa.artifact import parse as read

FILES = ("adapter.safetensors", "bases.safetensors")
MEASURED = 1000  # adapters


@dataclass(frozen=True)
class Outcome:
    """`scores` are the matrices, `digests` the sha256 of the files of each task. `entries` counts those of the log,
    `ops` by operation. In bytes, per task: `log` is what a driver holds of the entries since the commit before,
    `stored` its files; `adapter` is what a worker holds of one."""

    status: str
    scores: dict[str, Any]
    digests: list[list[str]]
    entries: int
    ops: dict[str, int]
    log: list[int]
    adapter: float
    stored: list[int]

    def differences(self, other: "Outcome") -> list[str]:
        """What differs between the ends of two runs; none if they came to the same."""
        found = [key for key in self.scores if self.scores[key] != other.scores[key]]
        if self.digests != other.digests:
            pairs = enumerate(zip(self.digests, other.digests, strict=False), start=1)
            first = next((task for task, (a, b) in pairs if a != b), "the last ones")
            found.append(f"files from task {first} on")
        return found + ["state"] * (self.status != other.status)


def outcome(uri: str, *, measured: bool = False) -> Outcome:
    """The outcome of the soak's run in a store; `adapter` is 0 unless it is to be measured."""
    track = Track(open_store(uri), TEAM, NAME)
    entries = track.entries()
    state = replay(TEAM, NAME, entries)
    manifests = [manifest_files(track.manifest_of(commit)) for commit in state.commits]
    ops, ends = [entry.op for entry in entries], [0, *(commit.seq for commit in state.commits)]
    return Outcome(
        status=state.status,
        scores={"test": state.matrix("test"), "validation": state.matrix("validation"), "untrained": state.zero_shot},
        digests=[[files[name].sha256 for name in FILES] for files in manifests],
        entries=len(entries),
        ops={op: ops.count(op) for op in sorted({*ops})},
        log=[log_bytes(entries[first:last]) for first, last in pairwise(ends)],
        adapter=adapter_bytes(track, state.commits) if measured else 0.0,
        stored=[sum(files[name].size for name in FILES) for files in manifests],
    )


def log_bytes(entries: list[Entry]) -> int:
    """The bytes that a log takes in a process that has read it: entries, and what they were parsed into."""
    parsed = [[carried(entry), parse(entry, KINDS[entry.op])] for entry in entries]
    return held_bytes([entries, parsed])


def adapter_bytes(track: Track, commits: Sequence[Commit]) -> float:
    """The bytes that a task's adapter takes in a worker, the mean over these. Bases and what the functional penalty
    needs are joined there. Most of it is what PyTorch adds to numbers, so it is measured: this process holds many."""
    files = [track.committed(commit, *FILES) for commit in commits]
    held, before = list[TaskAdapter](), anonymous_bytes(os.getpid())
    while len(held) < MEASURED:
        held += [replace(read(*each), written={}, read={}, felt={}) for each in files]
    gc.collect()
    return (anonymous_bytes(os.getpid()) - before) / len(held)


def told(found: Outcome) -> dict[str, Any]:
    """The figures of an outcome."""
    return {
        "entries": found.entries, "ops": found.ops, "files_bytes": sum(found.stored),
        "log_in_memory_bytes": sum(found.log),
    }  # fmt: skip
