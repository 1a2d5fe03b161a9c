"""AdaLoRA: a new update per task as a singular value decomposition, whose ranks are dealt out over the layers.

    ΔW = c · P diag(λ) Q,   c = alpha / r_0;   Q (R, K), P (D, R) ~ N(0, 0.02²),   λ (R,) = 0 at the start,   R = r_0
    L = L_task + w · mean over all P and Q of ‖PᵀP − I‖_F and ‖QQᵀ − I‖_F
    after an update, all but the b(t) most important dimensions have their λ set to 0, see `triplets`

Source: Zhang et al., arXiv:2303.10512, as PEFT computes it (0.19, `RankAllocator`), which the tests compare with. Its
own classes read gradients after the step and write parameters in place; ZeRO allows neither. A task's t_i and t_f are
shares of its updates here.

Shape suffixes: D output width, K input width, R rank at the start.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from trainers.lowrank_config import AdaloraConfig
from trainers.methods.base import Attached, Footprint, Lora, ParamGroup, Row, Shares, TaskContext, without_threshold
from trainers.methods.lowrank.method import LowRankAttached, LowRankMethod
from trainers.methods.lowrank.triplets import Triplets
from trainers.methods.targets import input_width, width

DEVIATION = 0.02  # of the initial values of P and Q


class AdaloraMethod(LowRankMethod):
    """See `methods.base.Method`."""

    every_layer = False

    def begin(self, task: TaskContext) -> Attached:
        """See Method."""
        triplets = Triplets(self.fresh(task.seed), self.own.orthogonality_weight).to(task.device)
        return AdaloraAttached(self, triplets, task, self.own)

    def fresh(self, seed: int) -> dict[str, Lora]:
        """See LowRankMethod: Q and P."""
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        rank, scaling = self.own.initial_rank, self.own.scaling
        return {
            name: Lora(DEVIATION * draw(rank, input_width(m)), DEVIATION * draw(width(m), rank), scaling=scaling)
            for name, m in self.modules.items()
        }

    def footprint(self, tasks: int) -> Footprint:
        """See Method. At most, the ranks go to the layers in which they cost most."""
        prices = sorted((width(m) + input_width(m) for m in self.modules.values()), reverse=True)
        first, ranks = self.own.initial_rank, self.own.rank * len(prices)
        kept = sum(price * min(first, max(0, ranks - first * index)) for index, price in enumerate(prices))
        return replace(super().footprint(tasks), trained=first * sum(price + 1 for price in prices), kept=kept)

    @property
    def own(self) -> AdaloraConfig:
        """The settings."""
        assert isinstance(self.config, AdaloraConfig)
        return self.config


class AdaloraAttached(LowRankAttached):
    """See `methods.base.Attached`."""

    step = 0

    def __init__(self, method: AdaloraMethod, triplets: Triplets, task: TaskContext, config: AdaloraConfig) -> None:
        """As LowRankAttached."""
        super().__init__(method, triplets, task)
        self.triplets, self.config = triplets, config

    def groups(self) -> list[ParamGroup]:
        """See Attached: E has no weight decay, since it is λ but for the offset."""
        train, named = self.task.train, [*self.triplets.named_parameters()]
        matrices = [parameter for name, parameter in named if not name.startswith("E")]
        singular = [parameter for name, parameter in named if name.startswith("E")]
        return [
            ParamGroup(matrices, train.learning_rate, train.weight_decay),
            ParamGroup(singular, train.learning_rate, 0.0),
        ]

    def before_step(self, step: int) -> None:
        """See Attached."""
        self.step = step

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        """See Attached: the importance of all dimensions, and which are on. After the last choice, those stay off."""
        last = last_choice(self.config, self.task.steps)
        if self.step < last:
            self.triplets.smooth(self.config.beta1, self.config.beta2)
        self.triplets.gradients = {}
        budget = budget_at(self.step, self.task.steps, self.config, len(self.triplets.names))
        if budget is None:
            return
        if self.step <= last:
            self.triplets.choose(budget)
        self.triplets.switch_off()

    def report(self) -> Row:
        """See Attached: also the rank of every layer."""
        return {**super().report(), **{f"rank/{name}": float(rank) for name, rank in self.triplets.ranks().items()}}

    def budget(self) -> Shares:
        """See LowRankAttached."""
        ranks = {name: float(rank) for name, rank in self.triplets.ranks().items()}
        return without_threshold(ranks, dict.fromkeys(ranks, float(self.config.initial_rank)))


def last_choice(config: AdaloraConfig, steps: int) -> int:
    """t_f: the update after which the ranks stay."""
    return steps - int(config.final_share * steps)


def budget_at(step: int, steps: int, config: AdaloraConfig, layers: int) -> int | None:
    """b: how many dimensions of all layers are on after update `step`, from 1; None if none are switched off there.

    b = r n + (r_0 − r) n (1 − (t − t_i) / (t_f − t_i))³ after every `interval` updates between t_i and t_f, and r n
    from t_f on, for n layers.
    """
    first, last = int(config.initial_share * steps), last_choice(config, steps)
    full, least = config.initial_rank * layers, config.rank * layers
    if step >= last:
        return least
    if step <= first or step % config.interval:
        return None
    return int((full - least) * (1 - (step - first) / (last - first)) ** 3 + least)
