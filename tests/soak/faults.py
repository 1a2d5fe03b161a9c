"""When what is killed or taken away in a soak: drawn by seed, spread over the tasks."""

import random
from dataclasses import dataclass
from typing import Literal

What = Literal["driver", "worker", "store"]
MOST_DELAY_S, AWAY_S, AGAIN_S = 2.0, (1.0, 6.0), (1.0, 15.0)
EVERY = 5  # after so many kills of a driver, the next driver is killed while it starts


@dataclass(frozen=True)
class Fault:
    """Something is done `delay_s` after so many tasks are committed. A store is away for `away_s`. A driver that starts
    after the fault is killed `again_s` after its start, if that is not 0."""

    after: int
    delay_s: float
    what: What
    away_s: float = 0.0
    again_s: float = 0.0

    @property
    def kills(self) -> int:
        """The number of processes that it kills."""
        return 0 if self.what == "store" else 1 + (self.again_s > 0)


def draw_faults(tasks: int, kills: int, outages: int, seed: int) -> list[Fault]:
    """So many kills of drivers and workers, and outages, in order; at most one per task.

    Raises ValueError if there are fewer tasks than faults.
    """
    draw = random.Random(seed)
    found = list[tuple[float, What, float, float]]()
    left = kills
    while left > 0:
        what: What = "driver" if len(found) % 2 == 0 else "worker"
        twice = what == "driver" and left > 1 and len(found) // 2 % EVERY == EVERY - 1
        again = draw.uniform(*AGAIN_S) if twice else 0.0
        left -= 1 + (again > 0)
        found.append((draw.uniform(0, MOST_DELAY_S), what, 0.0, again))
    found += [(draw.uniform(0, MOST_DELAY_S), "store", draw.uniform(*AWAY_S), 0.0) for _ in range(outages)]
    if len(found) > tasks:
        raise ValueError(f"{len(found)} faults are more than {tasks} tasks; ask for fewer kills")
    draw.shuffle(found)
    at = sorted(draw.sample(range(tasks), len(found)))
    return [Fault(after, *each) for after, each in zip(at, found, strict=True)]
