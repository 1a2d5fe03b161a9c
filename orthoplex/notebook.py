"""The progress of a run in a notebook: a bar that moves, and the lines that the run says."""

import sys
from html import escape
from math import isnan
from typing import Any

from orchestrator.track.state import RunState
from trainers.messages import Progress


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Shown:
    """Follows a run, see `orchestrator.run.watch.Reporter`: one output of the cell, which is replaced as it goes on."""

    def __init__(self) -> None:
        from IPython.display import display

        self.lines: list[str] = []
        self.bar = ""
        self.output: Any = display(self, display_id=True)

    def _repr_html_(self) -> str:
        return f"{self.bar}<pre>{escape(chr(10).join(self.lines))}</pre>"

    def say(self, message: str) -> None:
        """One line."""
        self.lines.append(message)
        self.output.update(self)

    def progress(self, task: str, progress: Progress) -> None:
        """Moves the bar."""
        loss = "" if isnan(progress.loss) else f", loss {progress.loss:.3f}"
        told = f"{task}: {progress.phase} {progress.step}/{progress.total_steps}{loss}"
        self.bar = f'<progress value="{progress.step}" max="{progress.total_steps}"></progress> {escape(told)}'
        self.output.update(self)

    def taken(self, state: RunState) -> None:
        """Says nothing: that the run goes on is said by it."""

    def committed(self, state: RunState) -> None:
        """A task is done: its name, and the scores of all tasks so far."""
        from orchestrator.console.scores import scores_so_far

        self.bar = ""
        self.say(f"committed as {state.reference(state.commits[-1])}; {scores_so_far(state)}")
