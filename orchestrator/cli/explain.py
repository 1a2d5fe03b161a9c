"""`orthoplex explain`: why each layer has its budget, and what else was decided in a run."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from orchestrator.cli.common import (
    DEFAULT_STORE,
    AsJson,
    Module,
    RunName,
    StoreUri,
    Tasks,
    print_json,
    read_log,
    read_run,
)

if TYPE_CHECKING:
    from orchestrator.track.state import RunState


def explain(
    name: RunName,
    store: StoreUri = DEFAULT_STORE,
    tasks: Tasks = [],  # noqa: B006
    module: Module = None,
    as_json: AsJson = False,
) -> None:
    """Show why each layer has its budget. How r_eff, τ and |g| moved, what is protected, what the run decided."""
    from cluster.storage import open_store
    from orchestrator.console.explained.stream import print_explanation, shown, with_quarantined
    from orchestrator.console.views import View
    from orchestrator.log.chain import READERS
    from orchestrator.registry.decisions import decided
    from orchestrator.track.track import Track

    state, view = with_quarantined(read_run(name, store)), View(tasks, module)
    commits = view.commits(state)
    found = decided(Track(open_store(store), state.team, state.name), state, commits)
    read = commits if as_json or not chooses(state) else []
    with ThreadPoolExecutor(READERS) as pool:
        logs = dict(zip([c.version for c in read], pool.map(lambda c: read_log(state, c, store), read), strict=True))
    if as_json:
        print_json(shown(state, found, logs, view))
    else:
        print_explanation(state, found, logs, view)


def chooses(state: "RunState") -> bool:
    """Whether a rule of the run's method chooses ranks, so that its decisions tell what logs would."""
    return bool(state.config) and state.completed().adapter.chooses is not None
