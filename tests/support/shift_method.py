"""The smallest method: a task adds a vector to what each target layer gives. It shows what a method has to have.

h_t = h_{t−1} + v_t,   v_t (D,) = 0 at the start
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cluster.errors import IntegrityError
from trainers.method_config import MethodConfig
from trainers.methods.base import (
    Artifact,
    Attached,
    Footprint,
    Lora,
    NotFinite,
    ParamGroup,
    Penalty,
    Reader,
    Row,
    Shares,
    Summary,
    TaskContext,
)
from trainers.methods.targets import dense, input_width, match_modules, width

FILE = "adapter.safetensors"


class ShiftConfig(MethodConfig):
    """`decay` pulls the vectors to 0."""

    method: Literal["shift"] = "shift"
    decay: float = 0.0


class ShiftMethod:
    """See `methods.base.Method`."""

    def __init__(self, model: nn.Module, config: ShiftConfig) -> None:
        self.config = config
        self.modules: Mapping[str, nn.Module] = match_modules(model, config.target_modules)
        self.hooks: dict[str, Any] = {}
        self.training: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}

    def reset(self, config: MethodConfig) -> None:
        assert isinstance(config, ShiftConfig)
        self.config, self.sums = config, {}
        self._rehook()

    def extend(self, committed: Sequence[Artifact]) -> None:
        for task in committed:
            for name, vector in self._checked(task).items():
                self.sums[name] = self.sums[name] + vector if name in self.sums else vector
        self._rehook()

    def begin(self, task: TaskContext) -> Attached:
        return ShiftAttached(self, task)

    def answering(self, task: int | None) -> AbstractContextManager[None]:
        return nullcontext()

    def as_lora(self, committed: Sequence[Artifact]) -> dict[str, Lora]:
        """A shift alone: the matrices are 0."""
        zeros = {n: (torch.zeros(1, input_width(m)), torch.zeros(width(m), 1)) for n, m in self.modules.items()}
        return {name: Lora(*zeros[name], shift_D=vector) for name, vector in self._sum(committed).items()}

    def merge(self, committed: Sequence[Artifact]) -> dict[str, int]:
        for name, vector in self._sum(committed).items():
            bias = dense(self.modules[name])[1]
            assert bias is not None
            bias += vector
        return dict.fromkeys(self.modules, 0)

    def capacity(self) -> Shares:
        return {}

    def kept(self) -> None:
        """Nothing is rounded."""

    def footprint(self, tasks: int) -> Footprint:
        size = sum(map(width, self.modules.values()))
        return Footprint(trained=size, kept=size, copies_weights=False, history_bytes=4 * size)

    def _sum(self, committed: Sequence[Artifact]) -> dict[str, Tensor]:
        tasks = [*map(self._checked, committed)]
        return {name: torch.stack([task[name] for task in tasks]).sum(0) for name in self.modules}

    def _checked(self, task: Artifact) -> dict[str, Tensor]:
        try:
            found = load(task.files[FILE])
        except SafetensorError:
            raise IntegrityError("shift: malformed; do not use this version") from None
        if {name: vector.numel() for name, vector in found.items()} != {n: width(m) for n, m in self.modules.items()}:
            raise IntegrityError("shift: other layers than this model's")
        return found

    def _rehook(self) -> None:
        for hook in self.hooks.values():
            hook.remove()
        self.hooks = {}
        for name, module in self.modules.items() if self.sums or self.training else ():
            added = [v[name] for v in (self.sums, self.training) if v]
            self.hooks[name] = module.register_forward_hook(lambda _m, _i, h, added=added: h + sum(added))


class ShiftAttached:
    """See `methods.base.Attached`."""

    def __init__(self, method: ShiftMethod, task: TaskContext) -> None:
        self.method, self.task = method, task
        self.module = nn.ParameterList([nn.Parameter(torch.zeros(width(m))) for m in method.modules.values()])
        method.training = dict(zip(method.modules, self.module, strict=True))
        method._rehook()

    def groups(self) -> list[ParamGroup]:
        return [ParamGroup([*self.module], self.task.train.learning_rate, 0.0)]

    def penalties(self) -> dict[str, Penalty]:
        decay = torch.stack([vector.square().sum() for vector in self.module]).sum()
        return {"decay": Penalty(self.method.config.decay, decay)}

    def before_step(self, step: int) -> None: ...

    def after_step(self, penalties: Mapping[str, Tensor]) -> None: ...

    def report(self) -> Row:
        return {f"norm/{n}": float(v.detach().norm()) for n, v in zip(self.method.modules, self.module, strict=True)}

    def finish(self, reader: Reader) -> Artifact:
        vectors = {n: v.detach().clone() for n, v in zip(self.method.modules, self.module, strict=True)}
        if not all(vector.isfinite().all() for vector in vectors.values()):
            raise NotFinite
        size = sum(vector.numel() for vector in vectors.values())
        return Artifact({FILE: save(vectors)}, Summary(budget={}, active_parameters=size))

    def detach(self) -> None:
        self.method.training = {}
        self.method._rehook()
