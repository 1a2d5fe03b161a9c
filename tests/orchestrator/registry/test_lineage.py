"""Versions as they stand on each other."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from orchestrator.registry.aliases import promote
from orchestrator.registry.gc import Collector
from orchestrator.registry.lineage import tree, tree_lines


def test_a_stream_with_an_alias_and_a_deleted_version(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a", "b")
    run.commit([0.5, 0.5])
    run.commit([0.5, 0.5])
    promote(run.track, 1, "production")
    Collector(run.track, timedelta(days=1)).delete(2, "wrong data")
    content = tree(run.state, run.track.entries())
    assert (content["track"], content["base"], content["base_digest"]) == ("default/stream", "minilm", "b" * 64)
    first, second = content["versions"]
    commit = run.state.commits[0]
    assert first == {
        "ref": "default/stream@v1", "task": "a", "manifest_sha256": commit.manifest_sha256, "aliases": ["production"],
        "deleted": False, "committed_at": commit.time,
    }  # fmt: skip
    assert second["deleted"] and second["aliases"] == []
    lines = tree_lines(content)
    assert lines[0] == f"minilm  sha256 {'b' * 64}" and lines[1].endswith("  ← production")
    assert (
        lines[1].startswith("├─ default/stream@v1  a  ")
        and lines[2].startswith("└─ default/stream@v2  b  ")
        and lines[2].endswith("  (deleted)")
    )


def test_nothing_is_known_before_the_first_task(fake_run: Callable[..., Any]) -> None:
    run = fake_run("a")
    assert tree_lines(tree(run.state, run.track.entries())) == ["minilm  sha256 not known"]
