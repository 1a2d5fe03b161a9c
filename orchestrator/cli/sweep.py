"""`orthoplex sweep`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ConfigError, GuardStop, Interrupted
from cluster.words import as_options
from orchestrator.cli.common import AsJson, only_our_output, print_json
from orchestrator.console.volume import volume

if TYPE_CHECKING:
    from pydantic import JsonValue

    from orchestrator.sweeps.config import SweepConfig
    from orchestrator.sweeps.sweep_state import SweepState

SweepPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="a sweep's YAML file, as in configs/sweeps/")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a key: budget.trials=4, run.data_dir=PATH")
]
Show = Annotated[bool, typer.Option("--show", help="show where the sweep stands, and train nothing")]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="folder of the result; default .orthoplex/sweeps/TEAM/NAME"),
]


def sweep(
    config: SweepPath,
    *,
    overrides: Overrides = [],  # noqa: B006
    show: Show = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Search budgets and orthogonality weights with Ray Tune. A sweep that was cut goes on; a finished one says so."""
    from orchestrator.sweeps.config import load_sweep

    loaded = load_sweep(config, overrides)  # errors of the configuration come before torch is imported
    from orchestrator.console.screen import out
    from orchestrator.console.sweep import print_sweep
    from orchestrator.sweeps.results import result_folder

    folder = output or result_folder(loaded)

    def say(message: str) -> None:
        if not (as_json or volume.quiet):
            out.print(message, markup=False)

    interrupted = None
    if show:
        state = stored(loaded)
    else:
        with only_our_output():
            from orchestrator.sweeps.driver import Sweep
        driver = Sweep(loaded, say)
        try:
            with only_our_output():
                state = driver.run()
        except (Interrupted, KeyboardInterrupt):
            again = shlex.join(["orthoplex", "sweep", str(config), *as_options(overrides)])
            interrupted, state = (
                Interrupted(f"interrupted; what was trained is kept. Go on with: {again}"),
                driver.state,
            )
    found = write(loaded, state, folder)
    if as_json:
        print_json(found)
    else:
        print_sweep(loaded, state, folder)
    if interrupted:
        raise interrupted from None
    if state.status == "finished" and found["recommended"] is None:
        raise GuardStop(f"no trial can be recommended: {found['reason']}")


def stored(loaded: "SweepConfig") -> "SweepState":
    """The state of a sweep, replayed from its log. Raises ConfigError if there is none."""
    from cluster.storage import open_store
    from orchestrator.sweeps.sweep_state import replay_sweep, sweep_log

    state = replay_sweep(sweep_log(open_store(loaded.run.store), loaded.run.team, loaded.name).entries())
    if state.status == "absent":
        raise ConfigError(f"no sweep {loaded.run.team}/{loaded.name} in {loaded.run.store}; run it without --show")
    return state


def write(loaded: "SweepConfig", state: "SweepState", folder: Path) -> "dict[str, JsonValue]":
    """Puts the result's files into the folder; what `--json` prints."""
    from cluster.storage import open_store
    from orchestrator.sweeps.results import as_json, fetch

    if state.choice:
        fetch(open_store(loaded.run.store), state.choice, folder)
    return as_json(loaded, state, folder)
