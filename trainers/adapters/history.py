"""All committed tasks as the next one meets them: folded into the weights, and as bases of what they write and read.

    F_t = (I + U_t) F_{t−1},  F_0 = I;   the layer gives F_t W0 x + F_t b

Shape suffixes: D output width, K input width, H rank of the history.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trainers.adapters.artifact import ModuleAdapter, TaskAdapter


def fold(weight_DK: Tensor, bias_D: Tensor | None, stream: Iterable[ModuleAdapter]) -> tuple[Tensor, Tensor | None]:
    """F_t W0 (D, K) and F_t b (D,) in float32, from the original weight and the adapters in training order.

    F itself (D, D) is never formed: each step adds W2Γ (W1 W), 2·D·K·r multiply-adds.
    """
    weight_DK = weight_DK.float()
    bias_D = None if bias_D is None else bias_D.float()
    for adapter in stream:
        w1_RD, written_DR = adapter.w1_RD.to(weight_DK.device), adapter.written_DR.to(weight_DK.device)
        weight_DK = weight_DK + written_DR @ (w1_RD @ weight_DK)
        if bias_D is not None:
            bias_D = bias_D + written_DR @ (w1_RD @ bias_D)
    return weight_DK, bias_D


class History:
    """The stream so far over the target layers of one frozen model.

    The original weights are kept, so folding always starts from W0 in float32 and `restore` is exact to the bit.
    """

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        """Takes the target layers, unadapted, and copies their weights."""
        self.modules = dict(modules)
        self.tasks: list[TaskAdapter] = []
        self.written = self._no_directions()
        self.read = self._no_directions()
        self._original = {
            name: (m.weight.detach().clone(), None if m.bias is None else m.bias.detach().clone())
            for name, m in modules.items()
        }

    def extend(self, adapter: TaskAdapter) -> None:
        """Appends a committed task: its directions join the bases and the layers are folded anew."""
        self.tasks.append(adapter)
        for bases, directions in ((self.written, adapter.written), (self.read, adapter.read)):
            for name, added in directions.items():
                bases[name] = torch.cat([bases[name], added.columns_DN], dim=1)
        self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Writes F_t W0 and F_t b, rounded once to the model's dtype, into the layers."""
        for name, module in self.modules.items():
            stream = [task.modules[name] for task in self.tasks if name in task.modules]
            if not stream:
                continue
            weight_DK, bias_D = fold(*self._original[name], stream)
            module.weight.copy_(weight_DK)
            if bias_D is not None:
                module.bias.copy_(bias_D)

    @torch.no_grad()
    def restore(self) -> None:
        """Puts W0 and b back, bit for bit, and forgets the stream."""
        for name, module in self.modules.items():
            weight_DK, bias_D = self._original[name]
            module.weight.copy_(weight_DK)
            if bias_D is not None:
                module.bias.copy_(bias_D)
        self.tasks, self.written, self.read = [], self._no_directions(), self._no_directions()

    def _no_directions(self) -> dict[str, Tensor]:
        return {name: torch.zeros(module.out_features, 0) for name, module in self.modules.items()}
