"""Decisions of a run: as they are kept, told from logs of older runs, copied with a fork; `verify` finds faults."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import IntegrityError
from orchestrator.registry.decisions import decided
from orchestrator.registry.pull import pull
from orchestrator.registry.verify import verify
from orchestrator.run.controller import Controller
from orchestrator.run.fork import plan_fork
from tests.support.fake_workers import MODULES, FakeWorkers, Told, run_config, sha256, without_ray
from trainers.training.decisions import DECISIONS


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def done(store: Path, tasks: str = "ab", *, fork: Any = None, decides: bool = True, **sections: Any) -> Controller:
    config = run_config(store, tasks, **sections)
    made = Controller(config, Told(), fork, FakeWorkers(config, decides=decides))
    made.run()
    return made


def kept(run: Controller, task: int = 0) -> Path:
    return Path(run.store.uri.removeprefix("file://")) / run.state.commits[task].prefix / DECISIONS


def test_decisions_are_kept_with_their_digest(tmp_path: Path) -> None:
    run = done(tmp_path)
    assert run.state.commits[1].decisions_sha256 == sha256(kept(run, 1).read_bytes())
    first, second = decided(run.track, run.state)
    assert first.recorded and [(each.module, each.decision) for each in first.lines] == [
        (module, kind) for module in MODULES for kind in ("budget", "protection", "capacity")
    ]
    assert {each.task for each in second.lines} == {"b"} and {each.run for each in second.lines} == {"default/stream"}
    budget = second.of(MODULES[1])["budget"]
    assert budget.outcome["rank"] == 1 and budget.inputs["off"][0]["step"] == 6
    assert decided(run.track, run.state, run.state.commits[1:]) == [second]
    assert verify(run.track).faults == []


def test_a_file_that_is_changed_or_lost_is_a_fault(tmp_path: Path) -> None:
    run = done(tmp_path)
    kept(run).write_bytes(b"x" * len(kept(run).read_bytes()))
    kept(run, 1).unlink()
    changed, lost = verify(run.track).faults
    assert f"{DECISIONS}: differs" in changed and f"{DECISIONS}: is missing; restore it from a backup" in lost
    for commit, words in zip(run.state.commits, ("differs", "is missing"), strict=True):
        with pytest.raises(IntegrityError, match=words):
            decided(run.track, run.state, [commit])


def test_a_manifest_without_the_file_is_a_fault(tmp_path: Path) -> None:
    """The commit names the decisions by themselves, so that no other manifest stands in."""
    run = done(tmp_path, "a")
    commit = run.state.commits[0].model_copy(update={"decisions_sha256": "0" * 64})
    (fault,) = faults_of(run, commit)
    assert fault == f"v1: its manifest lists no {DECISIONS} with the digest that its commit names"
    plain = done(tmp_path, "a", decides=False, name="plain")
    bare = plain.state.commits[0].model_copy(update={"decisions_sha256": "0" * 64})
    assert len(faults_of(plain, bare)) == 1
    with pytest.raises(IntegrityError, match="which its commit names; restore it"):
        decided(plain.track, plain.state, [bare])


def faults_of(run: Controller, commit: Any) -> list[str]:
    from dataclasses import replace

    from orchestrator.registry.verify import _manifest_faults

    return [*_manifest_faults(run.track, replace(run.state, commits=(commit,)), [])]


def test_a_run_from_before(tmp_path: Path) -> None:
    """Its commits have no new key; what is told of it comes from its logs, as far as these go."""
    old, new = (done(tmp_path, decides=each, name=name) for each, name in ((False, "old"), (True, "new")))
    assert "decisions_sha256" not in old.state.commits[0].body()
    told, recorded = (decided(run.track, run.state)[1] for run in (old, new))
    assert not told.recorded and len(told.lines) == len(recorded.lines)
    for one, other in zip(told.lines, recorded.lines, strict=True):
        assert (one.module, one.decision, one.rule, one.thresholds, one.outcome) == (
            other.module, other.decision, other.rule, other.thresholds, other.outcome,
        )  # fmt: skip
        if one.decision == "protection":
            assert (one.inputs["overlap"], other.inputs["overlap"]) == (None, 0.125)
    assert told.lines[0].when == old.state.commits[1].time


def test_without_a_training_log(tmp_path: Path) -> None:
    lora = done(tmp_path, adapter={"target_modules": ["dense"], "method": "lora"}, decides=False)
    found = decided(lora.track, lora.state)
    assert [each.recorded for each in found] == [False, False]
    assert {line.decision for each in found for line in each.lines} == {"protection"}  # these workers say what is full


def test_a_fork_keeps_them(tmp_path: Path) -> None:
    source = done(tmp_path)
    fork = done(tmp_path, "ac", fork=plan_fork(source.track, 2), name="fork")
    first, second = decided(fork.track, fork.state)
    assert first.lines == decided(source.track, source.state)[0].lines and first.lines[0].run == "default/stream"
    assert {each.task for each in second.lines} == {"c"} and verify(fork.track).faults == []


def test_they_are_pulled(tmp_path: Path) -> None:
    run = done(tmp_path / "store")
    pull(run.track, {"": run.state.commits[0]}, tmp_path / "out")
    assert (tmp_path / "out" / DECISIONS).read_bytes() == kept(run).read_bytes()
