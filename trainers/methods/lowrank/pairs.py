"""What is trained of a task's low-rank updates: the matrices of every layer, float32.

Shape suffixes: D output width, K input width, R rank.
"""

from itertools import chain

import torch
from torch import Tensor, nn

from trainers.methods.base import Lora, Penalty, Stream
from trainers.methods.updates import update_norm
from trainers.zero import gathered

Update = tuple[Tensor, Tensor]  # A (R, K) and B (D, R), without the scaling


class Pairs(nn.Module):
    """A (R, K) and B (D, R) of every layer. Parameters are used in `forward` alone, as in `oa.bank`.

    A method with penalties, or with other parameters, has a subclass with `parts` of its own.
    """

    def __init__(self, start: Stream, *, frozen: bool = False) -> None:
        """`start` has the initial values, of one scaling. If `frozen`, A is a buffer, which checkpoints keep too."""
        super().__init__()
        self.names = tuple(start)
        self.scaling = next(iter(start.values())).scaling
        self.weights: dict[str, float] = {}  # of the penalties of the last forward pass
        for index, lora in enumerate(start.values()):
            if frozen:
                self.register_buffer(f"A_{index}", lora.a_RK.clone())
            else:
                self.register_parameter(f"A_{index}", nn.Parameter(lora.a_RK.clone()))
            self.register_parameter(f"B_{index}", nn.Parameter(lora.b_DR.clone()))

    def parts(self) -> tuple[list[Update], dict[str, Penalty]]:
        """The updates as the layers use them, in the order of the layers, and the penalties."""
        return [(getattr(self, f"A_{index}"), getattr(self, f"B_{index}")) for index in range(len(self.names))], {}

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """A and c·B of every layer in `dtype`, then the values of the penalties, whose weights are in `weights` then.

        The result is a flat tuple, since DeepSpeed's hooks find tensors in nothing else; `split` takes it apart.
        """
        updates, penalties = self.parts()
        self.weights = {name: penalty.weight for name, penalty in penalties.items()}
        used = ((a_RK.to(dtype), (self.scaling * b_DR).to(dtype)) for a_RK, b_DR in updates)
        return *chain.from_iterable(used), *(penalty.value for penalty in penalties.values())

    def split(self, outputs: tuple[Tensor, ...]) -> tuple[dict[str, Update], dict[str, Penalty]]:
        """Layer → (A, c·B), and the penalties, from what `forward` gave."""
        end = 2 * len(self.names)
        pairs = dict(zip(self.names, zip(outputs[:end:2], outputs[1:end:2], strict=True), strict=True))
        weighted = zip(self.weights.items(), outputs[end:], strict=True)
        return pairs, {name: Penalty(weight, value) for (name, weight), value in weighted}

    @torch.no_grad()
    def snapshot(self) -> dict[str, Lora]:
        """The updates on the CPU. Collective under ZeRO 3."""
        with gathered(self.parameters()):
            loras = [Lora(copied(a_RK), copied(b_DR), scaling=self.scaling) for a_RK, b_DR in self.parts()[0]]
        return dict(zip(self.names, loras, strict=True))

    @torch.no_grad()
    def norms(self) -> dict[str, float]:
        """Layer → ‖c·B A‖_F. Collective under ZeRO 3."""
        with gathered(self.parameters()):
            norms = torch.stack([update_norm(*update) for update in self.parts()[0]])
        return dict(zip(self.names, (self.scaling * norms).tolist(), strict=True))


def copied(value: Tensor) -> Tensor:
    """A copy on the CPU, of its own."""
    return value.detach().to("cpu", copy=True)
