"""A log in words: an entry per sentence, decisions with their reasons, and what a reader of another version sees."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.console.story import KINDS, Story, Told
from orchestrator.log.decision import Decision
from orchestrator.sweeps.events import OPERATIONS
from orchestrator.track.aside import ASIDE
from orchestrator.track.events import DRIVEN, Committed
from tests.support.begun_sweeps import TRIALS_DONE, begun, entries
from tests.support.entries import START, entry
from tests.support.sweeps import in_store


def told(run: Any) -> list[Told]:
    return [*Story().tell(run.track.entries())]


def test_every_operation_is_known() -> None:
    known = {kind.op for kind in KINDS}
    assert known == {kind.op for kind in (*DRIVEN, *ASIDE, *OPERATIONS)} and Committed in KINDS


def test_a_run_in_words(fake_run: Any) -> None:
    run = fake_run("a", "b")
    guard = Decision(
        rule="guards.max_forgetting", subject="v1", measured=0.1, bound=0.2, verdict="go_on", reason="it is low"
    )
    run.append("workers", {"lease": 1, "workers": 2, "seconds": {"workers": 1.25, "model": 3.0}})
    run.commit([0.5, 0.5], [0.75, 0.5])
    run.append("retry", {"index": 1, "reason": "workers failed", "kind": "workers"})
    run.append("renew", {"progress": {"index": 1, "phase": "train", "step": 4, "total_steps": 9}})
    run.append("promote", {"alias": "production", "version": 1, "expect": 0, "why": "it is good"})
    run.append("stop", {"reason": "a guard", "decisions": [guard.model_dump()]})
    start, opened, workers, commit, retry, renew, promote, stop = (each.text for each in told(run))
    assert start.startswith("taken up by ") and "(pid " in start
    assert opened == "is to learn 2 tasks (a, b); base minilm, method oa"
    assert workers == "2 workers started (model 3.0 s, workers 1.2 s)"
    assert commit == (
        "a: committed as v1; 75.0 points on its test rows; mean r_eff 3.0; 100 parameters; overlap 25.0%; "
        "2 s training, 0 s evaluation on 2 workers"
    )
    assert (retry, renew) == ("b: workers failed", "alive: b: train 4/9")
    assert promote.startswith("production points to v1, by ") and promote.endswith(": it is good")
    last = told(run)[-1]
    assert stop == "stopped: a guard" and last.decisions == (guard,)
    assert last.lines[1].strip() == "decided: go on, since it is low [guards.max_forgetting]"
    assert last.lines[0].startswith(last.time[:10]) and last.shown()["decisions"] == [guard.model_dump()]


def test_a_move_that_came_too_late_does_not_count(fake_run: Any) -> None:
    run = fake_run("a")
    for version, expect in ((1, 0), (2, 0), (3, 3)):
        run.append("promote", {"alias": "best", "version": version, "expect": expect})
    assert ["does not count" in each.text for each in told(run)[2:]] == [False, True, False]


def test_a_later_start_tells_what_changed(fake_run: Any) -> None:
    run = fake_run("a")
    config = run.config.model_dump(mode="json")
    config["cluster"]["num_workers"] = 7
    described = [{"name": name, "rows": {"train": 1}} for name in "ab"]
    run.append("open", {"config": config, "tasks": described})
    assert told(run)[-1].text == "goes on with changes: cluster.num_workers: 2 → 7; 1 task (b) added"


def test_what_is_void_unknown_or_malformed(fake_run: Any) -> None:
    run = fake_run("a")
    run.append("start", START)
    run.append("workers", {"lease": 1, "workers": 1, "seconds": {}})
    run.append("ballad", {"verses": 9})
    void, unknown = told(run)[-2:]
    malformed = Story().told(entry("commit", {"version": "one"}))
    assert void.void and "another driver had taken over" in void.lines[0]
    assert not unknown.known and "(ballad) of a newer Orthoplex" in unknown.text
    assert malformed.text.startswith("an entry (commit) that cannot be read: ")


def test_the_part_about_one_task(fake_run: Any) -> None:
    run = fake_run("a", "b")
    of_b, of_v1 = (Decision(rule="r", subject=subject, verdict="retry", reason="why") for subject in ("b", "v1"))
    run.commit([0.5, 0.5])
    run.append("retry", {"index": 1, "reason": "again", "kind": "workers", "decisions": [of_b.model_dump()]})
    run.append("finish", {"decisions": [of_v1.model_dump(), of_b.model_dump()]})
    story = Story()
    found = [part for each in story.tell(run.track.entries()) if (part := each.about("b", 2))]
    assert [(each.op, each.decisions) for each in found] == [("retry", (of_b,)), ("finish", (of_b,))]
    assert story.version_of("b", "default/stream") == 2
    with pytest.raises(ConfigError, match="default/stream has no such task; it has a, b"):
        story.version_of("weather", "default/stream")


def test_a_sweep_in_words(tmp_path: Path) -> None:
    config = in_store(str(tmp_path / "store"))
    begun(config, TRIALS_DONE, "interrupt", "interrupted by SIGINT")
    lines = [each.text for each in Story().tell(entries(config))]
    assert lines[1].startswith("is to learn 2 tasks (library, section); base minilm, method oa")
    assert lines[2] == "trial 1 begins as the run s-00001: threshold 0.01"
    assert lines[3] == "trial 1 finished; AA 90.0 points, 400 parameters after 4 tasks"
    assert "trial 4 failed: the loss is nan" in lines and lines[-1] == "interrupted by SIGINT"


def test_a_fork(fake_run: Any) -> None:
    run = fake_run("x")
    run.append("fork", {"source": "t/r", "tasks": 1, "described": [{"name": "first"}]})
    run.append("retry", {"index": 0, "reason": "again", "kind": "workers"})
    assert [each.text for each in told(run)[2:]] == ["begins with the first 1 task of t/r", "first: again"]
