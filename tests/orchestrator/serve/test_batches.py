"""What is asked in the same way is answered together, and one failure is one job's."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.serve.batches import Batches, Job, answer, together


@dataclass(frozen=True)
class Echo:
    """Answers items by themselves, and fails for "bad"; calls wait for `go`."""

    name: str
    most: int = 4
    calls: list[list[Any]] = field(default_factory=list, compare=False)
    go: threading.Event = field(default_factory=threading.Event, compare=False)

    def answer(self, items: Sequence[Any]) -> list[Any]:
        assert self.go.wait(10)
        self.calls.append([*items])
        if "bad" in items:
            raise ValueError("bad")
        return [KeyError(item) if item == "wrong" else f"{self.name} {item}" for item in items]


def test_what_comes_in_while_a_batch_is_at_work_is_the_next() -> None:
    way, other, sizes = Echo("a"), Echo("b"), list[int]()
    other.go.set()
    batches = Batches(sizes.append)
    asked = [batches.ask(way, [0])]
    while batches.waiting:
        time.sleep(0.01)  # until the thread has taken it
    asked += [batches.ask(way, [1]), batches.ask(other, [2]), batches.ask(way, [3, 4])]
    way.go.set()
    assert [future.result(10) for future in asked] == [["a 0"], ["a 1"], ["b 2"], ["a 3", "a 4"]]
    batches.close()
    assert way.calls == [[0], [1, 3, 4]] and other.calls == [[2]] and sizes == [1, 3, 1]
    assert not batches.thread.is_alive()


def test_a_batch_is_of_one_way_and_of_its_size() -> None:
    jobs = [Job(Echo(name), range(size)) for name, size in (("a", 2), ("b", 1), ("a", 3), ("a", 2), ("a", 1))]
    assert together(jobs) == [jobs[0], jobs[3]]
    assert together([Job(Echo("a"), range(9)), jobs[0]])[0].items == range(9)


def test_one_failure_is_one_jobs() -> None:
    way = Echo("a", most=9)
    way.go.set()
    jobs = [Job(way, items) for items in ([1], ["bad"], [2, 3])]
    answer(jobs)
    assert jobs[0].answers.result() == ["a 1"] and jobs[2].answers.result() == ["a 2", "a 3"]
    with pytest.raises(ValueError, match="bad"):
        jobs[1].answers.result()


def test_an_item_that_cannot_be_asked_fails_its_job_alone() -> None:
    way = Echo("a", most=9)
    way.go.set()
    jobs = [Job(way, items) for items in ([1], [2, "wrong"])]
    answer(jobs)
    assert jobs[0].answers.result() == ["a 1"] and len(way.calls) == 1
    with pytest.raises(KeyError):
        jobs[1].answers.result()


def test_what_nobody_waits_for_is_not_computed() -> None:
    way = Echo("a")
    way.go.set()
    jobs = [Job(way, [1]), Job(way, [2])]
    jobs[0].answers.cancel()
    answer(jobs)
    assert way.calls == [[2]]
    with pytest.raises(CancelledError):
        jobs[0].answers.result()
