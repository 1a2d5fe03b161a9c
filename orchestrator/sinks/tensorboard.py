"""TensorBoard's event files, one folder per run."""

from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from orchestrator.sinks.base import Figures, Status, Tracked, Value

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FLUSH_S = 5


class TensorBoard:
    """One tag per figure, followed by the task's name if it is of one task. A resumed run adds a file to its folder.

    At the end come the parameters with the last figures (hparams), and the status as text.
    """

    writer: "SummaryWriter"

    def __init__(self, folder: Path) -> None:
        """Files go to `folder`/<team>/<run>, those of trials to `folder`/<team>/<sweep>/<run>."""
        self.folder = folder

    def start(self, run: Tracked) -> None:
        """See Sink."""
        from tensorboardX import SummaryWriter

        self.parameters = run.parameters
        folder = self.folder / run.group / run.name  # files are named by the second, which two starts may share
        self.writer = SummaryWriter(str(folder), flush_secs=FLUSH_S, filename_suffix=f".{token_hex(4)}")

    def log(self, values: Figures, *, step: int, task: str | None = None) -> None:
        """See Sink."""
        for name, value in values.items():
            self.writer.add_scalar(f"{name}/{task}" if task else name, value, step)

    def end(self, status: Status, summary: Figures) -> None:
        """See Sink."""
        self.writer.add_text("status", status)
        if summary and self.parameters:
            point = {key: as_hparam(value) for key, value in self.parameters.items()}
            self.writer.add_hparams(point, dict(summary), name="point")
        self.writer.close()


def as_hparam(value: Value) -> bool | int | float | str:
    """A parameter as TensorBoard takes it; it has no None."""
    return "None" if value is None else value
