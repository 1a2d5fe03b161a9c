"""Which trials end early: dominance and ASHA against rules written anew, and a restart that forgets nothing."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.sweeps.config import AshaConfig, StoppingConfig
from orchestrator.sweeps.early_stopping import StreamScheduler, asha, dominated_by, row_of
from orchestrator.sweeps.events import Row
from orchestrator.sweeps.sweep_state import SweepTrial
from tests.support.sweeps import row, trial

DOMINANCE = StoppingConfig(asha=None)
NO_DOMINANCE = StoppingConfig(dominated=False)
STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE
Streams = dict[int, list[tuple[int, int]]]  # by number; after each task AA in 1/40, parameters


def streams(seed: int, count: int = 8, length: int = 4) -> Streams:
    """Streams of one to `length` tasks, with many ties."""
    draw = random.Random(seed)
    return {
        number: [(draw.randrange(20, 30), 100 * draw.randrange(1, 5)) for _ in range(draw.randint(1, length))]
        for number in range(1, count + 1)
    }


def measured(found: Streams) -> dict[int, list[Row]]:
    return {
        number: [row(task, aa / 40, parameters) for task, (aa, parameters) in enumerate(points, 1)]
        for number, points in found.items()
    }


def better(number: int, found: Streams, margin: int) -> set[int]:
    """The others that at the tasks of this stream have no more parameters, and an AA raised above this one's by
    `margin` (1/40) at least, and one of the two more than that."""
    done = len(found[number])
    aa, parameters = found[number][-1]
    return {
        other
        for other, points in found.items()
        if other != number
        and len(points) >= done
        and points[done - 1][1] <= parameters
        and points[done - 1][0] >= aa + margin
        and (points[done - 1][0] > aa + margin or points[done - 1][1] < parameters)
    }


# --- dominance


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("seed", range(15))
def test_dominance(seed: int, margin: int) -> None:
    found = streams(seed)
    rules = DOMINANCE.model_copy(update={"margin": margin / 40})
    for number in found:
        expected, other = better(number, found, margin), dominated_by(number, measured(found), rules)
        assert (other in expected) if expected else other is None


def test_the_seeds_show_both_cases() -> None:
    """What the test above rests on."""
    cases = [bool(better(number, streams(seed), 1)) for seed in range(15) for number in streams(seed)]
    assert 0.2 < sum(cases) / len(cases) < 0.8


def test_a_margin_is_not_reached_by_rounding() -> None:
    rows = {1: [row(1, 0.3)], 2: [row(1, 0.1 + 0.2 + 0.05)]}  # 0.35000000000000003
    assert dominated_by(1, rows, DOMINANCE.model_copy(update={"margin": 0.05})) is None
    assert dominated_by(1, rows, DOMINANCE.model_copy(update={"margin": 0.049})) == 2


def test_only_streams_of_as_many_tasks_are_compared() -> None:
    rows = {1: [row(1, 0.5, 100), row(2, 0.4, 200)], 2: [row(1, 0.9, 10)], 3: [row(3, 0.9, 10)]}
    assert dominated_by(1, rows, DOMINANCE) is None
    assert dominated_by(1, {**rows, 3: [row(2, 0.9, 10), row(3, 0.1, 900)]}, DOMINANCE) == 3


@pytest.mark.parametrize("grace", [1, 2, 3, 4])
def test_grace(grace: int) -> None:
    rules = DOMINANCE.model_copy(update={"grace_tasks": grace})
    for tasks in range(1, 5):
        found = {1: [row(n, 0.5, 100) for n in range(1, tasks + 1)], 2: [row(n, 0.9, 50) for n in range(1, 5)]}
        assert dominated_by(1, found, rules) == (2 if tasks >= grace else None)


def test_switched_off() -> None:
    assert (
        dominated_by(1, {1: [row(1, 0.1)], 2: [row(1, 0.9)]}, DOMINANCE.model_copy(update={"dominated": False})) is None
    )


# --- the scheduler, driven as Tune's controller drives it


def reasons(scheduler: StreamScheduler) -> dict[int, str]:
    return {number: decision.reason for number, decision in scheduler.stopped.items()}


def stand_in(number: int) -> Any:
    return SimpleNamespace(trial_id=f"tune-{number}", config={"number": number, "values": {}})


class Driver:
    """Tells a scheduler what Tune does: a result with `done` goes past `on_trial_result`, and every end is told with
    the last result (TuneController._process_trial_result, stop_trial)."""

    def __init__(self, scheduler: StreamScheduler) -> None:
        self.scheduler = scheduler
        self.trials: dict[int, Any] = {}

    def report(self, number: int, row: Row, *, done: bool = False) -> bool:
        """Whether the trial is stopped."""
        if number not in self.trials:
            self.trials[number] = stand_in(number)
            self.scheduler.on_trial_add(None, self.trials[number])
        done = done or row.tasks == self.scheduler.length
        decision = CONTINUE
        if not done:
            decision = self.scheduler.on_trial_result(None, self.trials[number], row.model_dump())
        self.scheduler.measure(number, row)
        if done or decision == STOP:
            self.scheduler.on_trial_complete(None, self.trials[number], row.model_dump())
        return decision == STOP


class Halving:
    """Li et al., arXiv:1810.05934, algorithm 2, as Ray Tune states it: at rung r·ηᵏ a stream stops where it is below
    the (1 − 1/η) quantile, by linear interpolation, of those that reached the rung before it."""

    def __init__(self, grace: int, factor: float, length: int) -> None:
        rungs, self.keep = [float(grace)], 1 - 1 / factor
        while rungs[-1] * factor < length:
            rungs.append(rungs[-1] * factor)
        self.reached: dict[float, dict[int, float]] = {rung: {} for rung in reversed(rungs)}

    def stops(self, number: int, row: Row) -> bool:
        for rung, before in self.reached.items():
            if row.tasks >= rung and number not in before:
                others = sorted(before.values())
                before[number] = row.aa
                if not others:
                    return False
                place = self.keep * (len(others) - 1)
                low = others[int(place)]
                high = others[min(int(place) + 1, len(others) - 1)]
                return row.aa < low + (high - low) * (place - int(place))
        return False


def rows_of(seed: int, number: int, length: int) -> list[Row]:
    draw = random.Random(1000 * seed + number)
    return [row(task, draw.random(), draw.randrange(10, 1000)) for task in range(1, length + 1)]


@pytest.mark.parametrize(("grace", "factor", "length"), [(1, 2, 8), (2, 2, 9), (1, 3, 10), (1, 1.5, 6), (3, 4, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_asha(seed: int, grace: int, factor: float, length: int) -> None:
    """Eight trials at once, in random turns."""
    asked = AshaConfig(grace_tasks=grace, reduction_factor=factor)
    rules = NO_DOMINANCE.model_copy(update={"asha": asked})
    scheduler, rule, draw = StreamScheduler(rules, length, []), Halving(grace, factor, length), random.Random(seed)
    driver = Driver(scheduler)
    left = {number: rows_of(seed, number, length) for number in range(1, 9)}
    stopped = set[int]()
    while left:
        number = draw.choice([*left])
        now = left[number].pop(0)
        expected = now.tasks < length and rule.stops(number, now)
        assert driver.report(number, now) == expected
        if expected:
            stopped.add(number)
            said = scheduler.stopped[number].reason
            tasks = "1 task " if now.tasks == 1 else f"{now.tasks} tasks "
            assert f"AA of {100 * now.aa:.2f} points" in said and f"1/{factor:g} after {tasks}(ASHA)" in said
        if expected or not left[number]:
            del left[number]
    assert {*scheduler.stopped} == stopped and 0 < len(stopped) < 8


@pytest.mark.parametrize(
    ("rules", "length", "halves"),
    [
        (StoppingConfig(), 4, True),
        (StoppingConfig(asha=None), 4, False),
        (StoppingConfig(), 2, False),  # its first rung is the last task
        (StoppingConfig(asha=AshaConfig(grace_tasks=3)), 4, True),
        (StoppingConfig(asha=AshaConfig(grace_tasks=5)), 4, False),
    ],
)
def test_where_nothing_is_halved(rules: StoppingConfig, length: int, halves: bool) -> None:
    assert (type(asha(rules, length)) is not FIFOScheduler) == halves
    driver = Driver(StreamScheduler(rules.model_copy(update={"dominated": False}), length, []))
    stops = [driver.report(number, row(n, 0.9 / number)) for number in (1, 2) for n in range(1, length + 1)]
    assert any(stops) == halves


def test_reasons_name_the_other_trial_before_asha() -> None:
    driver = Driver(StreamScheduler(StoppingConfig(asha=AshaConfig(grace_tasks=1)), 4, []))
    assert not driver.report(7, row(1, 0.9, 100))
    assert driver.report(8, row(1, 0.5, 200))
    assert driver.report(9, row(1, 0.5, 50))  # smaller, so that only ASHA drops it
    assert not driver.report(7, row(2, 0.8, 150))
    assert driver.scheduler.stopped[8].reason == "dominated by trial 7 after 1 task"
    assert "(ASHA)" in driver.scheduler.stopped[9].reason and {*driver.scheduler.stopped} == {8, 9}


def test_dominance_is_seen_at_later_tasks_too() -> None:
    driver = Driver(StreamScheduler(DOMINANCE, 4, []))
    for task, aa in ((1, 0.5), (2, 0.6), (3, 0.7)):
        assert not driver.report(1, row(task, aa, 100 * task))
    assert not driver.report(2, row(1, 0.6, 100))  # on which trial 1 has nothing, and the other way round it is late
    assert not driver.report(2, row(2, 0.7, 150))
    assert driver.report(2, row(3, 0.6, 350))
    assert reasons(driver.scheduler) == {2: "dominated by trial 1 after 3 tasks"}


def test_the_last_task_stops_nothing() -> None:
    scheduler = StreamScheduler(
        StoppingConfig(asha=AshaConfig(grace_tasks=1)), 2, [trial(1, [row(1, 0.9), row(2, 0.9)])]
    )
    scheduler.on_trial_add(None, stand_in(2))
    assert scheduler.on_trial_result(None, stand_in(2), row(2, 0.1, 900).model_dump()) == CONTINUE
    assert scheduler.stopped == {}


def test_what_measured_nothing_goes_on() -> None:
    scheduler = StreamScheduler(StoppingConfig(), 4, [])
    scheduler.on_trial_add(None, stand_in(1))
    assert scheduler.on_trial_result(None, stand_in(1), {"tasks": 0, "training_iteration": 1}) == CONTINUE
    assert scheduler.measured == {} and row_of({"tasks": 0}) is None and row_of(None) is None


def test_what_is_told_twice_counts_once() -> None:
    scheduler = StreamScheduler(DOMINANCE, 4, [])
    for told in (row(2, 0.5), row(1, 0.6), row(2, 0.7)):
        scheduler.measure(3, told)
    assert scheduler.measured == {3: [row(1, 0.6), row(2, 0.7)]}


# --- started again


def run_to_its_end(driver: Driver, number: int, rows: list[Row]) -> SweepTrial:
    """The trial as the sweep's log has it then."""
    for index, now in enumerate(rows):
        if driver.report(number, now):
            return trial(number, rows[: index + 1], "stopped")
    return trial(number, rows, "finished")


