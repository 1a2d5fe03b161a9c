"""Low-rank updates in training, on frozen linear layers.

Shape suffixes: D output width, K input width, R rank.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import dropout, linear

from trainers.methods.oa.layers import Adapted


class Updated(Adapted):
    """Mixed into a frozen linear layer: adds an update of its weight, h = W x + b + c·B A dropout(x).

    `pair` is (A (R, K), c·B (D, R)) in the dtype of the layer's output, or None. `rate` is the share of x that dropout
    removes while the layer trains. `moment`, if set, sums x xᵀ. `narrow` is as in `Adapted`.
    """

    rate: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """x (…, K) → h (…, D)."""
        layer: Any = super(Adapted, self)
        h: Tensor = layer.forward(x) if self.narrow is None else layer.forward(x.float()).to(self.narrow)
        if self.moment is not None:
            self.moment.add(x)
        if self.pair is None:
            return h
        a_RK, b_DR = self.pair
        read = dropout(x, self.rate, self.training) if self.rate else x  # type: ignore[attr-defined]
        return h + linear(linear(read, a_RK), b_DR)
