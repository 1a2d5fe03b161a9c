"""Low-rank updates of linear layers: how they are drawn, measured and stored.

A file holds the updates of one task, with the names that PEFT gives its tensors, and `scaling` in its header. Layers of
rank 0 are absent. Shape suffixes: D output width, K input width, R rank.
"""

import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from cluster.errors import IntegrityError
from trainers.methods.base import Lora, Stream
from trainers.methods.targets import input_width, width

FILE = "adapter.safetensors"
LARGEST = 1e12  # of a stored value: products of three are float32 still
HEAD, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def fresh(modules: Mapping[str, nn.Module], rank: int, scaling: float, seed: int) -> dict[str, Lora]:
    """New updates: A (R, K) ~ U(−1/√K, 1/√K) and B (D, R) = 0, drawn on the CPU in the order of the layers, so that all
    ranks and devices start from the same values."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Lora(
            (2 * torch.rand(rank, input_width(module), generator=generator) - 1) * input_width(module) ** -0.5,
            torch.zeros(width(module), rank),
            scaling=scaling,
        )
        for name, module in modules.items()
    }


def update_norm(a_RK: Tensor, b_DR: Tensor) -> Tensor:
    """‖B A‖_F as √tr((BᵀB)(A Aᵀ)), without forming B A."""
    return ((b_DR.T @ b_DR) * (a_RK @ a_RK.T)).sum().clamp_min(0).sqrt()


def finite(stream: Stream) -> bool:
    """Whether all values are finite."""
    return all(bool(lora.a_RK.isfinite().all() and lora.b_DR.isfinite().all()) for lora in stream.values())


def sound(*tensors: Tensor, most: float = LARGEST) -> bool:
    """Whether tensors are as they are stored: float32, and no value is NaN or beyond `most`."""
    return all(each.dtype == torch.float32 and bool((each.abs() <= most).all()) for each in tensors)


def dump(stream: Stream) -> bytes:
    """The bytes of updates of one scaling; 1 if there are none."""
    tensors: dict[str, Tensor] = {}
    for name, lora in stream.items():
        tensors |= {f"{HEAD}{name}{A}": lora.a_RK, f"{HEAD}{name}{B}": lora.b_DR}
    return save(tensors, {"scaling": repr(next((lora.scaling for lora in stream.values()), 1.0))})


def parse(data: bytes, method: str) -> dict[str, Lora]:
    """The updates in `data`; the exact inverse of `dump`. `method` is who says so if they are malformed.

    Raises IntegrityError if the bytes are no safetensors, or a tensor is missing, of another shape or not `sound`.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        scaling = float(json.loads(data[8 : 8 + size])["__metadata__"]["scaling"])
        tensors = load(data)
        names = sorted(key[len(HEAD) : -len(A)] for key in tensors if key.endswith(A))
        stream = {n: Lora(tensors[f"{HEAD}{n}{A}"], tensors[f"{HEAD}{n}{B}"], scaling=scaling) for n in names}
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise IntegrityError(f"{method}: malformed ({type(error).__name__}); do not use this version") from None
    if wrong := [name for name, lora in stream.items() if not _shaped(lora)]:
        raise IntegrityError(f"{method}: {wrong[0]!r} has a wrong shape; do not use this version")
    if wrong := [name for name, lora in stream.items() if not sound(lora.a_RK, lora.b_DR, torch.tensor(scaling))]:
        raise IntegrityError(
            f"{method}: {wrong[0]!r} is not float32, not finite, or has values beyond {LARGEST:g}; do not use this "
            "version"
        )
    return stream


def check_fits(where: str, stream: Stream, modules: Mapping[str, nn.Module], *, every: bool) -> None:
    """Raises IntegrityError if an update is of no layer here, or of a layer of other widths, or if `every` layer should
    have one and lacks it; `where` says whose they are."""
    if not stream.keys() <= modules.keys() or (every and stream.keys() != modules.keys()):
        raise IntegrityError(f"{where} adapts other layers than this run; the files are not of it")
    for name, lora in stream.items():
        found = lora.a_RK.shape[1], lora.b_DR.shape[0]
        if found != (expected := (input_width(modules[name]), width(modules[name]))):
            raise IntegrityError(
                f"{where}, layer {name!r}: the adapter maps {found[0]} to {found[1]} values, the layer "
                f"{expected[0]} to {expected[1]}; the files are not of this model"
            )


def _shaped(lora: Lora) -> bool:
    return lora.a_RK.ndim == lora.b_DR.ndim == 2 and lora.a_RK.shape[0] == lora.b_DR.shape[1] > 0
