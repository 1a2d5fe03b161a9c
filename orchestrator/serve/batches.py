"""One thread that computes: what is asked in the same way while it is at work is answered together next.

Nothing waits for a batch to fill. Under load batches grow by themselves: their size is what came in during the last.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Asked_contra = TypeVar("Asked_contra", contravariant=True)
Found_co = TypeVar("Found_co", covariant=True)


class Way(Hashable, Protocol[Asked_contra, Found_co]):
    """A way to answer. Equal ways are answered together, at most `most` items at once."""

    @property
    def most(self) -> int:
        """Items of a batch."""

    def answer(self, items: Sequence[Asked_contra]) -> Sequence[Found_co | Exception]:
        """The answer to each item, or the exception that it ends with."""


@dataclass(eq=False)
class Job(Generic[Item, Answer]):
    """Items that are asked together, and the list of their answers."""

    way: Way[Item, Answer]
    items: Sequence[Item]
    answers: "Future[list[Answer]]" = field(default_factory=Future)


class Batches:
    """The queue and its thread. `told` gets the number of items of every batch."""

    def __init__(self, told: Callable[[int], None] = lambda _: None) -> None:
        self.told = told
        self.waiting = deque[Job]()
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self.thread.start()

    def ask(self, way: Way[Item, Answer], items: Sequence[Item]) -> "Future[list[Answer]]":
        """The answers to items, in order. The future raises the exception of the first item that ended with one."""
        job = Job(way, items)
        with self.changed:
            self.waiting.append(job)
            self.changed.notify()
        return job.answers

    def close(self) -> None:
        """Ends the thread after the batch at work."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            answer(jobs)
            self.told(sum(len(job.items) for job in jobs))
            del jobs  # or a version that is drained stays in memory until the next request

    def _next(self) -> list[Job]:
        """The jobs of the next batch: the oldest one, and those that are answered in the same way. None at the end."""
        with self.changed:
            while not self.waiting and not self.closed:
                self.changed.wait()
            if self.closed:
                return []
            chosen = together(self.waiting)
            self.waiting = deque(job for job in self.waiting if job not in chosen)
            return chosen


def together(waiting: Sequence[Job] | deque[Job]) -> list[Job]:
    """The first job, and further ones of its way as long as they fit into a batch."""
    first, *others = waiting
    chosen, size = [first], len(first.items)
    for job in others:
        if job.way == first.way and size + len(job.items) <= first.way.most:
            chosen.append(job)
            size += len(job.items)
    return chosen


def answer(jobs: Sequence[Job]) -> None:
    """Answers jobs of one way in one call; if that fails, each by itself, so that the others do not fail with one."""
    jobs = [job for job in jobs if job.answers.set_running_or_notify_cancel()]
    if not jobs:
        return
    try:
        found = [*jobs[0].way.answer([item for job in jobs for item in job.items])]
    except Exception as error:
        for job in jobs:
            _settle(job, [error] if len(jobs) == 1 else _alone(job))
        return
    for job in jobs:
        own, found = found[: len(job.items)], found[len(job.items) :]
        _settle(job, own)


def _alone(job: Job[Item, Answer]) -> Sequence[Answer | Exception]:
    try:
        return job.way.answer(job.items)
    except Exception as error:
        return [error]


def _settle(job: Job[Item, Answer], answers: Sequence[Answer | Exception]) -> None:
    fault = next((each for each in answers if isinstance(each, Exception)), None)
    with suppress(InvalidStateError):
        if fault is not None:
            job.answers.set_exception(fault)
        else:
            job.answers.set_result([each for each in answers if not isinstance(each, Exception)])
