"""Sequential fine-tuning: every task goes on training the base's own weights. A baseline: nothing is protected.

The trained values are float32 copies. Layers compute with them, rounded to the model's dtype, in place of their own
weights, which stay as they are until the task is committed.
"""

from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor, nn

from trainers.methods.base import (
    Artifact,
    Attached,
    Footprint,
    NotFinite,
    ParamGroup,
    Penalty,
    Reader,
    Row,
    TaskContext,
)
from trainers.methods.weights.stream import FILE, Values, WeightsMethod, count, full_rank


class FullMethod(WeightsMethod):
    """See `methods.base.Method`."""

    def begin(self, task: TaskContext) -> Attached:
        """See Method. A task starts from the values that the last one left, whatever the seed."""
        return FullAttached(self, task)

    def footprint(self, tasks: int) -> Footprint:  # noqa: ARG002
        """See Method. The history is the float32 values of weights that the model rounds."""
        size = count(self.weights.values())
        rounded = count(weight for weight in self.weights.values() if weight.dtype != torch.float32)
        return Footprint(trained=size, kept=size, copies_weights=True, history_bytes=4 * rounded)


class FullAttached:
    """See `methods.base.Attached`. `before` are the values at the task's start, and `trained` those in training."""

    def __init__(self, method: FullMethod, task: TaskContext) -> None:
        self.method, self.task = method, task
        self.before: Values = {name: method.start(name) for name in method.weights}
        self.trained = {name: nn.Parameter(value.clone()) for name, value in self.before.items()}
        self.module = nn.ParameterList(self.trained.values())
        self.use(self.trained)

    def use(self, values: Mapping[str, Tensor]) -> None:
        """Has the model compute with these values, through which gradients flow. An attribute of the module hides its
        own parameter of that name."""
        for name, places in self.method.places.items():
            value = values[name].to(self.method.weights[name].dtype)
            for module, key in places:
                module.__dict__[key] = value

    def groups(self) -> list[ParamGroup]:
        """See Attached. Biases and the weights of norms, which have one dimension, do not decay."""
        train, values = self.task.train, [*self.module]
        whole = [value for value in values if value.ndim > 1]
        flat = [value for value in values if value.ndim <= 1]
        pairs = ((whole, train.weight_decay), (flat, 0.0))
        return [ParamGroup(each, train.learning_rate, decay) for each, decay in pairs if each]

    def penalties(self) -> dict[str, Penalty]:
        """See Attached: none."""
        self.use(self.trained)
        return {}

    def before_step(self, step: int) -> None:
        """See Attached."""

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:
        """See Attached."""

    @torch.no_grad()
    def report(self) -> Row:
        """See Attached: the norm of the task's change, over all weights and per target layer."""
        norms = {name: (value - self.before[name]).norm() for name, value in self.trained.items()}
        figures = torch.stack([torch.stack([*norms.values()]).norm(), *norms.values()]).tolist()
        found = dict(zip(norms, figures[1:], strict=True))
        layers = {layer: f"{layer}.weight" for layer in self.method.modules}
        return {"norm": figures[0], **{f"norm/{n}": found[weight] for n, weight in layers.items() if weight in found}}

    def finish(self, reader: Reader) -> Artifact:  # noqa: ARG002
        """See Attached."""
        ranks = {name: full_rank(module) for name, module in self.method.modules.items()}
        return Artifact({FILE: dump(self.trained)}, self.method.summary(ranks))

    def detach(self) -> None:
        """See Attached."""
        for places in self.method.places.values():
            for module, key in places:
                module.__dict__.pop(key, None)


def dump(values: Mapping[str, Tensor]) -> bytes:
    """The bytes of these tensors. Raises NotFinite if one is not finite."""
    if not all(bool(value.isfinite().all()) for value in values.values()):
        raise NotFinite
    return save({name: value.detach().cpu().contiguous() for name, value in values.items()})
