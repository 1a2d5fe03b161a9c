"""A checkpoint of a task in training, to go on from with any number of workers and at any ZeRO stage.

It is one safetensors object, replaced as a whole:

    value/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>     whole tensors, float32
    buffer/<buffer>                                                   what is in the state beside parameters
    log/<column>                                                       the training log so far
    metadata: step, and what must be the same to go on (`identity`)

All else that training depends on follows from the step: the learning rate, the next rows, and the random numbers, which
every rank draws from a seed of its own per step.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cluster.errors import IntegrityError
from trainers.identity import Identity
from trainers.zero import local

VALUE, MOMENTS, BUFFER = "value", ("exp_avg", "exp_avg_sq"), "buffer"


@dataclass(frozen=True)
class Checkpoint:
    """Optimizer steps done, and the tensors as named above."""

    step: int
    tensors: dict[str, Tensor]

    def dump(self, identity: Mapping[str, Any]) -> bytes:
        """The bytes to store. `identity` is JSON; `parse` compares it."""
        header = {"step": str(self.step), "identity": json.dumps(identity, sort_keys=True)}
        return save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, header)

    @staticmethod
    def parse(data: bytes, identity: Mapping[str, Any]) -> "Checkpoint | None":
        """The checkpoint in `data`; None if it is of another task, configuration, history or base. What an older
        Orthoplex did not store of the base is not compared.

        Raises:
            IntegrityError: the bytes are no checkpoint.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])["__metadata__"]
            stored, expected = json.loads(header["identity"]), json.loads(json.dumps(identity))
            was, now = (Identity(**each.pop("base", {})) for each in (stored, expected))
            if stored != expected or was.differences(now):
                return None
            return Checkpoint(int(header["step"]), load(data))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"the checkpoint is damaged ({error}); delete it to train the task from its start"
            ) from None


def capture(engine: Any) -> dict[str, Tensor]:
    """Values and Adam moments of every trained parameter, whole, and buffers in the state, on the CPU. Collective."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link_moments(engine)
    tensors = {f"{BUFFER}/{name}": value.to("cpu", copy=True) for name, value in buffers(engine).items()}
    for name, parameter in trained(engine).items():
        if state := _plain_state(engine, parameter):
            parts = {VALUE: parameter, **{moment: state[moment] for moment in MOMENTS}}
        else:
            moments = {moment: safe_get_full_optimizer_state(parameter, moment) for moment in MOMENTS}
            parts = {VALUE: safe_get_full_fp32_param(parameter), **moments}
        tensors |= {f"{kind}/{name}": part.detach().to("cpu", copy=True) for kind, part in parts.items()}
    return tensors


def restore(engine: Any, checkpoint: Checkpoint, empty_step: Any) -> None:
    """Puts a checkpoint into a fresh engine. Collective.

    Args:
        engine: new; it has made no step.
        checkpoint: from an engine over equal parameters, of any stage and world size.
        empty_step: callable that makes one update with zero gradients, so that Adam creates its state.
    """
    empty_step()
    _link_moments(engine)
    for name, parameter in trained(engine).items():
        for kind in (VALUE, *MOMENTS):
            _set(engine, parameter, kind, checkpoint.tensors[f"{kind}/{name}"].to(parameter.device))
    for name, value in buffers(engine).items():
        value.copy_(checkpoint.tensors[f"{BUFFER}/{name}"])
    for state in _torch_optimizer(engine).state.values():
        state["step"].fill_(checkpoint.step)
    schedule = engine.lr_scheduler
    schedule.last_epoch = checkpoint.step
    for group, rate in zip(schedule.optimizer.param_groups, schedule.get_lr(), strict=True):
        group["lr"] = rate


def _link_moments(engine: Any) -> None:
    """Lets DeepSpeed's stages 1 and 2 find Adam's moments of every parameter group.

    DeepSpeed links them after the step of the first group (0.19.8, `_optimizer_step`), when other groups have none yet.
    """
    optimizer = engine.optimizer
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def _set(engine: Any, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
    """Sets a parameter's value or one of its moments from the whole tensor, in whichever place the stage keeps it."""
    from deepspeed import utils

    if state := _plain_state(engine, parameter):
        (parameter.data if kind == VALUE else state[kind]).copy_(value)
    elif hasattr(parameter, "ds_id"):  # its shard: the setter for whole tensors fails on an uneven length (0.19.8)
        ranks = dist.get_world_size()
        shard = nn.functional.pad(value.flatten(), (0, -value.numel() % ranks)).chunk(ranks)[dist.get_rank()]
        if kind == VALUE:
            utils.safe_set_local_fp32_param(parameter, shard)
            local(parameter).copy_(shard)
        else:
            utils.safe_set_local_optimizer_state(parameter, shard, kind)
    elif kind == VALUE:
        utils.safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(
            value
        )  # the setter changes the optimizer's own copy alone, and the next forward comes first
    else:
        utils.safe_set_full_optimizer_state(parameter, value, kind)


def trained(engine: Any) -> dict[str, nn.Parameter]:
    """The parameters that an engine trains, by name."""
    return dict(engine.module.trained.named_parameters())


def buffers(engine: Any) -> dict[str, Tensor]:
    """The buffers in the state of what an engine trains, by name: values that it was given, and does not train."""
    module = engine.module.trained
    kept = {*module.state_dict()}
    return {name: value for name, value in module.named_buffers() if name in kept}


def _torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _plain_state(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Adam's state of a parameter if the optimizer keeps it whole (ZeRO 0), else empty."""
    return _torch_optimizer(engine).state.get(parameter, {})
