"""Every fuzzer for a short while: 30 s for all of them together. `make fuzz` takes longer."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from tests.fuzz import harness
from tests.fuzz.harness import Case, fuzz
from tests.fuzz.known import FUZZERS
from tests.support.sample import SEED

TOGETHER_S = 30.0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FUZZERS))
def test_everything_is_refused_or_accepted_rightly(name: str) -> None:
    report = fuzz(FUZZERS[name], TOGETHER_S / len(FUZZERS), SEED)
    assert report.faults == [] and report.cases


def raising(error: BaseException) -> Case:
    def work() -> None:
        raise error

    return Case("raises", work)


class Raw(ConfigError):
    """An error that does not bound its message, as all others do."""

    def __str__(self) -> str:
        return str(self.args[0])


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ConfigError("name: no"), None),
        (Raw("x" * 2_001), "2001 characters"),
        (Raw("\x1b[2J"), "control characters"),
        (KeyError("name"), "KeyError"),
        (AssertionError("accepted"), "accepted"),
        (SystemExit(1), "SystemExit"),
    ],
)
def test_what_counts_as_a_fault(error: BaseException, fault: str | None) -> None:
    def fuzzer(_: random.Random, __: Path) -> Iterator[Case]:
        yield raising(error)

    report = fuzz(fuzzer, 1.0, 0)
    assert report.cases == 1 and len(report.faults) == (fault is not None)
    assert fault is None or fault in report.faults[0]


def test_what_takes_too_long_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "MOST_S", 0.01)
    monkeypatch.setattr(harness, "HANGS_S", 0.2)

    def fuzzer(_: random.Random, __: Path) -> Iterator[Case]:
        yield Case("computes", lambda: sum(range(3_000_000)))
        yield Case("waits", lambda: __import__("threading").Event().wait(20))

    faults = fuzz(fuzzer, 10.0, 0).faults
    assert len(faults) == 2 and "s of CPU" in faults[0] and "no end after" in faults[1]
