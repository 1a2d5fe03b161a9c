"""The interface between methods and training: what a method is given, and what it gives.

A method trains one task after another over one frozen model and protects earlier tasks in its own way. Its settings
are a section of `trainers.any_method`; `trainers.methods.registry` makes it from them. A task is stored as an
`Artifact`: safetensors files by name, and figures for the log.

    method = method_for(model, config, dtype)
    method.reset(config)                       the base as it was, bit for bit
    method.extend(committed)                   the model answers as after these tasks
    attached = method.begin(task)              new parameters, perhaps from the task's rows; the base stays frozen
    …training…                                 groups, penalties, report
    artifact = attached.finish(reader)
    attached.detach()                          the model answers as before `begin`
    method.extend([artifact])

Shape suffixes: D output width, K input width, R rank.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from trainers.config import TrainConfig
from trainers.method_config import MethodConfig

Files = Mapping[str, bytes]
Shares = dict[str, dict[str, float]]
Row = dict[str, float | list[float]]
LossMoments = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """The task to train, in `steps` updates. Initial values depend on `seed` and on the rows that `reader` reads alone.

    `rank` is this process's. Without a `reader` only methods can begin that do not read rows first. If `resumed`, a
    checkpoint replaces all values that are trained, and the buffers in the state of `Attached.module`, once they are
    there.
    """

    name: str
    seed: int
    steps: int
    train: TrainConfig
    device: torch.device
    rank: int
    reader: "Reader | None" = None
    resumed: bool = False


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a peak learning rate and a weight decay."""

    parameters: list[nn.Parameter]
    learning_rate: float
    weight_decay: float


class Penalty(NamedTuple):
    """A term of the loss beside the task's own: `weight` · `value`, a scalar."""

    weight: float
    value: Tensor


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the log says of a trained task.

    Attributes:
        budget: module → {"rank": dimensions kept, "max_rank": dimensions at the start, "tau": threshold, 0 without}.
        active_parameters: number of parameters that the task adds to the stream.
        overlap: share of the adapter's output energy inside what earlier tasks write; None if it is not measured.
        angles: per earlier task, principal angles in degrees; empty if they are not measured.
        overlaps: module → its own share of output energy inside what earlier tasks write; empty if not measured.
    """

    budget: Shares
    active_parameters: int
    overlap: float | None = None
    angles: list[dict[str, float]] = field(default_factory=list)
    overlaps: dict[str, float] = field(default_factory=dict)


def without_threshold(ranks: Mapping[str, float], most: Mapping[str, float]) -> Shares:
    """`Summary.budget` of layers with these ranks, of those that they had at the start, if no threshold chose them."""
    return {name: {"rank": rank, "max_rank": most[name], "tau": 0.0} for name, rank in ranks.items()}


@dataclass(frozen=True)
class Artifact:
    """One task as it is stored: the bytes of each file by name. `summary` is None unless the task was just trained."""

    files: Files
    summary: Summary | None = None

    def write(self, directory: Path) -> None:
        """Writes the files into `directory`, which must exist."""
        for name, data in self.files.items():
            (directory / name).write_bytes(data)


@dataclass(frozen=True)
class Lora:
    """One layer's low-rank update: W0 + scaling · B A with A (R, K), B (D, R); shift (D,) is added to the bias."""

    a_RK: Tensor
    b_DR: Tensor
    shift_D: Tensor | None = None
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """R."""
        return self.a_RK.shape[0]


