"""The frozen base in Ray's object store: loaded once, mapped by every worker of a node.

It is taken apart into a skeleton (everything but the tensors: modules, their configuration, the tokenizer) and
its tensors as plain bytes, which Ray hands out as read-only views of shared memory. In transit only; nothing of this
is stored.

A worker on the CPU uses only large parameters outside the target layers without a copy. Nothing writes those: an engine
owns the adapters, the history writes to its target layers, and a frozen forward pass writes to buffers at most. All
else is copied. How a product on a CPU is rounded depends on the offset of its factors within a cache line, so each
tensor gets the offset that it had when it was loaded from its file.
"""

import io
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.models.base import Backbone

SHARED_BYTES = 1 << 16  # smaller tensors are copied: little is gained by sharing them
LINE_BYTES = 64


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """One tensor as bytes, after `offset` bytes that are not part of it; `is_parameter` says whether it is one."""

    data: np.ndarray
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    is_parameter: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "PackedTensor":
        """The same on the CPU; what is not contiguous becomes so."""
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        offset = line_offset(tensor)
        data = np.concatenate([np.zeros(offset, np.uint8), data]) if offset else data
        return cls(data, offset, tensor.dtype, tuple(tensor.shape), isinstance(tensor, nn.Parameter))

    def restored(self, device: torch.device | str) -> Tensor:
        """The tensor on `device`, frozen; on the CPU a large parameter is a view of `data`, which may be read-only."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            tensor = torch.from_numpy(self.data)[self.offset :].view(self.dtype).view(self.shape)
        shared = self.is_parameter and tensor.nbytes >= SHARED_BYTES and line_offset(tensor) == self.offset
        tensor = tensor.to(device) if shared or torch.device(device).type != "cpu" else placed(tensor, self.offset)
        return nn.Parameter(tensor, requires_grad=False) if self.is_parameter else tensor


@dataclass(frozen=True, eq=False)
class PackedBase:
    """A backbone as it was loaded: all but its tensors, pickled, and its tensors in the order of their numbers there. A
    tensor that is used in several places, such as a tied weight, is there once."""

    skeleton: bytes
    tensors: tuple[PackedTensor, ...]

    @classmethod
    def of(cls, backbone: Backbone) -> "PackedBase":
        """Packs a backbone on the CPU, and leaves it unchanged."""
        from ray import cloudpickle

        tensors: list[Tensor] = []
        places: dict[int, int] = {}

        class Pickler(cloudpickle.CloudPickler):
            """Puts a number in a tensor's place."""

            def persistent_id(self, value: Any) -> int | None:
                if not isinstance(value, Tensor):
                    return None
                if id(value) not in places:
                    places[id(value)] = len(tensors)
                    tensors.append(value)
                return places[id(value)]

        skeleton = io.BytesIO()
        Pickler(skeleton).dump(backbone)
        return cls(skeleton.getvalue(), tuple(map(PackedTensor.of, tensors)))

    def backbone(self, device: torch.device | str) -> Backbone:
        """The backbone on `device`, bit for bit. The head of this module says what it shares with `self` on the CPU.
        Call `own` for layers before writing to them."""
        tensors = [tensor.restored(device) for tensor in self.tensors]

        class Unpickler(pickle.Unpickler):
            """Puts a tensor in its number's place."""

            def persistent_load(self, place: int) -> Tensor:
                return tensors[place]

        made: Backbone = Unpickler(io.BytesIO(self.skeleton)).load()
        return made


def own(modules: Iterable[nn.Module]) -> None:
    """Copies the parameters of these layers into memory of their own, so that they can be written to."""
    for module in modules:
        for parameter in module.parameters():
            parameter.data = placed(parameter.data, line_offset(parameter))


def line_offset(tensor: Tensor) -> int:
    """Bytes from the start of a cache line to the start of the tensor; 0 if no element could start there."""
    offset = tensor.data_ptr() % LINE_BYTES
    return 0 if offset % tensor.element_size() else offset


def placed(tensor: Tensor, offset: int) -> Tensor:
    """A contiguous copy on the CPU that starts `offset` bytes after the start of a cache line."""
    buffer = torch.empty(tensor.nbytes + 2 * LINE_BYTES, dtype=torch.uint8)
    start = (offset - buffer.data_ptr()) % LINE_BYTES
    return buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
