"""A run with one worker in this process, without Ray.

Usage: python -m tests.soak.alone CONFIG
"""

import gc
import sys
from pathlib import Path

import deepspeed  # noqa: F401  before objects are frozen
import torch

from benchmarks.methods.alone import AloneWorkers, process_group
from orchestrator.config.run import load_config
from orchestrator.console.run import RunReporter
from orchestrator.run.controller import Controller


def main() -> None:
    """See the module."""
    torch.set_num_threads(1)  # as a worker with one CPU has
    gc.freeze()  # as a worker does
    config, device = load_config(Path(sys.argv[1]), []), torch.device("cpu")
    with process_group(device), RunReporter(len(config.tasks)) as reporter:
        Controller(config, reporter, workers=AloneWorkers(config, reporter.say, device)).run()


if __name__ == "__main__":
    main()