Stream = Mapping[str, Lora]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a task costs, known before training.

    Attributes:
        trained: number of parameters in training.
        kept: how many of them one task keeps at most.
        copies_weights: whether a worker holds a second copy of the target layers.
        history_bytes: how much of earlier tasks a worker holds at most, beside the model.
        float32_weights: number of the base's weights that are held in float32, whatever its dtype.
    """

    trained: int
    kept: int
    copies_weights: bool
    history_bytes: int
    float32_weights: int = 0


@dataclass(frozen=True)
class Kept:
    """How much of the change that the committed tasks make to the weights is in them, if they are rounded: over all
    target layers, and per layer. 1 is all of it, and the share can be above 1."""

    overall: float
    modules: dict[str, float]


@dataclass
class Moment:
    """Σ h hᵀ (D, D) over the rows of h that are not padding. `Reader` gives one to each layer that is read.

    `mask` is that of the current batch, 1 for a row that counts; None if all rows count. All rows also count for a
    layer that does not read the batch's tokens one by one, such as a pooler.
    """

    sum_DD: Tensor
    mask: Tensor | None = None

    def add(self, h: Tensor) -> None:
        """Adds the output of a layer, (…, D)."""
        rows_ND = h.detach().reshape(-1, h.shape[-1]).float()
        if self.mask is not None and self.mask.numel() == len(rows_ND):
            rows_ND = rows_ND.masked_fill(self.mask.reshape(-1, 1) == 0, 0)
        self.sum_DD += rows_ND.T @ rows_ND


class NotFinite(Exception):
    """A trained adapter holds NaN or infinity."""


class Reader(Protocol):
    """The task's training rows, to be read before or after training. Collective."""

    def shared(self, data: bytes) -> bytes:
        """Rank 0's `data`, on all ranks. It makes equal what another CPU or number of threads may round otherwise."""

    def second_moments(self, modules: Mapping[str, nn.Module], *, inputs: bool = False) -> dict[str, Tensor]:
        """Σ h hᵀ (D, D) of the outputs of these layers without dropout, by name. While rows are read, each layer
        holds a `Moment` as its attribute `moment`, and adds its output to it. With `inputs`, a layer adds its input
        instead, and the sum is (K, K)."""

    def loss_moments(self, modules: Mapping[str, nn.Module]) -> LossMoments:
        """Σ h hᵀ of what adapters read and Σ g gᵀ of the loss's gradient at these layers' outputs, (D, D), over a
        sample of the rows, without dropout, by name. While rows are read, a layer adds the first to its attribute
        `moment` and the second, in the backward pass, to `felt`."""

    def squared_gradients(self, values: Mapping[str, Tensor], most: int | None) -> dict[str, Tensor]:
        """Mean of (∂ℓ/∂v)² over the rows, or over `most` of them, ℓ the sum of a row's loss terms: float32, by name.
        `values` are leaves that the model computes with."""


def of_rank_0(reader: Reader, rank: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` gives on rank 0, on all ranks; `rank` is this process's. Collective."""
    return load(reader.shared(b"" if rank else save(make())))


class Attached(Protocol):
    """A task's parameters on the model. Between `begin` and `detach` every forward pass goes through them."""

    @property
    def module(self) -> nn.Module:
        """Owns what is trained, and nothing of the base."""

    def groups(self) -> list[ParamGroup]:
        """Every trained parameter, once."""

    def penalties(self) -> dict[str, Penalty]:
        """The terms of the loss beside the task's. Called before each forward pass of the model."""

    def before_step(self, step: int) -> None:
        """Called before update `step`, which counts from 1; after a resume also with the steps done. Collective."""

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:
        """Called after every update with the values that `penalties` gave. Collective.

        Raises:
            TrainingError: training does not compute what the method demands.
        """

    def report(self) -> Row:
        """The current values of the training log's columns. Collective."""

    def finish(self, reader: Reader) -> Artifact:
        """The trained task as it is stored. Collective.

        Raises:
            NotFinite: a value is NaN or infinite.
        """

    def detach(self) -> None:
        """Takes the parameters off the model, which then answers as before `begin`."""


class Method(Protocol):
    """One way to learn task after task over one frozen model. `modules` are its target layers, by name."""

    modules: Mapping[str, nn.Module]

    def reset(self, config: MethodConfig) -> None:
        """Puts the base back, bit for bit, for an empty stream with these settings; the target layers stay the same.

        To be called once before anything else, on the unadapted model.
        """

    def extend(self, committed: Sequence[Artifact]) -> None:
        """Adds further tasks, in order: the model then answers as after them.

        Raises:
            IntegrityError: a file is malformed, or is not of this model.
        """

    def begin(self, task: TaskContext) -> Attached:
        """New parameters for a task, on the model. Collective."""

    def answering(self, task: int | None) -> AbstractContextManager[None]:
        """Context in which the model answers for task `task` (from 0), or as the newest task if it is None. A task that
        is not learned yet is answered as if it were unknown."""

    def as_lora(self, committed: Sequence[Artifact]) -> Stream:
        """The change that these tasks make to the unadapted model, as the last one answers, as one LoRA.

        Raises:
            ConfigError: the change has no such form; the message says why. IntegrityError: as `extend`.
        """

    def merge(self, committed: Sequence[Artifact]) -> dict[str, int]:
        """Writes the change that `as_lora` describes into the unadapted model's weights, for good.

        It is computed in float32 and rounded once. Returns the rank of every layer that changed. Raises as `extend`.
        """

    def capacity(self) -> Shares:
        """Per module, how much of the space that keeps tasks apart is filled; empty if nothing fills up.

        The shares that earlier tasks fill of what it can write (`written`) and read (`read`), the number of directions
        that are `free` in both, and the share that was let go of (`dropped`).
        """

    def kept(self) -> Kept | None:
        """How much of the committed tasks is in the model's weights; None if nothing of them is rounded there."""

    def footprint(self, tasks: int) -> Footprint:
        """What a task of a stream of `tasks` costs."""