BOTH = StoppingConfig(asha=AshaConfig(grace_tasks=1, reduction_factor=2), margin=0.1)


@pytest.mark.parametrize("before", [1, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_earlier_trials_count_as_if_seen_live(seed: int, before: int) -> None:
    length = 5
    live = Driver(StreamScheduler(BOTH, length, []))
    earlier = [run_to_its_end(live, number, rows_of(seed, number, length)) for number in range(1, before + 1)]
    again = Driver(StreamScheduler(BOTH, length, earlier))
    for number in range(before + 1, 11):
        rows = rows_of(seed, number, length)
        assert run_to_its_end(live, number, rows) == run_to_its_end(again, number, rows)
    later = {number: why for number, why in reasons(live.scheduler).items() if number > before}
    assert reasons(again.scheduler) == later
    assert again.scheduler.measured == live.scheduler.measured


def test_earlier_trials_that_a_guard_ended_count_as_if_seen_live() -> None:
    """A run's own guard ends it with a result that is `done`."""
    rules = NO_DOMINANCE.model_copy(update={"asha": AshaConfig(grace_tasks=1)})
    live = Driver(StreamScheduler(rules, 4, []))
    rows = [row(1, 0.6), row(2, 0.9)]
    live.report(1, rows[0])
    live.report(1, rows[1], done=True)
    again = Driver(StreamScheduler(rules, 4, [trial(1, rows, "stopped")]))
    for driver in (live, again):
        driver.report(2, row(1, 0.7))
    assert live.report(2, row(2, 0.8)) == again.report(2, row(2, 0.8))


def test_failed_trials_count_by_what_they_measured() -> None:
    driver = Driver(StreamScheduler(DOMINANCE, 4, [trial(1, [row(1, 0.9, 50)], "failed"), trial(2, [], "failed")]))
    assert driver.report(3, row(1, 0.5, 100))
    assert reasons(driver.scheduler) == {3: "dominated by trial 1 after 1 task"}


def test_a_trial_that_goes_on_reports_anew() -> None:
    """It measured the same before; nobody is compared with itself."""
    driver = Driver(StreamScheduler(DOMINANCE, 4, [trial(1, [row(1, 0.9, 50)], "failed")]))
    for _ in range(2):
        assert not driver.report(2, row(1, 0.5, 40))
    assert not driver.report(2, row(2, 0.6, 80))
