"""O-LoRA: incremental LoRA whose rows of A are kept away from those of earlier tasks.

    L = L_task + λ1 · Σ_layers Σ_{s<t} Σ_ij |A_s A_tᵀ|_ij + λ2 · Σ_layers (‖A_t‖_F + ‖B_t‖_F)

Source: Wang et al., arXiv:2310.14152, as the authors' code computes it (cmnfriend/O-LoRA, `training_step`). λ1 is 0.5
there, λ2 0 for most tasks; rank 8, alpha 32 and a dropout of 0.1 are theirs too. What differs: earlier updates are
folded into the frozen weight instead of being computed beside it, and the new update reads what the layer reads.

Shape suffixes: K input width, R rank, C rank of all earlier tasks.
"""

from dataclasses import replace

import torch
from torch import Tensor

from trainers.lowrank_config import OloraConfig
from trainers.methods.base import Footprint, Penalty, Stream, TaskContext
from trainers.methods.lowrank.method import LowRankMethod
from trainers.methods.lowrank.pairs import Pairs, Update
from trainers.methods.targets import input_width


class OloraMethod(LowRankMethod):
    """See `methods.base.Method`."""

    def pairs(self, task: TaskContext) -> Pairs:
        """See LowRankMethod."""
        assert isinstance(self.config, OloraConfig)
        earlier = {name: torch.cat([each.a_RK for each in past]) for name, past in self.past().items() if past}
        return OloraPairs(self.fresh(task.seed), earlier, self.config)

    def footprint(self, tasks: int) -> Footprint:
        """See Method. A of all earlier tasks is also on the device while a task trains."""
        found = super().footprint(tasks)
        rows = 4 * self.config.rank * sum(map(input_width, self.modules.values())) * max(0, tasks - 1)
        return replace(found, history_bytes=found.history_bytes + rows)


class OloraPairs(Pairs):
    """Pairs with the two penalties; A of the earlier tasks is one stacked buffer (C, K) per layer."""

    def __init__(self, start: Stream, earlier: dict[str, Tensor], config: OloraConfig) -> None:
        """`earlier` is empty before the first task."""
        super().__init__(start)
        self.config, self.protects = config, bool(earlier)
        for index, name in enumerate(self.names if earlier else ()):
            self.register_buffer(f"earlier_{index}", earlier[name], persistent=False)

    def parts(self) -> tuple[list[Update], dict[str, Penalty]]:
        """See Pairs."""
        updates, _ = super().parts()
        penalties = {"orthogonality": Penalty(self.config.orthogonality_weight, self.overlaps(updates))}
        if self.config.norm_weight:
            norms = torch.stack([part.norm() for update in updates for part in update])
            penalties["norm"] = Penalty(self.config.norm_weight, norms.sum())
        return updates, penalties

    def overlaps(self, updates: list[Update]) -> Tensor:
        """Σ over layers and entries of |A_s A_tᵀ|; 0 for the first task."""
        if not self.protects:
            return updates[0][0].new_zeros(())
        found = [(self.get_buffer(f"earlier_{i}") @ a_RK.T).abs().sum() for i, (a_RK, _) in enumerate(updates)]
        return torch.stack(found).sum()
