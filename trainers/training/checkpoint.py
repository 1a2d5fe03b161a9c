"""A checkpoint of a task in training, to go on from with any number of workers and at any ZeRO stage.

It is one safetensors object, replaced as a whole:

    value/<parameter>, exp_avg/<parameter>, exp_avg_sq/<parameter>     whole tensors, float32
    buffer/<buffer>                                                   what is in the state beside parameters
    log/<column>                                                       the training log so far
    metadata: step, what must be the same to go on (`identity`), sha256: of the whole object, with zeros in its place

The digest tells bytes that rotted. Bytes that somebody changed with their digest are told by the one in the run's log.

All else that training depends on follows from the step: the learning rate, the next rows, and the random numbers, which
every rank draws from a seed of its own per step.
"""

import hashlib
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
from trainers.messages import Vouched
from trainers.zero import local

VALUE, MOMENTS, BUFFER, LOG = "value", ("exp_avg", "exp_avg_sq"), "buffer", "log/"
SEAL, UNSEALED = b'"sha256":"', b"0" * 64  # in the header, in which no string has a quote without a backslash
METADATA = {"step", "identity", "sha256"}


@dataclass(frozen=True)
class Checkpoint:
    """Optimizer steps done, and the tensors as named above. An older Orthoplex stored it without a digest if it is not
    `sealed`."""

    step: int
    tensors: dict[str, Tensor]
    sealed: bool = True

    def dump(self, identity: Mapping[str, Any]) -> bytes:
        """The bytes to store. `identity` is JSON; `parse` compares it."""
        header = {"step": str(self.step), "identity": json.dumps(identity, sort_keys=True), "sha256": UNSEALED.decode()}
        data = save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, header)
        return data.replace(SEAL + UNSEALED, SEAL + seal(data).encode(), 1)

    @staticmethod
    def parse(data: bytes, identity: Mapping[str, Any]) -> "Checkpoint | None":
        """The checkpoint in `data`; None if it is of another task, configuration, history or base. What an older
        Orthoplex did not store of the base is not compared.

        Raises:
            IntegrityError: the bytes are no checkpoint, or not those that were stored.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])["__metadata__"]
            if strange := {*header} - METADATA:
                raise ValueError(f"unknown metadata {min(strange)!r:.100}")
            if "sha256" in header and header["sha256"] != seal(data):
                raise ValueError("its bytes are not those that were stored")
            stored, expected = json.loads(header["identity"]), json.loads(json.dumps(identity))
            was, now = (Identity(**each.pop("base", {})) for each in (stored, expected))
            if stored != expected or was.differences(now):
                return None
            return Checkpoint(int(header["step"]), load(data), "sha256" in header)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(error) from None

    @property
    def log(self) -> dict[str, Tensor]:
        """The columns of the training log."""
        return {name.removeprefix(LOG): each for name, each in self.tensors.items() if name.startswith(LOG)}

    def check(self, shapes: Mapping[str, tuple[int, ...]], steps: int) -> None:
        """Raises IntegrityError unless its step is one of `steps`, and its tensors, the log aside, have these names and
        shapes and are finite."""
        if not 0 < self.step <= steps:
            raise damaged(f"it is of step {self.step}, and the task has {steps}")
        if len(lengths := {tuple(column.shape[:1]) for column in self.log.values()}) > 1 or () in lengths:
            raise damaged("the columns of its log are not of one length")
        found = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(LOG)}
        if other := sorted({*found} ^ {*shapes}):
            raise damaged(f"it {'has' if other[0] in found else 'lacks'} {other[0]!r:.200}")
        for name, tensor in found.items():
            if tuple(tensor.shape) != shapes[name]:
                raise damaged(f"{name!r} has the shape {tuple(tensor.shape)}, not {shapes[name]}")
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise damaged(f"{name!r} is not finite")


def damaged(fault: object) -> IntegrityError:
    """The error for a checkpoint with this fault."""
    return IntegrityError(f"the checkpoint is damaged ({fault}); delete it to train the task from its start")


def seal(data: bytes) -> str:
    """The sha256 of a checkpoint's bytes, with zeros in place of its digest. Raises ValueError if it has no place."""
    at = data.index(SEAL, 0, 8 + int.from_bytes(data[:8], "little")) + len(SEAL)
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:at], UNSEALED, view[at + len(UNSEALED) :]):
        digest.update(part)
    return digest.hexdigest()


def vouched(step: int, data: bytes, identity: Mapping[str, Any]) -> Vouched:
    """What the log says of a checkpoint of this step, with these bytes."""
    of = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Vouched(step, hashlib.sha256(data).hexdigest(), of)


def is_fit(found: Vouched, named: Vouched | None, *, only: bool) -> bool:
    """Whether a stored checkpoint may be resumed from, of which the log names one. A driver that was killed may have
    left a later one than it could name: it is fit, unless `only` a named one is.

    Raises:
        IntegrityError: the log names another one of this step, or a later one.
    """
    if named is None or named.of != found.of:
        return not only
    if named.sha256 != found.sha256 and found.step <= named.step:
        raise IntegrityError(
            f"the checkpoint, of step {found.step}, is not the one that the run's log names, of step {named.step}: it "
            "was changed, or taken back; delete it to train the task from its start"
        )
    return named.sha256 == found.sha256 or not only


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


def shapes_of(engine: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a checkpoint, by name, without the log."""
    found = {f"{BUFFER}/{name}": tuple(value.shape) for name, value in buffers(engine).items()}
    for name, parameter in trained(engine).items():
        whole = tuple(getattr(parameter, "ds_shape", parameter.shape))  # of which a rank has a shard under ZeRO 3
        found |= {f"{kind}/{name}": whole for kind in (VALUE, *MOMENTS)}
    return found


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
