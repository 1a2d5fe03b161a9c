"""InfLoRA: a new task reads, with A fixed, the directions of its own inputs that earlier tasks do not use; B learns.

    C = E[x xᵀ] of the new task's inputs;   A_t = the r leading left singular vectors of (I − M Mᵀ) C, as rows, / √3
    after training: M gains the leading left singular vectors of (I − M Mᵀ) C, C measured again, until
    ‖M Mᵀ C‖²_F ≥ ε_t ‖C‖²_F,   ε_t = ε + (1 − ε) t / T,   t = 0, 1, …

Source: Liang and Li, arXiv:2404.00228, as the authors' code computes it (liangyanshuo/InfLoRA, `methods/inflora.py`),
with ε 0.995 and T 15 of their runs on language models (liangyanshuo/gainlora). What differs: M holds what is used at
any size, while their vision code holds the rest once that is smaller; C is over all rows, without padding; and M ends
at the first direction that reaches ε_t in the first task too, while theirs ends one before.

Shape suffixes: D output width, K input width, R rank, H directions of M, N new ones.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cluster.errors import IntegrityError, TrainingError
from trainers.lowrank_config import InfloraConfig, LowRankConfig
from trainers.method_config import MethodConfig
from trainers.methods.base import Artifact, Files, Footprint, Reader, Shares, Stream, TaskContext, of_rank_0
from trainers.methods.lowrank.method import LowRankMethod
from trainers.methods.lowrank.pairs import Pairs
from trainers.methods.oa.files import BASES_FILE
from trainers.methods.oa.subspace import Basis, leading_directions
from trainers.methods.targets import input_width, width
from trainers.methods.updates import sound


class InfloraMethod(LowRankMethod):
    """See `methods.base.Method`."""

    def __init__(self, model: nn.Module, config: LowRankConfig, dtype: torch.dtype) -> None:
        """See LowRankMethod."""
        super().__init__(model, config, dtype)
        self.read = self._nothing_read()

    def reset(self, config: MethodConfig) -> None:
        """See Method."""
        super().reset(config)
        self.read = self._nothing_read()

    def extend(self, committed: Sequence[Artifact]) -> None:
        """See Method."""
        added = [self.directions(len(self.tasks) + number, each) for number, each in enumerate(committed, start=1)]
        super().extend(committed)
        for name in self.modules:
            self.read[name] = self.read[name].joined(*(each[name] for each in added))

    def pairs(self, task: TaskContext) -> Pairs:
        """See LowRankMethod. Raises TrainingError if a layer has less room than the rank."""
        self._check_room(task.name)
        start = self.fresh(task.seed)
        if not task.resumed:  # else the checkpoint has A
            rows = self._rows(task)
            start = {name: replace(lora, a_RK=rows[name]) for name, lora in start.items()}
        return Pairs(start, frozen=True)

    def _rows(self, task: TaskContext) -> dict[str, Tensor]:
        """A of every layer, from the task's rows; the same on all ranks."""
        assert task.reader is not None
        moments = task.reader.second_moments(self.modules, inputs=True)

        def first() -> dict[str, Tensor]:
            rank, bases = self.config.rank, self.read.items()
            return {name: first_rows(basis.columns_DH, moments[name].cpu(), rank) for name, basis in bases}

        return of_rank_0(task.reader, task.rank, first)

    def files(self, stream: Stream, reader: Reader) -> Files:
        """See LowRankMethod: also the directions that M gains."""
        assert isinstance(self.config, InfloraConfig)
        share = threshold(self.config.energy, len(self.tasks), self.config.horizon)
        tensors: dict[str, Tensor] = {}
        for name, moment_KK in reader.second_moments(self.modules, inputs=True).items():
            added = grown(self.read[name].columns_DH, moment_KK.cpu(), share)
            tensors |= {f"{name}.M": added.columns_DH, f"{name}.eigenvalues": added.spectrum_H}
        return {**super().files(stream, reader), BASES_FILE: save(tensors)}

    def directions(self, number: int, stored: Artifact) -> dict[str, Basis]:
        """What a task adds to M. Raises IntegrityError if it is malformed, or not of these layers."""
        try:
            tensors = load(stored.files[BASES_FILE])
            found = {name: Basis(tensors[f"{name}.M"], tensors[f"{name}.eigenvalues"]) for name in self.modules}
        except (SafetensorError, KeyError) as error:
            raise IntegrityError(f"inflora: task {number}: its bases are malformed ({type(error).__name__})") from None
        for name, basis in found.items():
            expected = (input_width(self.modules[name]), basis.spectrum_H.numel())
            parts = (basis.columns_DH, basis.spectrum_H)
            if tuple(basis.columns_DH.shape) != expected or not sound(*parts):
                raise IntegrityError(
                    f"inflora: task {number}, layer {name!r}: its bases are not of this model, or damaged"
                )
        return found

    def capacity(self) -> Shares:
        """See Method: the share of what each layer can read that M fills, and the number of directions outside M."""
        widths = {name: input_width(module) for name, module in self.modules.items()}
        return {
            name: {
                "written": 0.0,
                "read": basis.occupancy,
                "free": widths[name] - basis.columns_DH.shape[1],
                "dropped": 0.0,
            }
            for name, basis in self.read.items()
        }

    def footprint(self, tasks: int) -> Footprint:
        """See Method: B alone is trained; M has at most K² values in a layer, and C as many."""
        found, rank = super().footprint(tasks), self.config.rank
        squares = sum(input_width(module) ** 2 for module in self.modules.values())
        trained = rank * sum(map(width, self.modules.values()))
        return replace(found, trained=trained, history_bytes=found.history_bytes + 2 * 4 * squares)

    def _nothing_read(self) -> dict[str, Basis]:
        return {name: Basis.empty(input_width(module)) for name, module in self.modules.items()}

    def _check_room(self, task: str) -> None:
        for name, basis in self.read.items():
            free = len(basis.columns_DH) - basis.columns_DH.shape[1]
            if free < self.config.rank:
                raise TrainingError(
                    f"task {task!r}: what earlier tasks read leaves {free} directions in {name}, and adapter.rank is "
                    f"{self.config.rank}. End the stream here, or give a run another `name` and a lower adapter.energy "
                    "or adapter.rank"
                )


