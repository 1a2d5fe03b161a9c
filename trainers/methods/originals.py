"""The target layers' parameters as they were given, to put back bit for bit after a method has written them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainers.methods.targets import Layer
from trainers.models.packed import line_offset, placed
from trainers.zero import hold, local


class Originals:
    """Copies of weights and biases in their own dtype, on the CPU. Under ZeRO 3 each rank keeps its shards of them."""

    def __init__(self, modules: Mapping[str, Layer]) -> None:
        """Takes the layers, unchanged; copies nothing yet."""
        self.modules = dict(modules)
        self._kept: dict[str, list[Tensor]] = {}

    def keep(self) -> None:
        """Copies the parameters as they are now, unless they were copied before."""
        if not self._kept:
            self._kept = {
                name: [copied(local(parameter)) for parameter in module.parameters()]
                for name, module in self.modules.items()
            }

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(tensor.nbytes for tensors in self._kept.values() for tensor in tensors)

    @torch.no_grad()
    def put_back(self, name: str, *, exact: bool = False) -> None:
        """Puts a layer's parameters back in their own dtype or, if `exact`, in float32: the layer then has their own
        dtype as `narrow`. A layer that was not copied is left as it is."""
        module = self.modules[name]
        module.__dict__.pop("narrow", None)
        for parameter, original in zip(module.parameters(), self._kept.get(name, []), strict=False):
            held, dtype = local(parameter), torch.float32 if exact else original.dtype
            if held.dtype == dtype:
                held.copy_(original)
            elif exact:
                hold(parameter, original.float().to(held.device))
            else:
                hold(parameter, copied(original).to(held.device))
            if exact and original.dtype != torch.float32:
                module.__dict__["narrow"] = original.dtype


def copied(held: Tensor) -> Tensor:
    """A copy on the CPU, at the same place in its cache line: products are rounded by it."""
    return placed(held.detach().cpu(), line_offset(held))
