"""The versions of a stream, each of which builds on the one before."""

from collections.abc import Sequence
from typing import TypedDict

from orchestrator.log.entry import Entry
from orchestrator.track.events import Committed
from orchestrator.track.moves import by_version
from orchestrator.track.state import RunState


class Node(TypedDict):
    """One version."""

    ref: str
    task: str
    manifest_sha256: str
    aliases: list[str]
    deleted: bool
    committed_at: str


class Tree(TypedDict):
    """A stream and its base; None: not known."""

    track: str
    base: str | None
    base_digest: str | None
    versions: list[Node]


def tree(state: RunState, entries: Sequence[Entry]) -> Tree:
    """The versions of a stream, each building on the one before, and their base."""
    named = by_version(entries)

    def node(commit: Committed) -> Node:
        return {
            "ref": state.reference(commit),
            "task": commit.task,
            "manifest_sha256": commit.manifest_sha256,
            "aliases": [alias.name for alias in named.get(commit.version, ())],
            "deleted": commit.version in state.deleted,
            "committed_at": commit.time,
        }

    return {
        "track": f"{state.team}/{state.name}",
        "base": state.base_model,
        "base_digest": state.base_digest,
        "versions": [node(commit) for commit in state.commits],
    }


def tree_lines(content: Tree) -> list[str]:
    """`tree` for people: each version builds on all above it."""
    lines = [f"{content['base'] or 'base not known'}  sha256 {content['base_digest'] or 'not known'}"]
    for left, each in zip(reversed(range(len(content["versions"]))), content["versions"], strict=True):
        marks = "".join(f"  ← {name}" for name in each["aliases"]) + ("  (deleted)" if each["deleted"] else "")
        lines.append(f"{'├' if left else '└'}─ {each['ref']}  {each['task']}  {each['manifest_sha256'][:12]}{marks}")
    return lines
