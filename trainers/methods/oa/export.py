"""A stream of OA-Adapters as one LoRA on the base, or in its weights.

    F_t (W0 x + b) = (W0 x + b) + B A x + s,   A = down · W0 (C, K),   B = up (D, C),   s = up · (down · b) (D,)

with F_t = I + up · down, see `history.concatenate`. No dimension is left out, so the LoRA equals the stream up to
float32 rounding.

Shape suffixes: D output width, K input width, C rank of all tasks together.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from cluster.errors import IntegrityError
from trainers.methods import updates
from trainers.methods.base import Lora
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter, check_shapes
from trainers.methods.oa.history import concatenate, write_fold
from trainers.methods.oa.rounding import Rounding
from trainers.methods.targets import dense, linear_layers, width


def loras(model: nn.Module, tasks: Sequence[TaskAdapter]) -> dict[str, Lora]:
    """Each adapted layer's stream as a LoRA over `model`, the unadapted base. Raises IntegrityError as `streams`."""
    layers, starts = linear_layers(model), starts_of(tasks)
    return {name: as_lora(layers[name], each, starts.get(name)) for name, each in streams(model, tasks).items()}


@torch.no_grad()
def merge(model: nn.Module, tasks: Sequence[TaskAdapter], rounding: Rounding) -> dict[str, int]:
    """Writes F_t W0 and F_t b into the weights of `model`, and returns the rank of every layer that changed.

    They are computed in float32 and rounded once to the model's dtype, as in `History`, but no copy of W0 is kept. With
    `rounding` none the whole model becomes float32: it has one dtype in its configuration, to which a loader would
    round the adapted layers. Raises IntegrityError as `streams`.
    """
    if rounding == "none":
        model.float()
    layers, found, starts = linear_layers(model), streams(model, tasks), starts_of(tasks)
    for name, stream in found.items():
        write_fold(layers[name], stream, rounding, name, starts.get(name))
    ranks = {name: starts[name].rank if name in starts else 0 for name in found}
    return {name: ranks[name] + sum(adapter.rank for adapter in stream) for name, stream in found.items()}


def as_lora(module: nn.Module, stream: Sequence[ModuleAdapter], start: Lora | None = None) -> Lora:
    """The LoRA that adds what the stream adds to an unadapted `nn.Linear` or `Conv1D`, and what it starts from, if it
    does: A = (A_0; down · (W0 + s B_0 A_0)), B = (s B_0, up); float32."""
    weight_DK, bias_D = dense(module)
    down_CD, up_DC = concatenate(stream, width(module))
    shift_D = None if bias_D is None else up_DC @ (down_CD @ bias_D.float())
    if start is None:
        return Lora(down_CD @ weight_DK.float(), up_DC, shift_D)
    b_DR = start.scaling * start.b_DR
    a_CK = down_CD @ weight_DK.float() + (down_CD @ b_DR) @ start.a_RK
    return Lora(torch.cat([start.a_RK, a_CK]), torch.cat([b_DR, up_DC], dim=1), shift_D)


def starts_of(tasks: Sequence[TaskAdapter]) -> Mapping[str, Lora]:
    """The LoRA from elsewhere that a stream begins with, by layer; empty if it begins with none."""
    return tasks[0].start if tasks else {}


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
            check_shapes(f"export: task {number}, layer {name!r}", adapter.shapes(width(layers[name])))
    updates.check_fits("export: task 1", starts_of(tasks), layers, every=False)
    found = {name: [task.modules[name] for task in tasks if name in task.modules] for name in layers}
    starts = starts_of(tasks)
    return {name: each for name, each in found.items() if name in starts or any(adapter.rank for adapter in each)}
