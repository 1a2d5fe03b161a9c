"""A trained adapter as it is stored: its active dimensions only, as safetensors files in one folder.

    adapter.safetensors   <module>.W1 (r, D), <module>.W2 (D, r), <module>.gamma (r,): r = r_eff dimensions with γ ≠ 0
    bases.safetensors     <module>.Q (D, n), <module>.singular_values (n,): directions it writes, new to the history
                          <module>.P (D, n), <module>.eigenvalues (n,): directions it reads, with input-side protection
                          <module>.C (D, k), <module>.C_values (k,), <module>.C_rest (), and the same of G: what it
                          read and how its loss feels a change, with the functional penalty, see `functional.Felt`

A stream may begin with a LoRA from elsewhere, s B A on W0. Its adapter.safetensors is that of `updates`, and Q spans
what it writes.

A module with r_eff = 0 is absent and loads as the identity. Shape suffixes: R active rank, D output width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cluster.errors import IntegrityError
from trainers.methods import updates
from trainers.methods.base import Lora, Stream
from trainers.methods.oa.bank import ModuleState
from trainers.methods.oa.files import ADAPTER_FILE, BASES_FILE
from trainers.methods.oa.functional import Felt, Metric
from trainers.methods.oa.subspace import Basis, extend_basis, leading_directions
from trainers.methods.updates import LARGEST, sound

WRITTEN = ("Q", "singular_values")
READ = ("P", "eigenvalues")
METRICS = ("C", "G")  # each with its values and its rest


@dataclass(frozen=True)
class ModuleAdapter:
    """The active part of one module's adapter: U = W2 · diag(γ) · W1."""

    w1_RD: Tensor
    w2_DR: Tensor
    gamma_R: Tensor

    @property
    def rank(self) -> int:
        """r_eff = ‖γ‖₀."""
        return self.gamma_R.numel()

    @property
    def parameters(self) -> int:
        """Active parameters r_eff · (2 D + 1): rows of W1, columns of W2, and γ."""
        return self.w1_RD.numel() + self.w2_DR.numel() + self.gamma_R.numel()

    def shapes(self, width: int) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Each tensor with the shape that it has on a layer so wide."""
        r = self.rank
        return [(self.w1_RD, (r, width)), (self.w2_DR, (width, r)), (self.gamma_R, (r,))]

    @property
    def written_DR(self) -> Tensor:
        """W2 Γ (D, R), whose columns span what the adapter writes."""
        return self.w2_DR * self.gamma_R


@dataclass(frozen=True)
class TaskAdapter:
    """One task's adapter over all modules that kept at least one dimension, the directions it adds to Q and P, and what
    the functional penalty keeps of it. A LoRA from elsewhere has `start`, by layer, in the place of `modules`."""

    modules: dict[str, ModuleAdapter]
    written: dict[str, Basis]
    read: dict[str, Basis]
    felt: dict[str, Felt] = field(default_factory=dict)
    start: dict[str, Lora] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Active parameters over all modules."""
        return sum(module.parameters for module in self.modules.values())

    @property
    def adapts(self) -> list[str]:
        """The layers that it changes."""
        return [*self.modules, *self.start]

    def writes_DR(self, name: str) -> Tensor:
        """The columns (D, R) that span what it writes in a layer that it adapts."""
        return self.start[name].b_DR if name in self.start else self.modules[name].written_DR


def check_shapes(where: str, shapes: Iterable[tuple[Tensor, tuple[int, ...]]]) -> None:
    """Raises IntegrityError unless all tensors have these shapes, and are finite; `where` says whose they are."""
    for tensor, expected in shapes:
        if tuple(tensor.shape) != expected or not tensor.isfinite().all():
            raise IntegrityError(
                f"{where}: a tensor of shape {tuple(tensor.shape)} should be {expected} and finite; the files are not "
                "of this model, or damaged"
            )


def extract(
    states: Mapping[str, ModuleState],
    written: Mapping[str, Basis],
    read: Mapping[str, Basis],
    second_moments: Mapping[str, Tensor],
    energy: float,
) -> TaskAdapter:
    """Drops the dimensions with γ = 0 and finds what the task adds to the bases that it was trained against.

    What a module reads is protected, up to the share `energy`, even if the module kept no dimension, since a later
    adapter there would disturb this task too. `second_moments` holds Σ h hᵀ (D, D) per module; it is empty without
    input-side protection.
    """
    modules = {name: active_part(state) for name, state in states.items()}
    modules = {name: module for name, module in modules.items() if module.rank}
    added = {n: extend_basis(written[n].columns_DH, module.written_DR) for n, module in modules.items()}
    seen = {n: leading_directions(read[n].columns_DH, moment.cpu(), energy) for n, moment in second_moments.items()}
    return TaskAdapter(modules, added, seen)


def active_part(state: ModuleState) -> ModuleAdapter:
    """The active dimensions, with W1, W2 and γ as the forward pass uses them."""
    on = state.active_R
    return ModuleAdapter(state.w1_RD[on].contiguous(), state.w2_DR[:, on].contiguous(), state.gamma_R[on].contiguous())


def dump_start(stream: Stream) -> dict[str, bytes]:
    """The bytes of both files of a LoRA from elsewhere, by name: its updates, of one scaling, and Q of s B A."""
    bases: dict[str, Tensor] = {}
    for name, lora in stream.items():
        _, r_RR = torch.linalg.qr(lora.a_RK.T.double())
        added = extend_basis(Basis.empty(lora.b_DR.shape[0]).columns_DH, lora.scaling * (lora.b_DR.double() @ r_RR.T))
        bases |= dict(zip((f"{name}.{part}" for part in WRITTEN), (added.columns_DH, added.spectrum_H), strict=True))
    return {ADAPTER_FILE: updates.dump(stream), BASES_FILE: save(bases)}


