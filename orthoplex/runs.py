"""`orthoplex.plan`, `run`, `status` and `sweep`: the commands of these names, for Python. What they say is logged."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.storage import open_store
from orchestrator.config.run import RunConfig, load_config, parse_config
from orchestrator.delivery.load import store_uri
from orchestrator.registry.references import find_track
from orchestrator.track.state import RunState, replay
from trainers.messages import Progress

if TYPE_CHECKING:
    from orchestrator.run.plan import Plan
    from orchestrator.sweeps.sweep_state import SweepState

LOGGER = logging.getLogger("orthoplex")
Config = str | Path | Mapping[str, Any] | RunConfig


class Logged:
    """Follows a run: what it says is logged as info, its steps as debug."""

    def say(self, message: str) -> None:
        """One line."""
        LOGGER.info("%s", message)

    def progress(self, task: str, progress: Progress) -> None:
        """A step of a task."""
        LOGGER.debug("%s: %s %d/%d", task, progress.phase, progress.step, progress.total_steps)

    def taken(self, state: RunState) -> None:
        """Says nothing: that the run goes on is said by it."""

    def committed(self, state: RunState) -> None:
        """A task is done."""
        LOGGER.info("committed as %s", state.reference(state.commits[-1]))


def config_of(config: Config, overrides: Sequence[str] = ()) -> RunConfig:
    """A configuration: a YAML file, a mapping as such a file holds it, or one that is read already.

    Raises:
        ConfigError: it is wrong, or `overrides` (`a.b=value`) are given without a file.
    """
    if isinstance(config, RunConfig):
        return config
    return parse_config(config, "config") if isinstance(config, Mapping) else load_config(Path(config), overrides)


def plan(config: Config, overrides: Sequence[str] = ()) -> "Plan":
    """What a run would do; changes nothing. Raises ConfigError as `run` would; why a run that was begun otherwise
    cannot go on is in `objections`."""
    from orchestrator.run.plan import make_plan

    return make_plan(config_of(config, overrides))


def run(config: Config, overrides: Sequence[str] = ()) -> RunState:
    """Runs the task sequence, or goes on with it; a finished run is only read. Returns where it stands.

    Raises:
        ConfigError, DataError, ConflictError, GuardStop, TrainingError, StoreError, Interrupted: as the command ends.
    """
    from orchestrator.run.controller import Controller
    from orchestrator.run.tracking import tracked

    loaded = config_of(config, overrides)
    with tracked(loaded, Logged()) as reporter:
        return Controller(loaded, reporter).run()


def status(run: str, *, store: str | None = None) -> RunState:
    """Where a run, named `name` or `team/name`, stands in a store. Raises ConfigError if there is none."""
    track = find_track(open_store(store_uri(store)), run)
    return replay(track.team, track.name, track.entries())


def sweep(config: str | Path, overrides: Sequence[str] = ()) -> "SweepState":
    """Searches as the sweep's YAML file says, or goes on with it. Returns where it stands. Raises as `run`."""
    from orchestrator.sweeps.config import load_sweep
    from orchestrator.sweeps.driver import Sweep

    return Sweep(load_sweep(Path(config), overrides), LOGGER.info).run()
