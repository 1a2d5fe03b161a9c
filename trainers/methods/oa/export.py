"""A stream of OA-Adapters as one LoRA on the base, or in its weights.

    F_t (W0 x + b) = (W0 x + b) + B A x + s,   A = down · W0 (C, K),   B = up (D, C),   s = up · (down · b) (D,)

with F_t = I + up · down, see `history.concatenate`. No dimension is left out, so the LoRA equals the stream up to
float32 rounding.

Shape suffixes: D output width, K input width, C rank of all tasks together.
"""

from collections.abc import Sequence

import torch
from torch import nn

from cluster.errors import IntegrityError
from trainers.methods.base import Lora
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter
from trainers.methods.oa.history import concatenate, write_fold
from trainers.methods.oa.rounding import Rounding
from trainers.methods.targets import dense, linear_layers, width


def loras(model: nn.Module, tasks: Sequence[TaskAdapter]) -> dict[str, Lora]:
    """Each adapted layer's stream as a LoRA over `model`, the unadapted base. Raises IntegrityError as `streams`."""
    layers = linear_layers(model)
    return {name: as_lora(layers[name], stream) for name, stream in streams(model, tasks).items()}


@torch.no_grad()
def merge(model: nn.Module, tasks: Sequence[TaskAdapter], rounding: Rounding) -> dict[str, int]:
    """Writes F_t W0 and F_t b into the weights of `model`, and returns the rank of every layer that changed.

    They are computed in float32 and rounded once to the model's dtype, as in `History`, but no copy of W0 is kept. With
    `rounding` none the whole model becomes float32: it has one dtype in its configuration, to which a loader would
    round the adapted layers. Raises IntegrityError as `streams`.
    """
    if rounding == "none":
        model.float()
    layers, found = linear_layers(model), streams(model, tasks)
    for name, stream in found.items():
        write_fold(layers[name], stream, rounding, name)
    return {name: sum(adapter.rank for adapter in stream) for name, stream in found.items()}


def as_lora(module: nn.Module, stream: Sequence[ModuleAdapter]) -> Lora:
    """The LoRA that adds what the stream adds to an unadapted `nn.Linear` or `Conv1D`; float32."""
    weight_DK, bias_D = dense(module)
    down_CD, up_DC = concatenate(stream, width(module))
    shift_D = None if bias_D is None else up_DC @ (down_CD @ bias_D.float())
    return Lora(down_CD @ weight_DK.float(), up_DC, shift_D)


def streams(model: nn.Module, tasks: Sequence[TaskAdapter]) -> dict[str, list[ModuleAdapter]]:
    """Each layer's adapters in task order, in the model's order; layers that no task adapts are absent.

    Raises IntegrityError if a task adapts something that is no linear layer of the model, or a layer of another width,
    or has a value that is not finite.
    """
    layers = linear_layers(model)
    for number, task in enumerate(tasks, 1):
        for name, adapter in task.modules.items():
            if name not in layers:
                raise IntegrityError(
                    f"export: task {number} adapts {name!r}, which is no linear layer of this model; name the model "
                    "that the stream was trained on"
                )
            check_fits(f"export: task {number}, layer {name!r}", adapter, width(layers[name]))
    found = {name: [task.modules[name] for task in tasks if name in task.modules] for name in layers}
    return {name: stream for name, stream in found.items() if sum(adapter.rank for adapter in stream)}


def check_fits(where: str, adapter: ModuleAdapter, d: int) -> None:
    """Raises IntegrityError unless W1 is (R, D), W2 (D, R) and γ (R,) for a layer `d` wide, and all are finite."""
    r = adapter.rank
    for tensor, expected in ((adapter.w1_RD, (r, d)), (adapter.w2_DR, (d, r)), (adapter.gamma_R, (r,))):
        if tuple(tensor.shape) != expected or not tensor.isfinite().all():
            raise IntegrityError(
                f"{where}: a tensor of shape {tuple(tensor.shape)} should be {expected} and finite; the files are not "
                "of this model, or damaged"
            )