def dump(adapter: TaskAdapter) -> dict[str, bytes]:
    """The bytes of both files, by name."""
    tensors, bases = _tensors(adapter)
    return {ADAPTER_FILE: save(tensors), BASES_FILE: save(bases)}


def _tensors(adapter: TaskAdapter) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of both files, by name."""
    tensors: dict[str, Tensor] = {}
    for name, lora in adapter.start.items():
        tensors |= {f"{updates.HEAD}{name}{updates.A}": lora.a_RK, f"{updates.HEAD}{name}{updates.B}": lora.b_DR}
    for name, module in adapter.modules.items():
        tensors |= {f"{name}.W1": module.w1_RD, f"{name}.W2": module.w2_DR, f"{name}.gamma": module.gamma_R}
    bases: dict[str, Tensor] = {}
    for directions, columns, spectrum in ((adapter.written, *WRITTEN), (adapter.read, *READ)):
        for name, added in directions.items():
            bases |= {f"{name}.{columns}": added.columns_DH, f"{name}.{spectrum}": added.spectrum_H}
    for name, felt in adapter.felt.items():
        for key, metric in zip(METRICS, (felt.read, felt.loss), strict=True):
            bases |= dict(zip(_parts(name, key), (metric.columns_DK, metric.values_K, metric.rest), strict=True))
    return tensors, bases


def parse(adapter_bytes: bytes, bases_bytes: bytes) -> TaskAdapter:
    """The adapter in the bytes of the two files; the exact inverse of `dump`.

    Raises IntegrityError if they are no safetensors, or a tensor is missing, of another shape, not float32, not finite,
    or part of nothing, or if a value of the adapter is beyond `updates.LARGEST`.
    """
    try:
        tensors, bases = load(adapter_bytes), load(bases_bytes)
        modules = {
            name: ModuleAdapter(tensors[f"{name}.W1"], tensors[f"{name}.W2"], tensors[f"{name}.gamma"])
            for name in _owners(tensors, "gamma")
        }
        felt = {n: Felt(*(_metric(bases, n, key) for key in METRICS)) for n in _owners(bases, METRICS[0])}
        start = updates.parse(adapter_bytes, "adapter") if any(key.startswith(updates.HEAD) for key in tensors) else {}
        found = TaskAdapter(modules, _directions(bases, *WRITTEN), _directions(bases, *READ), felt, start)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise IntegrityError(f"adapter: malformed ({type(error).__name__}); do not use this version") from None
    for given, known in zip((tensors, bases), _tensors(found), strict=True):
        if stray := sorted({*given} - {*known}):  # as if what it belongs to has lost its first tensor
            raise IntegrityError(f"adapter: {stray[0]!r} belongs to nothing in its file; do not use this version")
    if wrong := [name for name, module in found.modules.items() if not _sound(module)]:
        raise IntegrityError(
            f"adapter: {wrong[0]!r} has wrong shapes, is not float32 or not finite, or has values beyond {LARGEST:g}; "
            "do not use this version"
        )
    for name, basis in [*found.written.items(), *found.read.items()]:
        columns, spectrum = basis.columns_DH, basis.spectrum_H
        if columns.ndim != 2 or spectrum.shape != columns.shape[1:] or not _finite(columns, spectrum):
            raise IntegrityError(f"bases: {name!r} has wrong shapes, or is not finite float32; do not use this version")
    if wrong := [n for n, each in found.felt.items() if not (_sound_metric(each.read) and _sound_metric(each.loss))]:
        raise IntegrityError(f"bases: C or G of {wrong[0]!r} has wrong shapes or values; do not use this version")
    return found


def _sound(module: ModuleAdapter) -> bool:
    w1, w2, gamma = module.w1_RD, module.w2_DR, module.gamma_R
    shaped = gamma.ndim == 1 and w1.ndim == w2.ndim == 2 and w1.shape[0] == w2.shape[1] == gamma.shape[0]
    return shaped and w1.shape[1] == w2.shape[0] and sound(w1, w2, gamma)


def _parts(name: str, key: str) -> tuple[str, str, str]:
    """The names of a metric's tensors."""
    return f"{name}.{key}", f"{name}.{key}_values", f"{name}.{key}_rest"


def _metric(bases: Mapping[str, Tensor], name: str, key: str) -> Metric:
    return Metric(*(bases[part] for part in _parts(name, key)))


def _sound_metric(metric: Metric) -> bool:
    columns, values, rest = metric.columns_DK, metric.values_K, metric.rest
    shaped = columns.ndim == 2 and values.shape == columns.shape[1:] and rest.ndim == 0
    return shaped and _finite(columns, values, rest) and bool((values >= 0).all() and rest >= 0)


def _finite(*tensors: Tensor) -> bool:
    return sound(*tensors, most=torch.finfo(torch.float32).max)


def _directions(bases: Mapping[str, Tensor], columns: str, spectrum: str) -> dict[str, Basis]:
    return {n: Basis(bases[f"{n}.{columns}"], bases[f"{n}.{spectrum}"]) for n in _owners(bases, columns)}


def _owners(tensors: Mapping[str, Tensor], suffix: str) -> list[str]:
    return sorted(key.removesuffix(f".{suffix}") for key in tensors if key.endswith(f".{suffix}"))
