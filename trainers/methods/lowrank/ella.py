"""ELLA: incremental LoRA whose update is dear in those entries of a weight that earlier tasks changed.

    L = L_task + λ · Σ_layers ‖ΔW_t ∘ W_past‖²_F,   ΔW_t = c B_t A_t,   W_past = Σ_{s<t} ΔW_s

Source: Das Biswas et al., arXiv:2601.02232. Memory and time of the penalty do not grow with the number of tasks.

Shape suffixes: D output width, K input width, R rank.
"""

from dataclasses import replace

import torch
from torch import Tensor

from trainers.lowrank_config import EllaConfig
from trainers.methods.base import Footprint, Penalty, Stream, TaskContext
from trainers.methods.lowrank.history import added
from trainers.methods.lowrank.method import LowRankMethod
from trainers.methods.lowrank.pairs import Pairs, Update
from trainers.methods.targets import input_width, width


class EllaMethod(LowRankMethod):
    """See `methods.base.Method`."""

    def pairs(self, task: TaskContext) -> Pairs:
        """See LowRankMethod."""
        assert isinstance(self.config, EllaConfig)
        zeros = {name: torch.zeros(width(m), input_width(m), device=task.device) for name, m in self.modules.items()}
        past = {name: added(zeros[name], updates) for name, updates in self.past().items() if updates}
        return EllaPairs(self.fresh(task.seed), past, self.config.alignment_weight)

    def footprint(self, tasks: int) -> Footprint:
        """See Method: W_past, and as much again for ΔW ∘ W_past in the backward pass."""
        found = super().footprint(tasks)
        entries = sum(width(m) * input_width(m) for m in self.modules.values()) if tasks > 1 else 0
        return replace(found, history_bytes=found.history_bytes + 2 * 4 * entries)


class EllaPairs(Pairs):
    """Pairs with the penalty; W_past (D, K) of every layer is a buffer."""

    def __init__(self, start: Stream, past: dict[str, Tensor], weight: float) -> None:
        """`past` is empty before the first task."""
        super().__init__(start)
        self.weight, self.protects = weight, bool(past)
        for index, name in enumerate(self.names if past else ()):
            self.register_buffer(f"past_{index}", past[name], persistent=False)

    def parts(self) -> tuple[list[Update], dict[str, Penalty]]:
        """See Pairs."""
        updates, _ = super().parts()
        found = [updates[0][0].new_zeros(())]
        for index, (a_RK, b_DR) in enumerate(updates if self.protects else ()):
            found.append((self.scaling * (b_DR @ a_RK) * self.get_buffer(f"past_{index}")).square().sum())
        return updates, {"alignment": Penalty(self.weight, torch.stack(found).sum())}
