"""What the tests of several folders ask two ranks to do, in one launch: starting them costs more than the work.

Usage: python -m tests.support.ranks_pair FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. Each part has
a folder of its own in FOLDER, see `folder_of`, with what it asks for.
"""

import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist

from tests.support import methods_pair, mixing_pair, weights_pair
from tests.support.tiny_models import save_tiny

PARTS = (methods_pair, weights_pair, mixing_pair)


def folder_of(folder: Path, part: ModuleType) -> Path:
    return folder / part.__name__.rpartition(".")[2]


def prepare(folder: Path) -> None:
    """The bases of all parts."""
    for part in PARTS:
        save_tiny(part.FAMILY, folder_of(folder, part) / "base")


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for part in PARTS:
        part.work(folder_of(folder, part))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
