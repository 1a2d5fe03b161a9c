"""Weights & Biases: a W&B run per run. Where it goes, and with which key, is W&B's to know: WANDB_MODE, WANDB_API_KEY.

Figures of a task are `<task>/<figure>` over `<task>/step`, since W&B's own step never goes back and ours begin anew in
each task. Figures of the whole stream are over `tasks_done`.
"""

import hashlib
from typing import TYPE_CHECKING

from orchestrator.sinks.base import Figures, Status, Tracked

if TYPE_CHECKING:
    from wandb import Run

MISSING = "tracking.wandb: W&B is not installed: pip install 'orthoplex[wandb]'"
DONE, STATUS, STORE = "tasks_done", "status", "orthoplex.store"


class WandB:
    """Settings become the run's config. A run that goes on has the id that its store and name give it."""

    def __init__(self, project: str) -> None:
        """`project` is a project, or `owner/project`. Nothing is asked of a server yet."""
        self.entity, _, self.project = project.rpartition("/")
        self.over: set[str] = set()

    def start(self, run: Tracked) -> None:
        """See Sink. A trial stands in the group of its sweep, a run in that of its team."""
        import wandb

        self.run: Run = wandb.init(
            project=self.project,
            entity=self.entity or None,
            id=hashlib.sha256(f"{run.store} {run.label}".encode()).hexdigest()[:32],
            name=run.name,
            group=run.group,
            config={STORE: run.store, **run.parameters},
            resume="allow",
            reinit="create_new",
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        """See Sink."""
        head, axis = (f"{task}/", f"{task}/step") if task else ("", DONE)
        named = {f"{head}{name}": value for name, value in values.items()}
        for name in named.keys() - self.over:
            self.run.define_metric(name, step_metric=axis)
        self.over |= named.keys()
        self.run.log({**named, axis: step})

    def end(self, status: Status, summary: Figures) -> None:
        """See Sink."""
        self.run.summary.update({**summary, STATUS: status})
        self.run.finish(exit_code=int(status == "failed"))
