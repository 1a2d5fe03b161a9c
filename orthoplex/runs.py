"""`orthoplex.plan`, `run`, `status` and `sweep`: the commands of these names, for Python. What they say is logged; in a
notebook it is shown."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.storage import open_store
from orchestrator.config.run import RunConfig, load_config, parse_config
from orchestrator.delivery.load import store_uri, warn_of_skipped
from orchestrator.registry.references import find_track
from orchestrator.track.state import RunState, replay
from orthoplex.notebook import Shown, in_notebook
from orthoplex.shown import Run, of
from trainers.messages import Progress

if TYPE_CHECKING:
    from orthoplex.planned import Planned
    from orthoplex.swept import Swept

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


def plan(config: Config, overrides: Sequence[str] = ()) -> "Planned":
    """What a run would do; changes nothing.

    Args:
        config: as `run` takes it.
        overrides: as `run` takes them.

    Raises:
        ConfigError, DataError: as `run` would. Why a run that was begun otherwise cannot go on is in `objections`.
    """
    from orchestrator.run.plan import make_plan
    from orthoplex.planned import Planned

    return of(Planned, make_plan(config_of(config, overrides)))


def run(config: Config, overrides: Sequence[str] = ()) -> Run:
    """Runs the task sequence, or goes on with it; a finished run is only read. Returns where it stands.

    Args:
        config: a YAML file, a mapping as such a file holds it, or a configuration that is read already.
        overrides: `a.b=value`, as `--set` takes them; with a file only.

    Raises:
        ConfigError, DataError, ConflictError, GuardStop, TrainingError, StoreError, Interrupted: as the command ends.
    """
    from orchestrator.run.controller import Controller
    from orchestrator.run.tracking import tracked

    loaded = config_of(config, overrides)
    with tracked(loaded, Shown() if in_notebook() else Logged()) as reporter:
        return of(Run, Controller(loaded, reporter).run())


def status(run: str, *, store: str | None = None) -> Run:
    """Where a run stands in a store.

    Args:
        run: `name` or `team/name`.
        store: a folder or s3://bucket/prefix. Default: $ORTHOPLEX_STORE, else .orthoplex/store.

    Raises:
        ConfigError: there is no such run.
    """
    track = find_track(open_store(store_uri(store)), run)
    entries = track.entries()
    warn_of_skipped(track.label, entries)
    return of(Run, replay(track.team, track.name, entries))


def sweep(config: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None) -> "Swept":
    """Searches as the sweep's YAML file says, or goes on with it. Returns where it stands.

    Args:
        config: a sweep's YAML file.
        overrides: `a.b=value`, as `--set` takes them.
        output: the folder of the recommended configuration and the picture. Default: .orthoplex/sweeps/TEAM/NAME.

    Raises:
        ConfigError, ConflictError, TrainingError, StoreError, Interrupted: as the command ends.
    """
    from orchestrator.sweeps.config import load_sweep
    from orchestrator.sweeps.driver import Sweep
    from orchestrator.sweeps.results import fetch, result_folder
    from orthoplex.swept import Swept

    loaded = load_sweep(Path(config), overrides)
    state = Sweep(loaded, Shown().say if in_notebook() else LOGGER.info).run()
    folder = Path(output) if output else result_folder(loaded)
    if state.choice:
        fetch(open_store(loaded.run.store), state.choice, folder)
    return of(Swept, state, searched=loaded, folder=folder)
