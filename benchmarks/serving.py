"""A server under load while an alias is promoted and rolled back.

    python -m benchmarks.serving RUN [--store S] [--seconds 30] [--clients 16] [--moves 5] [--text T] [--task T]

RUN has versions 1 and 2, whose answers to the probe text differ; the alias `benchmark` of it is moved. Each client asks
for the labels of the probe and of a text of its own, and asks again when it is answered. Every answer must name one
version, in body and header, and give the probe the probabilities that this version alone gives it. Printed: requests,
failures, answers of another version than they name, p50, p95 and p99 in milliseconds, and how long a move took to show.
The exit code is 1 if a request failed or an answer was of another version.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from cluster.local import free_port
from cluster.storage import open_store
from orchestrator.registry.aliases import promote, rollback
from orchestrator.registry.references import find_track
from orchestrator.serve.launch import Address, prepare, serving
from orchestrator.serve.settings import ServeSettings
from orchestrator.track.track import Track

ALIAS = "benchmark"
APART, ALIKE = 1e-2, 1e-4  # probabilities of two versions, and of one version in another batch
Scores = Mapping[str, float]


@dataclass
class Load:
    """What clients ask, and what they were answered. `expected` has the probe's probabilities by version."""

    url: str
    model: str
    task: str | None
    probe: str
    expected: Mapping[str, Scores]
    latencies_ms: list[float] = field(default_factory=list)
    answers: list[tuple[float, str]] = field(default_factory=list)  # when it came, and the version that it names
    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)

    async def client(self, session: aiohttp.ClientSession, number: int, ends: float) -> None:
        """Asks one after the other until the clock says `ends`."""
        count = 0
        while time.monotonic() < ends:
            count += 1
            asked = {"model": self.model, "input": [self.probe, f"text {count} of client {number}"]}
            started = time.monotonic()
            try:
                async with session.post(self.url, json=asked | ({"task": self.task} if self.task else {})) as answer:
                    self.judge(answer.status, answer.headers.get("x-orthoplex-version", ""), await answer.json())
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.latencies_ms.append(1000 * (time.monotonic() - started))

    def judge(self, status: int, named: str, body: Mapping[str, Any]) -> None:
        """Whether an answer is of the version that it names."""
        if status != 200:
            self.failures.append(f"{status}: {body}")
            return
        self.answers.append((time.monotonic(), named))
        found = body["data"][0]["scores"]
        if body["model"] != named or named not in self.expected or apart(found, self.expected[named]) > ALIKE:
            self.mixed.append(f"{named}: {found}")

    def report(self) -> list[str]:
        """The figures, a line each."""
        p50, p95, p99 = np.percentile(self.latencies_ms, [50, 95, 99])
        versions = Counter(version for _, version in self.answers)
        shown = ", ".join(f"{version} {count:,}" for version, count in sorted(versions.items()))
        return [
            f"{len(self.latencies_ms):,} requests, {len(self.failures)} failed; answers: {shown}; "
            f"{len(self.mixed)} of another version than they name",
            f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, p99 {p99:.0f} ms",
        ]

    def shown_after_s(self, moved: Sequence[tuple[float, str]]) -> list[float]:
        """Of each move of the alias (when, and to which version), the seconds to its first answer."""
        return [
            min((came - at for came, named in self.answers if came >= at and named == version), default=float("inf"))
            for at, version in moved
        ]


def apart(one: Scores, other: Scores) -> float:
    """The largest difference of two probabilities."""
    return max(abs(one[label] - other[label]) for label in other)


def expected_of(track: Track, store: str, probe: str, task: str | None) -> dict[str, Scores]:
    """The probe's probabilities by versions 1 and 2, each in weights of its own. Ends the program if they are alike."""
    from orchestrator.delivery.predictor import Predictor

    found = {}
    for reference in (f"{track.label}@v1", f"{track.label}@v2"):
        found[reference] = dict(Predictor(reference, store=store).classify([probe], task=task)[0].scores)
    first, second = found.values()
    if apart(first, second) < APART:
        sys.exit(f"versions 1 and 2 answer {probe!r} alike: {first}, {second}; give another --text")
    return found


async def move(track: Track, moves: int, seconds: float) -> list[tuple[float, str]]:
    """Promotes version 2 and rolls it back `moves` times, evenly over the time. Returns when, and to which version."""
    made, pause = [], seconds / (2 * moves + 1)
    for index in range(2 * moves):
        await asyncio.sleep(pause)
        if index % 2:
            await asyncio.to_thread(rollback, track, ALIAS)
        else:
            await asyncio.to_thread(promote, track, 2, ALIAS)
        made.append((time.monotonic(), f"{track.label}@v{1 if index % 2 else 2}"))
    return made


async def under_load(load: Load, track: Track, *, seconds: float, clients: int, moves: int) -> list[tuple[float, str]]:
    """Loads the server while the alias moves. Returns the moves."""
    ends = time.monotonic() + seconds
    headers = (
        {"authorization": f"Bearer {os.environ['ORTHOPLEX_API_KEYS']}"} if "ORTHOPLEX_API_KEYS" in os.environ else {}
    )
    limits = aiohttp.ClientTimeout(total=60)
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(headers=headers, timeout=limits, connector=connector) as session:
        asking = [load.client(session, number, ends) for number in range(clients)]
        moved, *_ = await asyncio.gather(move(track, moves, seconds), *asking)
    return moved


def measured(
    run: str, store: str, *, probe: str, task: str | None, seconds: float, clients: int, moves: int
) -> tuple[Load, list[float]]:
    """Starts a server, loads it, and ends it. Returns what was answered, and how long each move took to show."""
    track = find_track(open_store(store), run)
    expected = expected_of(track, store, probe, task)
    promote(track, 1, ALIAS)
    name = f"{track.label}@{ALIAS}"
    settings = ServeSettings(adapters=(name,), store=store, refresh_s=0.5, open=True)
    address = Address("127.0.0.1", free_port(8000))
    load = Load(f"http://{address}/v1/classify", name, task, probe, expected)
    with serving(settings, address):
        moved = asyncio.run(under_load(load, track, seconds=seconds, clients=clients, moves=moves))
    return load, load.shown_after_s(moved)


def main() -> None:
    """See the head of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--store", default=os.environ.get("ORTHOPLEX_STORE", ".orthoplex/store"))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--moves", type=int, default=5)
    parser.add_argument("--text", default="Compute the arithmetic mean along the specified axis.")
    parser.add_argument("--task")
    given = parser.parse_args()
    prepare(os.environ)
    store = given.store if "://" in given.store else str(Path(given.store).resolve())
    load, shown = measured(
        given.run, store, probe=given.text, task=given.task, seconds=given.seconds, clients=given.clients,
        moves=given.moves,
    )  # fmt: skip
    print(f"{given.clients} clients, {given.seconds:g} s, {2 * given.moves} moves of the alias")
    print("\n".join(load.report()))
    print(f"{len(load.latencies_ms) / given.seconds:.0f} requests a second, two texts each")
    print("seconds from a move to its first answer: " + ", ".join(f"{each:.2f}" for each in shown))
    for kind in (load.failures, load.mixed):
        print("\n".join(kind[:5]), end="\n" if kind else "")
    sys.exit(1 if load.failures or load.mixed else 0)


if __name__ == "__main__":
    main()
