"""What processes hold in memory, and what they have reason to hold."""

import gc
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch


def anonymous_bytes(pid: int) -> int:
    """A process's resident memory that no file backs and that it does not share; 0 if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)


def held_bytes(values: Iterable[Any]) -> int:
    """The bytes that these objects take in this process, with all that they refer to, numbers of tensors included; each
    is counted once. Classes, functions and modules are not counted."""
    seen, storages, found, left = set[int](), dict[int, int](), 0, list(values)
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, type | ModuleType | FunctionType):
            continue
        seen.add(id(value))
        found += sys.getsizeof(value)
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        left += gc.get_referents(value)
    return found + sum(storages.values())
