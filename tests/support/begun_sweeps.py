"""Sweeps in a store whose driver has left, and what their logs hold."""

from collections.abc import Sequence

from cluster.storage import open_store
from orchestrator.log.entry import Entry
from orchestrator.run.driver_log import DriverLog
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import KNOWN, Outcome, Point
from orchestrator.sweeps.sweep_state import SweepState, SweepTrial, replay_sweep, sweep_log
from orchestrator.track.events import ENDINGS, Open, TaskDescription
from tests.support.sweeps import finished, row, trial

DATA = [TaskDescription(name=name, fingerprint=name * 8) for name in ("library", "section")]


def silent(_: str) -> None: ...


def taken(config: SweepConfig) -> DriverLog[SweepState]:
    log = DriverLog(sweep_log(open_store(config.run.store), config.run.team, config.name), replay_sweep, "sweep", KNOWN)
    log.take({}, 120, silent)
    return log


def begun(
    config: SweepConfig, trials: Sequence[SweepTrial] = (), op: str = "finish", reason: str | None = None
) -> None:
    """A sweep whose driver has left; trials are as given."""
    log = taken(config)
    log.append(Open(config=config.model_dump(mode="json"), tasks=tuple(DATA)))
    for each in trials:
        log.append(Point(number=each.number, values=dict(each.values), run=each.run))
        if each.status != "running":
            log.append(Outcome(number=each.number, status=each.status, reason=each.reason, rows=each.rows))
    log.append({kind.op: kind for kind in ENDINGS}[op](reason=reason))


def entries(config: SweepConfig) -> list[Entry]:
    return sweep_log(open_store(config.run.store), config.run.team, config.name).entries()


def ops(config: SweepConfig) -> list[str]:
    return [entry.op for entry in entries(config)]


TRIALS_DONE = (finished(1, 0.9, 400), finished(2, 0.8, 100), trial(3, [row(1, 0.2)], "stopped"), trial(4, (), "failed"))
