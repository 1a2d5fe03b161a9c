"""Folders that processes on several nodes share by path: the model's, and those that workers write to.

A relative `model.name` starts in the folder in which the driver's command was run. Workers run in other folders, so a
job says where they find the model:

- A driver on this machine, or one in an image that all nodes have, gives the absolute path.
- In a Ray job with a working directory, each node has a copy of that directory, under a path of its own. Ray starts
  all worker processes of the job in their node's copy; that is what its `working_dir` means. So the job gives the path
  within the copy, and a worker resolves it from the folder in which it was started. Ray Train would move its workers
  before our code runs. `trainers.workers.group.fit` turns that off, and `scratch` moves them instead.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.session import here
from cluster.temporary import temporary
from cluster.text_files import at_home
from trainers.config import ModelConfig

SHIPPED = ("minilm", "docs-lm")  # names of models that come with an installation, not folders


def is_folder(path: str | Path) -> bool:
    """Whether a folder is at a path, be it one that no file can have."""
    try:
        return Path(path).is_dir()
    except OSError:  # as of a name that is too long
        return False


def model_folder(name: str) -> Path | None:
    """The folder that `model.name` means, absolute; None for a model of SHIPPED, a hub id, or any other name that is no
    folder here. Call it before Ray is connected: nodes on one machine share a job's copy, and the second node unpacks
    it anew."""
    folder = at_home(name).absolute()
    return folder if name not in SHIPPED and is_folder(folder) else None


def for_workers(folder: Path | None) -> str | None:
    """The path by which workers find this node's `folder`: absolute, or relative to the folder in which Ray starts
    them; see the head of this module. Needs a Ray session."""
    import ray

    if folder is None or not ray.get_runtime_context().runtime_env.get("working_dir"):
        return str(folder) if folder else None
    copy, real = start_here(), folder.resolve()
    return str(real.relative_to(copy) if real.is_relative_to(copy) else folder)


def start_here() -> Path:
    """The folder in which Ray starts worker processes on this node."""
    import ray

    asked = ray.remote(num_cpus=0, scheduling_strategy=here())(lambda: str(Path.cwd()))
    return Path(ray.get(asked.remote())).resolve()


def located(model: ModelConfig, folder: str | None, start: Path | None = None) -> ModelConfig:
    """The model with the absolute path of `folder` as its name; unchanged if `folder` is None. A relative `folder`
    starts in `start`, by default the current directory."""
    if folder is None:
        return model
    return model.model_copy(update={"name": str((start or Path.cwd()) / folder)})


def started_in() -> Path:
    """The current directory of a process that Ray has just started, even if it was replaced meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.environ["PWD"])  # set by the shell in which Ray changes the directory


@contextmanager
def scratch(below: str) -> Iterator[Path]:
    """Moves the process, and its temporary files, into a folder of its own, inside `below` if that exists on this node.
    Yields the folder in which the process was started, and moves the process back there afterwards."""
    start = started_in()
    parent = below if Path(below).is_dir() else None
    with temporary("rank", below=parent) as own:
        os.chdir(own)
        before, tempfile.tempdir = tempfile.tempdir, own
        try:
            yield start
        finally:
            tempfile.tempdir = before
            os.chdir(start)
