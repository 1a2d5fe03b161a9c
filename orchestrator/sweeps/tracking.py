"""A sweep's trials as its sinks see them: each is a run of its own, beside the others of its sweep."""

from collections.abc import Callable, Mapping

from orchestrator.sinks.base import Following, Status, Tracked
from orchestrator.sinks.opening import open_sinks
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import Row, Scalar


class TrialTracking:
    """Tells the sinks what trials measure, and how they end."""

    def __init__(self, config: SweepConfig, say: Callable[[str], None]) -> None:
        """Raises ConfigError as `check_tracking`."""
        self.config, self.sinks = config, open_sinks(config.tracking, say)
        self.following: dict[int, Following] = {}
        self.last: dict[int, Row] = {}

    def measured(self, number: int, values: Mapping[str, Scalar], row: Row) -> None:
        """A trial has done `row.tasks` tasks."""
        if number not in self.following:
            self.following[number] = self.sinks.start(self._described(number, values))
        self.following[number].log(figures(row), step=row.tasks)
        self.last[number] = row

    def ended(self, number: int, status: Status) -> None:
        """A trial has ended; one that measured nothing was never begun."""
        if followed := self.following.pop(number, None):
            followed.end(status, figures(self.last[number]))

    def close(self) -> None:
        """Trials that are left where they stand."""
        for number in list(self.following):
            self.ended(number, "interrupted")

    def _described(self, number: int, values: Mapping[str, Scalar]) -> Tracked:
        run, config = self.config.trial_name(number), self.config
        return Tracked(store=config.run.store, team=config.run.team, name=run, sweep=config.name, parameters=values)


def figures(row: Row) -> dict[str, float | None]:
    """What was measured, by the names under which runs are followed."""
    return {
        "aa/validation": row.aa,
        "bwt/validation": row.bwt,
        "forgetting/validation": row.forgetting,
        "parameters": row.parameters,
        "train_s": row.train_s,
        "evaluate_s": row.evaluate_s,
    }
