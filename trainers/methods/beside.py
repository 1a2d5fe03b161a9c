"""Several streams over one base in memory: views of the model that share its weights, each with its own updates beside.

    h = W0 x + b + scaling · B A x + shift

A view is the model's modules once more, over the same weights. Updates are added to what target layers give, in
float32, so W0 stays as it is, and nothing is rounded into it.

Shape suffixes: D output width, K input width, R rank.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.method_config import MethodConfig
from trainers.methods.base import Artifact, Lora, Method, Stream
from trainers.methods.targets import device_of


class Answers(Protocol):
    """The part of a method that answers."""

    def answering(self, task: int | None) -> AbstractContextManager[None]:
        """See `methods.base.Method`."""


def view_of(model: nn.Module) -> Any:
    """The model's modules once more, over the same weights: what is put on the view or its parameters leaves the model
    as it is, as long as no weight is written in place."""
    shared: dict[int, Any] = {id(each): nn.Parameter(each.detach(), each.requires_grad) for each in model.parameters()}
    shared |= {id(each): each for each in model.buffers()}
    return copy.deepcopy(model, shared)


def put_beside(method: Method, config: MethodConfig, committed: Sequence[Artifact]) -> Answers:
    """Lets a view answer as after these tasks; `method` is over the view, and new.

    A change that is no LoRA, as that of methods which train the base's own weights, is put into weights of the view's
    own. Raises IntegrityError as `Method.extend`.
    """
    try:
        streams = [method.as_lora([each]) for each in committed] if config.needs_task else [method.as_lora(committed)]
    except ConfigError:
        method.reset(config)
        method.extend(committed)
        return method
    return Beside(method, streams, by_task=config.needs_task)


class Update(NamedTuple):
    """What is added to a layer's output: down (R, K), up (D, R) with the scaling in it, shift (D,) or None."""

    down_RK: Tensor
    up_DR: Tensor
    shift_D: Tensor | None

    @classmethod
    def of(cls, lora: Lora, device: torch.device) -> "Update":
        """The update of a LoRA, in float32 on a device."""
        moved = [
            None if each is None else each.detach().to(device, torch.float32)
            for each in (lora.a_RK, lora.scaling * lora.b_DR, lora.shift_D)
        ]
        assert moved[0] is not None and moved[1] is not None
        return cls(moved[0], moved[1], moved[2])

    def added(self, x: Tensor, h: Tensor) -> Tensor:
        """h (…, D) with the update for x (…, K), in the dtype of h."""
        change = nn.functional.linear(nn.functional.linear(x.float(), self.down_RK), self.up_DR, self.shift_D)
        return (h.float() + change).to(h.dtype)


class Beside:
    """Streams over the layers of a view: one, or one per task if `by_task`."""

    def __init__(self, method: Method, streams: Sequence[Stream], *, by_task: bool) -> None:
        self.by_task, self.current = by_task, len(streams) - 1
        self.updates = [
            {name: Update.of(lora, device_of(method.modules[name])) for name, lora in stream.items()}
            for stream in streams
        ]
        for name in {name for stream in streams for name in stream}:
            method.modules[name].register_forward_hook(self._hook(name))

    @contextmanager
    def answering(self, task: int | None) -> Iterator[None]:
        """See Answers. With one stream per task, a task that is not learned is answered by the base."""
        before = self.current
        if self.by_task and task is not None:
            self.current = task if task < len(self.updates) else -1
        try:
            yield
        finally:
            self.current = before

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def add(_: nn.Module, read: tuple[Any, ...], h: Tensor) -> Tensor | None:
            update = self.updates[self.current].get(name) if self.current >= 0 else None
            return None if update is None else update.added(read[0], h)

        return add
