"""What AdaLoRA trains: updates as singular value decompositions, and how important each of their dimensions is.

    ΔW = c · P diag(λ) Q;   Q (R, K) is kept as A, P (D, R) as B, and λ_i as E_i − offset_i
    I = |θ ∂L/∂θ|,   Ī ← β1 Ī + (1 − β1) I,   Ū ← β2 Ū + (1 − β2) |I − Ī|,   s = Ī Ū   of every value θ
    score of a dimension = s(λ_i) + mean_k s(Q_ik) + mean_d s(P_di)

To set λ_i to 0 is to move its offset, which no optimizer sees. Gradients are taken as they arise, before they are
clipped, since ZeRO keeps none after a step. Shape suffixes: D output width, K input width, R rank at the start.
"""

from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.methods.base import Lora, Penalty, Stream
from trainers.methods.lowrank.pairs import Pairs, Update

KINDS = ("A", "B", "E")


class Triplets(Pairs):
    """A, B and E of every layer, the smoothed sensitivities of all their values, and which dimensions are on.

    What later updates depend on beside the parameters is in buffers, which checkpoints keep.
    """

    def __init__(self, start: Stream, weight: float) -> None:
        """`start` has Q and P; λ is 0. `weight` is that of the orthogonality of P and Q."""
        super().__init__(start)
        self.weight = weight
        self.gradients: dict[str, Tensor] = {}  # of this update so far, over the micro-batches of this rank
        for index, lora in enumerate(start.values()):
            self.register_parameter(f"E_{index}", nn.Parameter(torch.zeros(lora.rank)))
            self.register_buffer(f"offset_{index}", torch.zeros(lora.rank))
            self.register_buffer(f"on_{index}", torch.ones(lora.rank, dtype=torch.bool))
        for name, parameter in [*self.named_parameters()]:
            self.register_buffer(f"mean_{name}", torch.zeros_like(parameter))
            self.register_buffer(f"spread_{name}", torch.zeros_like(parameter))

    def parts(self) -> tuple[list[Update], dict[str, Penalty]]:
        """See Pairs. The penalty is the mean over all P and Q of ‖PᵀP − I‖_F and ‖QQᵀ − I‖_F."""
        found, faults = [], []
        for index in range(len(self.names)):
            q_RK, p_DR, e_R = (self._watched(f"{kind}_{index}") for kind in KINDS)
            one_RR = torch.eye(len(e_R), device=e_R.device)
            faults += [(q_RK @ q_RK.T - one_RR).norm(), (p_DR.T @ p_DR - one_RR).norm()]
            found.append(((e_R - self.get_buffer(f"offset_{index}"))[:, None] * q_RK, p_DR))
        return found, {"orthogonality": Penalty(self.weight, torch.stack(faults).mean())}

    def snapshot(self) -> dict[str, Lora]:
        """See Pairs: the dimensions that are on. Layers without any are absent."""
        found = {}
        for index, (name, lora) in enumerate(super().snapshot().items()):
            on = self.get_buffer(f"on_{index}").cpu()
            if on.any():
                found[name] = replace(lora, a_RK=lora.a_RK[on].contiguous(), b_DR=lora.b_DR[:, on].contiguous())
        return found

    def ranks(self) -> dict[str, int]:
        """Layer → dimensions that are on."""
        on = torch.stack([self.get_buffer(f"on_{index}").sum() for index in range(len(self.names))])
        return dict(zip(self.names, on.tolist(), strict=True))

    @torch.no_grad()
    def smooth(self, beta1: float, beta2: float) -> None:
        """Ī and Ū of every value, from the gradients of this update over all ranks and micro-batches. Collective."""
        names = [name for name, _ in self.named_parameters()]
        together = torch.cat([self.gradients[name].flatten() for name in names])
        dist.all_reduce(together)
        gradients = (together / dist.get_world_size()).split([self.get_parameter(name).numel() for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            value = self.get_parameter(name).detach()
            value = value - self.get_buffer(f"offset{name[1:]}") if name.startswith("E") else value
            sensitivity = (value * gradient.view_as(value)).abs()
            mean, spread = self.get_buffer(f"mean_{name}"), self.get_buffer(f"spread_{name}")
            mean.mul_(beta1).add_(sensitivity, alpha=1 - beta1)
            spread.mul_(beta2).add_((sensitivity - mean).abs(), alpha=1 - beta2)

    @torch.no_grad()
    def choose(self, budget: int) -> None:
        """Switches on the dimensions whose score is above the best of those beyond the budget, over all layers."""
        scores = [self._scores(index) for index in range(len(self.names))]
        beyond = sum(score_R.numel() for score_R in scores) - budget
        bar = torch.cat(scores).kthvalue(beyond).values if beyond > 0 else scores[0].new_tensor(-1.0)
        for index, score_R in enumerate(scores):
            self.get_buffer(f"on_{index}").copy_(score_R > bar)

    @torch.no_grad()
    def switch_off(self) -> None:
        """Sets λ to 0 in the dimensions that are off. Until the next choice they can grow again."""
        for index in range(len(self.names)):
            on, offset = self.get_buffer(f"on_{index}"), self.get_buffer(f"offset_{index}")
            offset.copy_(torch.where(on, offset, self.get_parameter(f"E_{index}")))

    def _scores(self, index: int) -> Tensor:
        """(R,) of a layer's dimensions."""
        a_RK, b_DR, e_R = (
            self.get_buffer(f"mean_{kind}_{index}") * self.get_buffer(f"spread_{kind}_{index}") for kind in KINDS
        )
        return e_R + a_RK.mean(1) + b_DR.mean(0)

    def _watched(self, name: str) -> Tensor:
        """A parameter, whose gradient is added to `gradients` as soon as it is known."""
        parameter = self.get_parameter(name)
        if not torch.is_grad_enabled():
            return parameter
        used = parameter.view_as(parameter)
        used.register_hook(partial(self._add, name))
        return used

    def _add(self, name: str, gradient: Tensor) -> None:
        self.gradients[name] = self.gradients[name] + gradient if name in self.gradients else gradient.clone()
