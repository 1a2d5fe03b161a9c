"""All committed tasks as the next one is trained against: in the layers, and as bases of what they write and read.

    F_t = (I + U_t) F_{t−1},  F_0 = I;   the layer gives F_t W0 x + F_t b
    F_t = I + Σ_s W2_sΓ_s W̃1_s,   W̃1_s = W1_s F_{s−1}

The first task may be a LoRA from elsewhere: then W0 + s B A is in the place of W0, if the history is folded.

`folded` keeps F_t W0 and F_t b as the frozen weight, in the base's dtype or, with `rounding: none`, in float32;
`concatenated` leaves the weight alone and adds the stacked pairs to the layer's output. Shape suffixes: D output width,
K input width, R rank of one task, C of all, H of a basis.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from cluster.errors import IntegrityError
from trainers.method_config import AdapterConfig
from trainers.methods.base import Lora
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter, check_shapes
from trainers.methods.oa.functional import Kept, joined
from trainers.methods.oa.rounding import Change, Rounding, write
from trainers.methods.oa.subspace import Basis, principal_angles
from trainers.methods.originals import Originals
from trainers.methods.targets import Layer, dense, input_width, width

AT_ONCE = 64  # tasks whose directions are compared together


def fold(
    weight_DK: Tensor, bias_D: Tensor | None, stream: Iterable[ModuleAdapter], start: Lora | None = None
) -> tuple[Tensor, Tensor | None]:
    """F_t W0 (D, K) and F_t b (D,) in float32, from the original weight and the adapters in training order. With a
    LoRA to start from, W0 + s B A is in the place of W0.

    F itself (D, D) is never formed: each step adds W2Γ (W1 W), 2·D·K·r multiply-adds.
    """
    weight_DK = weight_DK.float()
    bias_D = None if bias_D is None else bias_D.float()
    if start is not None:
        a_RK, b_DR = start.a_RK.to(weight_DK.device), start.b_DR.to(weight_DK.device)
        weight_DK = weight_DK + start.scaling * (b_DR @ a_RK)
    for adapter in stream:
        w1_RD, written_DR = adapter.w1_RD.to(weight_DK.device), adapter.written_DR.to(weight_DK.device)
        weight_DK = weight_DK + written_DR @ (w1_RD @ weight_DK)
        if bias_D is not None:
            bias_D = bias_D + written_DR @ (w1_RD @ bias_D)
    return weight_DK, bias_D


def write_fold(
    module: Layer, stream: Iterable[ModuleAdapter], rounding: Rounding, name: str, start: Lora | None = None
) -> Change:
    """Writes F_t W0 and F_t b into an unadapted layer, see `rounding.write`; `name` is the layer's."""
    change = Change()
    folded = fold(*dense(module), stream, start)
    for kind, old, new in zip(("weight", "bias"), dense(module), folded, strict=True):
        if old is not None and new is not None:
            change += write(old, new, rounding, f"{name}.{kind}")
    return change


def concatenate(stream: Iterable[ModuleAdapter], width: int) -> tuple[Tensor, Tensor]:
    """W̃1 (C, D) and W2Γ (D, C) of all tasks, stacked, in float32: F_t = I + up · down.

    W̃1_s = W1_s + (W1_s · up) · down over the tasks before s.
    """
    down_CD, up_DC = torch.zeros(0, width), torch.zeros(width, 0)
    for adapter in stream:
        w1_RD = adapter.w1_RD.float()
        down_CD, up_DC = (
            torch.cat([down_CD, w1_RD + (w1_RD @ up_DC) @ down_CD]),
            torch.cat([up_DC, adapter.written_DR.float()], dim=1),
        )
    return down_CD, up_DC


