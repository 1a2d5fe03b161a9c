"""Elastic Weight Consolidation: fine-tuning in which weights that earlier tasks need are held by springs.

    L = L_task + λ/2 Σ_i F̄_i (θ_i − θ*_i)²,   F̄_t = decay · F̄_{t−1} + F_t,   θ* = θ_{t−1}
    F_t,i = mean over the training rows of task t of (∂(−log p(answer | text)) / ∂θ_i)²  at θ_t, without dropout

Sources: Kirkpatrick et al., arXiv:1612.00796; one penalty with summed Fishers instead of one per task is Huszár's,
arXiv:1712.03847, and the decay that of online EWC, Schwarz et al., arXiv:1805.06370. F is the empirical Fisher: its
answers are those of the data. It is stored with the task as `fisher.safetensors`, summed up to that task.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cluster.errors import IntegrityError
from trainers.method_config import EwcConfig, MethodConfig
from trainers.methods.base import Artifact, Attached, Footprint, Penalty, Reader, TaskContext
from trainers.methods.weights.full import FullAttached, FullMethod, dump
from trainers.methods.weights.stream import Values, count

FISHER = "fisher.safetensors"


class EwcMethod(FullMethod):
    """See `methods.base.Method`. `fisher` is F̄ of the committed tasks on the device of its weights, empty before the
    first."""

    config: EwcConfig
    fisher: Values

    def reset(self, config: MethodConfig) -> None:
        """See Method."""
        super().reset(config)
        self.fisher = {}

    def extend(self, committed: Sequence[Artifact]) -> None:
        """See Method. Raises IntegrityError if a file is damaged."""
        for each in committed[-1:]:
            found = self.checked(self.tasks + len(committed), each.files[FISHER])
            if wrong := [name for name, value in found.items() if value.numel() and value.min() < 0]:
                raise IntegrityError(f"ewc: {FISHER}, {wrong[0]!r}: has values below 0; do not use this version")
            self.fisher = {name: value.to(self.weights[name].device) for name, value in found.items()}
        super().extend(committed)

    def begin(self, task: TaskContext) -> Attached:
        """See Method."""
        return EwcAttached(self, task)

    def footprint(self, tasks: int) -> Footprint:
        """See Method. The history is F̄ beside what fine-tuning holds."""
        plain = super().footprint(tasks)
        held = plain.history_bytes + 4 * count(self.weights.values())
        return Footprint(trained=plain.trained, kept=plain.kept, copies_weights=True, history_bytes=held)


class EwcAttached(FullAttached):
    """See `methods.base.Attached`."""

    method: EwcMethod

    def penalties(self) -> dict[str, Penalty]:
        """See Attached: half of Σ F̄ (θ − θ*)² under the name `ewc`, 0 in the first task."""
        super().penalties()
        springs = [
            (fisher * (self.trained[name] - self.before[name]).square()).sum()
            for name, fisher in self.method.fisher.items()
        ]
        value = 0.5 * torch.stack(springs).sum() if springs else torch.zeros((), device=self.task.device)
        return {"ewc": Penalty(self.method.config.weight, value)}

    def finish(self, reader: Reader) -> Artifact:
        """See Attached: the weights, and F̄ with the task's own Fisher added."""
        made = super().finish(reader)
        leaves: Values = {name: value.detach().requires_grad_() for name, value in self.trained.items()}
        self.use(leaves)
        own = reader.squared_gradients(leaves, self.method.config.fisher_rows)
        summed = {name: self.added(name, value) for name, value in own.items()}
        return Artifact({**made.files, FISHER: dump(summed)}, made.summary)

    def added(self, name: str, own: Tensor) -> Tensor:
        """decay · F̄ of the earlier tasks + F of this one."""
        earlier = self.method.fisher.get(name)
        return own if earlier is None else self.method.config.decay * earlier + own
