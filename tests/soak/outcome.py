"""What a run came to: what must not depend on what happened meanwhile."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cluster.storage import open_store
from orchestrator.log.entry import Entry
from orchestrator.log.event import carried, parse
from orchestrator.track.events import KINDS
from orchestrator.track.state import replay
from orchestrator.track.track import Track, manifest_files
from tests.soak.memory import held_bytes
from tests.soak.stream import NAME, TEAM

FILES = ("adapter.safetensors", "bases.safetensors")


@dataclass(frozen=True)
class Outcome:
    """`scores` are the matrices, `digests` the sha256 of the files of each task. `entries` counts those of the log,
    `ops` by operation. In bytes, per task: `log` is what a driver holds of the entries since the commit before,
    `stored` the files of its adapter and bases."""

    status: str
    scores: dict[str, Any]
    digests: list[list[str]]
    entries: int
    ops: dict[str, int]
    log: list[int]
    stored: list[int]

    def differences(self, other: "Outcome") -> list[str]:
        """What differs between the ends of two runs; none if they came to the same."""
        found = [key for key in self.scores if self.scores[key] != other.scores[key]]
        if self.digests != other.digests:
            pairs = enumerate(zip(self.digests, other.digests, strict=False), start=1)
            first = next((task for task, (a, b) in pairs if a != b), "the last ones")
            found.append(f"files from task {first} on")
        return found + ["state"] * (self.status != other.status)


def outcome(uri: str) -> Outcome:
    """The outcome of the soak's run in a store."""
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
        stored=[sum(files[name].size for name in FILES) for files in manifests],
    )


def log_bytes(entries: list[Entry]) -> int:
    """The bytes that a log takes in a process that has read it: entries, and what they were parsed into."""
    parsed = [[carried(entry), parse(entry, KINDS[entry.op])] for entry in entries]
    return held_bytes([entries, parsed])


def told(found: Outcome) -> dict[str, Any]:
    """The figures of an outcome."""
    return {
        "entries": found.entries, "ops": found.ops, "files_bytes": sum(found.stored),
        "log_in_memory_bytes": sum(found.log),
    }  # fmt: skip
