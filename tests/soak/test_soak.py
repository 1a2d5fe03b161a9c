"""The parts of the soak: faults by seed, memory, a command that is kept going, and what two runs say together."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.soak.faults import Fault, draw_faults
from tests.soak.figures import judged
from tests.soak.memory import anonymous_bytes, held_bytes
from tests.soak.outcome import Outcome
from tests.soak.stream import ROWS, WORDS, task_rows
from tests.soak.supervisor import Record, Supervised, TaskCost

RUN = textwrap.dedent("""
    import pathlib, sys, time
    done, store = map(pathlib.Path, sys.argv[1:])
    while (task := 1 + int(done.read_text() or 0)) < 9:
        time.sleep(0.1)
        if not store.exists():
            sys.exit(1)
        done.write_text(str(task))
        print(f"[{task}/8] t: committed as default/soak@v{task}; accuracy", flush=True)
""")


def test_faults_are_drawn_by_seed_and_are_as_many_as_asked() -> None:
    faults = draw_faults(500, 40, 10, 0)
    assert faults == draw_faults(500, 40, 10, 0) != draw_faults(500, 40, 10, 1)
    assert sum(fault.kills for fault in faults) == 40 and [f.what for f in faults].count("store") == 10
    assert any(fault.again_s for fault in faults) and {fault.what for fault in faults} == {"driver", "worker", "store"}
    after = [fault.after for fault in faults]
    assert after == sorted({*after}) and after[0] >= 0 and after[-1] < 500
    with pytest.raises(ValueError, match="5 faults are more than 4 tasks"):
        draw_faults(4, 3, 2, 0)


def test_memory_of_this_process_and_of_tensors() -> None:
    before = anonymous_bytes(os.getpid())
    kept = torch.ones(10_000_000)  # so large that it is not given memory that was let go before
    assert anonymous_bytes(os.getpid()) - before > 30e6 and anonymous_bytes(2**22 + 1) == 0
    views = {"whole": kept, "part": kept[:10]}
    assert 40e6 < held_bytes([views, kept]) < 40.1e6
    assert held_bytes([[1000, 1001], [1000]]) < 300


def test_rows_of_a_task_are_its_own_each_time() -> None:
    rows = task_rows(3)
    assert rows == task_rows(3) != task_rows(4) and {split: len(part) for split, part in rows.items()} == ROWS
    texts = [row["text"] for part in rows.values() for row in part]
    assert len({*texts}) == len(texts) and {row["label"] for row in rows["train"]} <= {*WORDS}


def supervised(folder: Path, lines: list[str], **more: Any) -> Supervised:
    """Eight tasks of a tenth of a second each, which go on where they were."""
    (folder / "done").write_text("")
    (folder / "store").touch()
    words = [sys.executable, "-c", RUN, str(folder / "done"), str(folder / "store")]

    def away(gone: bool) -> None:
        (folder / "store").unlink(missing_ok=True) if gone else (folder / "store").touch()

    return Supervised(words, folder, lines.append, away=away, **more)


def test_a_run_is_kept_going_through_kills_and_outages(tmp_path: Path) -> None:
    lines: list[str] = []
    run = supervised(tmp_path, lines)
    record = run.run([Fault(1, 0.0, "driver"), Fault(3, 0.0, "store", away_s=0.5), Fault(6, 0.0, "driver", 0.0, 0.01)])
    assert [task.task for task in record.tasks] == [*range(1, 9)] and record.kills == {"driver": 3, "worker": 0}
    assert record.codes.count(-9) == 3 and record.codes[-1] == 0 and 1 in record.codes and record.outages == 1
    assert record.starts == len(record.codes) and sum(line.startswith("task ") for line in lines) == 8
    assert Record.read(tmp_path / "record.json") == record
    again = supervised(tmp_path, lines)
    (tmp_path / "done").write_text("8")
    assert again.run([Fault(1, 0.0, "driver")]).kills == {"driver": 3, "worker": 0}  # it had come to its end


def test_a_worker_is_killed_and_what_never_gets_on_is_given_up(tmp_path: Path) -> None:
    import psutil

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        run = supervised(tmp_path, [], workers=lambda _: [psutil.Process(worker.pid)])
        assert run.run([Fault(1, 0.0, "worker")]).kills == {"driver": 0, "worker": 1} and worker.wait() == -9
    run = supervised(tmp_path, [])
    (tmp_path / "store").unlink()
    with pytest.raises(RuntimeError, match="ended with 1, 7 times without a commit"):
        run.run()


MB = 1_000_000
TASKS = [TaskCost(task, 1.0, 1, 400 * MB + 1000 * task, [500 * MB, 500 * MB + 300 * task]) for task in range(1, 201)]
WHOLE = Outcome("finished", {"test": [[0.5]]}, [["a", "b"]] * 200, 2000, {}, [900] * 200, [260] * 200)


def test_two_runs_that_came_to_the_same() -> None:
    found = judged((Record(tasks=TASKS), WHOLE), (Record(starts=3), WHOLE))
    assert found["faults"] == [] and found["undisturbed"]["over_tasks"] == 149 and found["disturbed"]["starts"] == 3
    assert (found["undisturbed"]["driver_grew"], found["undisturbed"]["driver_holds"]) == (149_000, 134_100)
    assert (found["undisturbed"]["worker_grew"], found["undisturbed"]["worker_holds"]) == (44_700, 38_740)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"scores": {"test": [[0.25]]}}, "other than undisturbed: test"),
        ({"digests": [["a", "b"]] * 7 + [["a", "c"]] * 193}, "other than undisturbed: files from task 8 on"),
        ({"status": "failed"}, "other than undisturbed: state"),
        ({"entries": 1999}, "the log has 1999 entries, fewer than 10 per task"),
    ],
)
def test_two_runs_that_differ(change: dict[str, Any], fault: str) -> None:
    assert judged((Record(tasks=TASKS), WHOLE), (Record(), replace(WHOLE, **change)))["faults"] == [fault]


def test_memory_that_grows_by_more_than_is_held() -> None:
    less = replace(WHOLE, log=[800] * 200, stored=[200] * 200)
    assert [each.partition(" grew")[0] for each in judged((Record(tasks=TASKS), less), (Record(), less))["faults"]] == [
        "the driver", "the worker",
    ]  # fmt: skip
    assert judged((Record(tasks=TASKS[:60]), less), (Record(), less))["faults"] == []  # too few to judge by
