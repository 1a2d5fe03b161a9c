"""How near the tests that compare numbers come to their bounds, on other CPUs: `make test-cpus`.

Usage: PYTHONPATH=. python -m tests.cpu_sweep [--at-once N] [TEST FILE …]. Runs the files under every pair of a vector
width and a number of threads, N pairs at the same time. It prints the tests that fail, and those whose worst comparison
takes more than half of its bound. It ends with 1 if one fails. Files that start Ray are left out.

As a pytest plugin (`-p tests.cpu_sweep`) it writes the worst ratio per test to the file $CPU_SWEEP, as JSON lines. The
ratio of |a − b| <= atol + rtol |b| is the largest |a − b| / (atol + rtol |b|). `pytest.approx` and, of torch and NumPy,
`assert_close` and `allclose` are seen. A test that compares otherwise passes or fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

WIDTHS = {  # of vectors: what PyTorch's kernels, oneDNN and MKL are told that the CPU has
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
}
THREADS = (1, 2, 4)
NUMERIC = re.compile(r"allclose|assert_close|approx\(|assert_moved_alike|\de-\d|2\*\*-")
ON_RAY = ("test_pool.py", "test_ranks.py", "test_group.py")
NEAR = 0.5
ratios: dict[str, float] = defaultdict(float)


def ratio(found: Any, expected: Any, rtol: float, atol: float) -> float:
    """The largest |a − b| / (atol + rtol |b|); 0 for what is equal, and for what is no number."""
    try:
        a, b = (torch.as_tensor(each).detach().double() for each in (found, expected))
        off = (a - b).abs() / (atol + rtol * b.abs())
    except (TypeError, ValueError, RuntimeError):
        return 0.0
    return float(off[a != b].max()) if bool((a != b).any()) else 0.0


def note(value: float) -> None:
    """Takes a ratio down for the running test."""
    name = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    ratios[name] = max(ratios[name], value)


def watched(compare: Callable[..., Any], rtol: float | None, atol: float | None) -> Callable[..., Any]:
    """A function (found, expected, rtol=, atol=) that also takes the ratio down. Tolerances of None are the dtype's."""

    @wraps(compare)  # docstrings are what some tests read
    def watching(found: Any, expected: Any, *given: Any, **named: Any) -> Any:
        r, a = given[:2] if len(given) > 1 else (named.get("rtol", rtol), named.get("atol", atol))
        if r is None and isinstance(found, torch.Tensor):
            r, a = torch.testing._comparison.get_tolerances(found, expected, rtol=None, atol=None)
        result = compare(found, expected, *given, **named)
        if result is not False and r is not None:  # `not allclose(...)` is asked too
            note(ratio(found, expected, r, a))
        return result

    return watching


def pytest_configure() -> None:
    """Puts the watched functions in the place of the others, before test files import them."""
    torch.testing.assert_close = watched(torch.testing.assert_close, None, None)
    torch.allclose = watched(torch.allclose, 1e-5, 1e-8)
    np.allclose = watched(np.allclose, 1e-5, 1e-8)
    np.testing.assert_allclose = watched(np.testing.assert_allclose, 1e-7, 0)
    approx = type(pytest.approx(1.0))
    equal = approx.__eq__

    def approximately(self: Any, actual: Any) -> bool:
        found = equal(self, actual)
        if found and isinstance(actual, float | np.floating) and self.tolerance:
            note(ratio(actual, self.expected, 0.0, self.tolerance))
        return found

    approx.__eq__ = approximately  # type: ignore[method-assign]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Writes a test's result and its worst ratio."""
    if report.when == "call" or report.outcome == "failed":
        with Path(os.environ["CPU_SWEEP"]).open("a") as file:
            file.write(json.dumps([report.nodeid, report.outcome, ratios.get(report.nodeid, 0.0)]) + "\n")


def numeric() -> list[str]:
    """The test files of trainers that compare numbers and do not start Ray."""
    files = sorted(Path("tests/trainers").rglob("test_*.py"))
    return [str(file) for file in files if file.name not in ON_RAY and NUMERIC.search(file.read_text())]


def run(files: Sequence[str], width: str, threads: int) -> list[tuple[str, str, float]]:
    """Test, outcome and worst ratio under one setting, in one process."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        environment = {**os.environ, **WIDTHS[width], "OMP_NUM_THREADS": str(threads), "CPU_SWEEP": str(results)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cpu_sweep", "--tb=short", *files]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        rows = [tuple(json.loads(line)) for line in results.read_text().splitlines()]
    bad = [name for name, outcome, _ in rows if outcome == "failed"]
    print(f"{width}, {threads} threads: {len(rows)} tests, {len(bad)} failed", flush=True)
    if done.returncode:
        print(done.stdout[-4000:], flush=True)
    return rows


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("files", nargs="*", default=numeric())
    options = parser.parse_args()
    settings = [(width, threads) for width in WIDTHS for threads in THREADS]
    with ThreadPoolExecutor(options.at_once) as pool:
        found = list(pool.map(lambda setting: run(options.files, *setting), settings))
    worst: dict[str, tuple[float, str]] = {}
    for (width, threads), rows in zip(settings, found, strict=True):
        for name, _, value in rows:
            worst[name] = max(worst.get(name, (0.0, "")), (value, f"{width}, {threads} threads"))
    for name, (value, where) in sorted(worst.items(), key=lambda item: -item[1][0]):
        if value > NEAR:
            print(f"{value:.2f} of its bound ({where}): {name}")
    return any(outcome == "failed" for rows in found for _, outcome, _ in rows)


if __name__ == "__main__":
    sys.exit(main())