def first_rows(basis_KH: Tensor, moment_KK: Tensor, rank: int) -> Tensor:
    """A (R, K): the leading left singular vectors of (I − M Mᵀ) C as rows, / √3. They are orthogonal to M.

    They are the eigenvectors of (I − M Mᵀ) C² (I − M Mᵀ), taken within a basis of what is outside M, in float64.
    """
    c_KK, m_KH = moment_KK.double(), basis_KH.double()
    outside_KN = (
        torch.linalg.qr(m_KH, mode="complete").Q[:, m_KH.shape[1] :] if m_KH.numel() else torch.eye(len(c_KK)).double()
    )
    seen_KN = c_KK @ outside_KN
    vectors_NN = torch.linalg.eigh(seen_KN.T @ seen_KN).eigenvectors.flip(1)
    return ((outside_KN @ vectors_NN[:, :rank]).T / math.sqrt(3)).float().contiguous()


def grown(basis_KH: Tensor, moment_KK: Tensor, share: float) -> Basis:
    """What M gains, and the squared singular values of it: ‖M Mᵀ C‖²_F ≥ share · ‖C‖²_F then.

    Since ‖M Mᵀ C‖²_F = tr(Mᵀ C² M), these are the leading directions of C², see `oa.subspace.leading_directions`.
    """
    c_KK = moment_KK.double() / moment_KK.double().trace().clamp_min(torch.finfo(torch.float64).tiny)
    return leading_directions(basis_KH, c_KK @ c_KK, share)


def threshold(energy: float, task: int, horizon: int) -> float:
    """ε_t = ε + (1 − ε) · t / T of task t, from 0; from t = T on it stays at that of T − 1."""
    return energy + (1 - energy) * min(task, horizon - 1) / horizon
