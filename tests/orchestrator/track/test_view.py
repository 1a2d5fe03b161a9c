"""What `status --json` has beside the matrices: what a run took, macro F1, functional penalties."""

from typing import Any

from orchestrator.track.view import status_view

FILES = {"manifest_sha256": "0" * 64, "stored_bytes": 1}


def committed(run: Any, index: int, **more: Any) -> None:
    body = {"version": index + 1, "index": index, "task": "ab"[index], "prefix": f"p{index}", **FILES}
    run.append("commit", {**body, **more})


def test_macro_f1(fake_run: Any) -> None:
    run = fake_run("a", "b")
    plain = {"correct": 5, "rows": 20}
    committed(run, 0, test=[{**plain, "macro_f1": 0.125}, plain])
    view: Any = status_view(run.state)
    assert view["macro_f1"] == [[0.125, None], [None, None]] and view["matrix"][0] == [0.25, 0.25]
    other = fake_run("a", name="other")
    committed(other, 0, test=[plain])
    assert "macro_f1" not in status_view(other.state)


def test_the_functional_penalty(fake_run: Any) -> None:
    run = fake_run("a", "b")
    committed(run, 0)
    committed(run, 1, functional=0.5)
    view: Any = status_view(run.state)
    assert [task.get("functional") for task in view["tasks"]] == [None, 0.5]
    run.append("renew", {"progress": {"index": 1, "phase": "train", "step": 1, "total_steps": 2, "functional": 0.25}})
    progress: Any = status_view(run.state)["progress"]
    assert progress["functional"] == 0.25


def test_what_it_took(fake_run: Any) -> None:
    run = fake_run("a", "b")
    assert status_view(run.state)["spent"] is None
    committed(run, 0, cost={"train_s": 3, "evaluate_s": 1.5, "workers": 2})
    assert status_view(run.state)["spent"] == {
        "train_s": 3.0, "evaluate_s": 1.5, "gpu_hours": 0.0, "money": None, "currency": None,
    }  # fmt: skip
