"""What two runs of a soak say together: whether they came to the same, and whether memory grew by what was held."""

from typing import Any

from tests.soak.outcome import Outcome, told
from tests.soak.supervisor import Record, TaskCost, figures

MOST_GROWTH = 1.2  # of what is held
SETTLED = 50  # tasks after which a process has loaded what it needs: the first index comes with entry 200
LEAST = 100  # tasks after that; less is not judged
ENTRIES = 10  # of the log per task at least: 5,000 after 500 tasks


def judged(undisturbed: tuple[Record, Outcome], disturbed: tuple[Record, Outcome]) -> dict[str, Any]:
    """All figures; `faults` says what is not as promised."""
    (quiet, whole), (hard, torn) = undisturbed, disturbed
    memory = growth(quiet.tasks, whole)
    faults = [f"other than undisturbed: {each}" for each in whole.differences(torn)]
    if torn.entries < ENTRIES * len(torn.digests):
        faults.append(f"the log has {torn.entries} entries, fewer than {ENTRIES} per task")
    for name in ("driver", "worker") if memory["over_tasks"] >= LEAST else ():
        if memory[f"{name}_grew"] > MOST_GROWTH * memory[f"{name}_holds"]:
            faults.append(f"the {name} grew by more than {MOST_GROWTH} times what it holds")
    return {
        "tasks": len(whole.digests),
        "undisturbed": {**figures(quiet), **told(whole), "seconds_per_task": pace(quiet.tasks), **memory},
        "disturbed": {**figures(hard), **told(torn), "seconds_per_task": pace(hard.tasks)},
        "faults": faults,
    }


def pace(tasks: list[TaskCost]) -> list[float]:
    """Seconds per task, the mean of each tenth of the tasks."""
    size = max(1, len(tasks) // 10)
    parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    return [round(sum(each.seconds for each in part) / len(part), 2) for part in parts]


def growth(tasks: list[TaskCost], found: Outcome) -> dict[str, int]:
    """By how many bytes driver and workers grew, and how many more they held in the end: the driver log entries, as it
    holds them, workers adapters and bases, as they are stored. Of the driver that committed most tasks, without its
    first ones."""
    longest = max({task.start for task in tasks}, key=lambda start: sum(task.start == start for task in tasks))
    mine = [task for task in tasks if task.start == longest and task.driver]
    first, last = mine[min(SETTLED, len(mine) // 2)], mine[-1]
    added = slice(first.task, last.task)
    return {
        "over_tasks": last.task - first.task,
        "driver_grew": last.driver - first.driver,
        "driver_holds": sum(found.log[added]),
        "worker_grew": max((b - a for a, b in zip(first.workers, last.workers, strict=False)), default=0),
        "worker_holds": sum(found.stored[added]),
    }
