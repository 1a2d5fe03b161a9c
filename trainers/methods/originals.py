"""The target layers' parameters as they were given, to put back bit for bit after a method has written them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainers.methods.oa.rounding import Change, Rounding
from trainers.methods.targets import Layer
from trainers.models.packed import line_offset, placed
from trainers.zero import gathered, hold, local


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

    @torch.no_grad()
    def rewrite(self, name: str, rounding: Rounding, write: Callable[[], Change]) -> dict[str, Change]:
        """Has `write` change a layer as it was given, in float32 if `rounding` is `none`. Collective under ZeRO 3,
        where the layer is whole within `write`.

        Returns {name: what of the change is in the layer}; empty for float32, which takes the change as it is.
        """
        module = self.modules[name]
        self.put_back(name, exact=rounding == "none")
        with gathered(module.parameters(), write=True):
            change = write()
            return {} if module.get_parameter("weight").dtype == torch.float32 else {name: change}


def copied(held: Tensor) -> Tensor:
    """A copy on the CPU, at the same place in its cache line: products are rounded by it."""
    return placed(held.detach().cpu(), line_offset(held))