class History:
    """The stream so far over the target layers of one frozen model.

    A concatenated history, and one that is not rounded, need `layers.attach` on the layers. Folding always starts from
    a kept copy of W0, and is computed in float32. `restore` is exact to the bit. Under ZeRO 3 each rank keeps its shard
    of that copy, and `extend` and `restore` are collective calls.
    """

    def __init__(self, modules: Mapping[str, Layer], config: AdapterConfig, dtype: torch.dtype) -> None:
        """Takes the target layers, unadapted; `dtype` is that of their outputs."""
        self.modules, self.dtype = dict(modules), dtype
        self.felt: list[Kept] = []
        self.originals = Originals(self.modules)
        self.begin(config)

    def begin(self, config: AdapterConfig) -> None:
        """Begins an empty stream with these settings, on the layers as they were given."""
        self.config = config
        self.restore()
        if config.history == "folded":
            self.originals.keep()

    def extend(self, *adapters: TaskAdapter) -> None:
        """Appends committed tasks, in order: their directions to the bases, and their adapters to the layers.

        Each layer is written once, for any number of tasks.

        Raises:
            IntegrityError: one names a layer that is not adapted here, or a shape does not fit its layer.
        """
        drops = self.config.orthogonality.saturation == "drop"
        for batch in (
            [(adapter,) for adapter in adapters] if drops else [adapters]
        ):  # which are dropped depends on order
            self._append(batch)
            if drops:
                self._drop()
        for name in dict.fromkeys(name for adapter in adapters for name in adapter.adapts):
            self._install(name)

    def _append(self, adapters: Sequence[TaskAdapter]) -> None:
        for adapter in adapters:
            self._check(adapter)
            if adapter.felt:
                settings = self.config.functional
                self.felt = joined(self.felt, adapter.felt, settings.tasks, settings.directions)
            self.tasks.append(replace(adapter, written={}, read={}, felt={}))  # the bases have them too
            for name, basis in adapter.written.items():
                self.energy[name] += float(basis.spectrum_H.square().sum())
        for side, bases in (("written", self.written), ("read", self.read)):
            added = [getattr(adapter, side) for adapter in adapters]
            for name in dict.fromkeys(name for directions in added for name in directions):
                bases[name] = bases[name].joined(*(each[name] for each in added if name in each))

    @torch.no_grad()
    def restore(self) -> None:
        """Puts W0 and b back, bit for bit, and forgets the stream."""
        for name, module in self.modules.items():
            self.originals.put_back(name)
            module.__dict__.pop("history", None)
        self.tasks: list[TaskAdapter] = []
        self.written, self.read = self._no_directions(), self._no_directions()
        self.felt = []
        self.energy = dict.fromkeys(self.modules, 0.0)  # Σσ² of all that tasks wrote, also of what is dropped
        self.changes: dict[str, Change] = {}

    def columns(self, side: str) -> dict[str, Tensor]:
        """Module → Q or P (D, H), for `side` written or read."""
        return {name: basis.columns_DH for name, basis in getattr(self, side).items()}

    def occupancy(self) -> dict[str, dict[str, float]]:
        """Module → shares of its width D that Q (`written`) and P (`read`) fill, the number of directions that are
        `free` in both, and the share of the written energy Σσ² that saturation has `dropped`. Later tasks may overlap
        what was dropped."""
        return {
            name: {
                "written": self.written[name].occupancy,
                "read": self.read[name].occupancy,
                "free": width(module) - max(b[name].columns_DH.shape[1] for b in (self.written, self.read)),
                "dropped": self.dropped(name),
            }
            for name, module in self.modules.items()
        }

    def _check(self, adapter: TaskAdapter) -> None:
        number = len(self.tasks) + 1
        if adapter.start and (self.tasks or self.config.history != "folded"):
            raise IntegrityError(
                f"history: task {number} is a LoRA from elsewhere, which only the first task of a stream with "
                "adapter.history folded can be"
            )
        for name in {*adapter.adapts, *adapter.written, *adapter.read, *adapter.felt}:
            if name not in self.modules:
                raise IntegrityError(
                    f"history: task {number} adapts {name!r}, which is no target layer of this run; name it in "
                    "adapter.target_modules"
                )
            d = width(self.modules[name])
            shapes: list[tuple[Tensor, tuple[int, ...]]] = [
                (bases[name].columns_DH, (d, bases[name].spectrum_H.numel()))
                for bases in (adapter.written, adapter.read)
                if name in bases
            ]
            if felt := adapter.felt.get(name):
                shapes += [(each.columns_DK, (d, each.values_K.numel())) for each in (felt.read, felt.loss)]
            if part := adapter.modules.get(name):
                shapes += part.shapes(d)
            if lora := adapter.start.get(name):
                shapes += [(lora.a_RK, (lora.rank, input_width(self.modules[name]))), (lora.b_DR, (d, lora.rank))]
            check_shapes(f"history: task {number}, layer {name!r}", shapes)

    def dropped(self, name: str) -> float:
        """The share of a module's written energy Σσ² that saturation has dropped."""
        if self.config.orthogonality.saturation != "drop" or not self.energy[name]:
            return 0.0
        return max(0.0, 1 - float(self.written[name].spectrum_H.square().sum()) / self.energy[name])

    def _drop(self) -> None:
        """Keeps the bases within `max_occupancy` by dropping the directions of least singular value."""
        for bases in (self.written, self.read):
            for name, basis in bases.items():
                bases[name] = basis.limited(int(self.config.orthogonality.max_occupancy * basis.columns_DH.shape[0]))

    @torch.no_grad()
    def _install(self, name: str) -> None:
        """Writes F_t W0 and F_t b into a layer, see `write_fold`, or gives it the stacked pairs."""
        module, stream = self.modules[name], [task.modules[name] for task in self.tasks if name in task.modules]
        if self.config.history == "concatenated":
            device = next(chain(module.parameters(), module.buffers())).device
            down_CD, up_DC = (part.to(device, self.dtype) for part in concatenate(stream, width(module)))
            module.__dict__["history"] = down_CD, up_DC
            return
        start = self.tasks[0].start.get(name)
        write_into = partial(write_fold, module, stream, self.config.rounding, name, start)
        self.changes |= self.originals.rewrite(name, self.config.rounding, write_into)

    def _no_directions(self) -> dict[str, Basis]:
        return {name: Basis.empty(width(module)) for name, module in self.modules.items()}


def angles(earlier: Sequence[TaskAdapter], last: TaskAdapter) -> list[dict[str, float]]:
    """Principal angles in degrees between the directions that a task writes and those of each earlier task.

    One entry per earlier task, over the modules that both adapt: {"smallest", "mean"}; 90 if they have none in common.
    """
    each: list[list[Tensor]] = [[] for _ in earlier]
    for name in last.modules:
        for numbers in _alike(earlier, name):
            stacked = torch.stack([earlier[number].writes_DR(name) for number in numbers])
            for number, found in zip(numbers, principal_angles(last.writes_DR(name), stacked), strict=True):
                each[number].append(found)
    together = [torch.cat(found) if found else torch.full((1,), 90.0, dtype=torch.float64) for found in each]
    return [{"smallest": float(found.min()), "mean": float(found.mean())} for found in together]


def _alike(tasks: Sequence[TaskAdapter], name: str) -> Iterator[list[int]]:
    """The tasks that adapt a layer, as numbers, at most AT_ONCE of equal rank together."""
    by_rank: dict[int, list[int]] = {}
    for number, task in enumerate(tasks):
        if name in task.modules or name in task.start:
            by_rank.setdefault(task.writes_DR(name).shape[1], []).append(number)
    for numbers in by_rank.values():
        for first in range(0, len(numbers), AT_ONCE):
            yield numbers[first : first + AT_ONCE]
