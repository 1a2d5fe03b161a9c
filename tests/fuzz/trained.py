"""What training stores, changed: bytes of checkpoints, and tensors of adapters."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tests.fuzz.harness import Case
from trainers.methods.oa import artifact
from trainers.methods.updates import parse as parse_updates
from trainers.training.checkpoint import Checkpoint

IDENTITY = {"index": 1, "parents": ["a" * 64], "config": {"train": {"seed": 0}}, "base": {"weights": "b" * 64}}
SHAPES = {f"{kind}/W": (3, 2) for kind in ("value", "exp_avg", "exp_avg_sq")}
ADAPTER = {"m.W1": torch.ones(2, 3), "m.W2": torch.ones(3, 2), "m.gamma": torch.ones(2)}
BASES = {"m.Q": torch.eye(3)[:, :2].contiguous(), "m.singular_values": torch.ones(2)}
LORA = {f"base_model.model.m.lora_{key}.weight": torch.ones(*shape) for key, shape in (("A", (2, 3)), ("B", (3, 2)))}


def checkpoints(draw: random.Random, _: Path) -> Iterator[Case]:
    """Bytes that are not those that were stored are refused, whatever was done to them."""
    tensors = {**{name: torch.rand(shape) for name, shape in SHAPES.items()}, "log/step": torch.tensor([1, 2])}
    good = Checkpoint(7, tensors).dump(IDENTITY)
    while True:
        says, data = damaged(good, draw)

        def work(data: bytes = data) -> None:
            Checkpoint.parse(data, IDENTITY)
            raise AssertionError("a changed checkpoint was accepted")

        if data != good:
            yield Case(f"checkpoint: {says}", work)
        changed, said = odd_tensors(tensors, draw)
        step = draw.choice([7, 0, -1, 9, 10, 2**70])
        trained = {name: value for name, value in changed.items() if not name.startswith("log/")}
        fits = {name: tuple(value.shape) for name, value in trained.items()} == SHAPES
        fits = fits and all(bool(value.isfinite().all()) for value in trained.values())

        def fit(changed: dict[str, Tensor] = changed, step: int = step, fits: bool = fits) -> None:
            found = Checkpoint.parse(Checkpoint(step, changed).dump(IDENTITY), IDENTITY)
            assert found is not None
            found.check(SHAPES, 9)
            assert fits and 0 < step <= 9, "it does not fit"

        yield Case(f"checkpoint of step {step}: {said}", fit)


def adapters(draw: random.Random, _: Path) -> Iterator[Case]:
    """Tensors of an adapter that are accepted can be computed with."""
    while True:
        (tensors, first), (bases, second) = odd_tensors(ADAPTER, draw), odd_tensors(BASES, draw)
        if draw.random() < 0.5:
            bases, second = dict(BASES), "as it was"
        data, kept = damaged(save(tensors), draw)[1] if draw.random() < 0.2 else save(tensors), save(bases)
        yield Case(f"oa: {first}; bases: {second}", lambda data=data, kept=kept: answers(data, kept))
        lora, said = odd_tensors(LORA, draw)
        scaling = draw.choice(["1.0", "0.5", "nan", "inf", "-1e300", "x", "1" * 5_000])
        file = save(lora, {"scaling": scaling})
        yield Case(f"lora of scaling {scaling:.20}: {said}", lambda file=file: answers_lora(file))


def answers(data: bytes, bases: bytes) -> None:
    """Reads an adapter; its update must be finite."""
    for module in artifact.parse(data, bases).modules.values():
        update = module.written_DR @ module.w1_RD
        assert update.dtype == torch.float32 and bool(update.isfinite().all()), "the update is not finite"


def answers_lora(data: bytes) -> None:
    """Reads updates; each must be finite."""
    for lora in parse_updates(data, "lora").values():
        update = lora.scaling * (lora.b_DR @ lora.a_RK)
        assert update.dtype == torch.float32 and bool(update.isfinite().all()), "the update is not finite"


def damaged(good: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Bytes after one thing was done to them, and what."""
    data, at = bytearray(good), draw.randrange(len(good))
    kind = draw.randrange(5)
    if kind == 0:
        data[at] ^= 1 << draw.randrange(8)
        return f"a bit of byte {at}", bytes(data)
    if kind == 1:
        return f"the first {at} bytes", bytes(data[:at])
    if kind == 2:
        data[at : at + 8] = draw.randbytes(8)
        return f"8 bytes from {at}", bytes(data)
    if kind == 3:
        data[:8] = draw.choice([0, 1, len(good), 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
        return "the length of its header", bytes(data)
    return "more bytes at its end", good + draw.randbytes(draw.randrange(1, 9))


ODD: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("float16", lambda value: value.half()), ("float64", lambda value: value.double()),
    ("int64", lambda value: value.long()), ("bool", lambda value: value.bool()),
    ("nan", lambda value: value * torch.nan),
    ("3e38", lambda value: value * 3e38), ("1e13", lambda value: value * 1e13), ("1e11", lambda value: value * 1e11),
    ("transposed", lambda value: value.mT.contiguous() if value.ndim > 1 else value),
    ("flat", lambda value: value.flatten()),
    ("empty", lambda value: value[:0]), ("a scalar", lambda value: value.flatten()[0].clone()),
    ("one more dimension", lambda value: value[None].clone()),
)  # fmt: skip


def odd_tensors(tensors: dict[str, Tensor], draw: random.Random) -> tuple[dict[str, Tensor], str]:
    """Tensors of which one is changed, renamed, absent or there twice; what was done."""
    found: dict[str, Tensor] = {name: value.clone() for name, value in tensors.items()}
    name, kind = draw.choice(sorted(found)), draw.randrange(5)
    if kind == 0:
        del found[name]
        return found, f"without {name}"
    if kind == 1:
        other: Any = draw.choice(["", "x", "\x1b[2J", "n" * 3_000, f"{name}.W1", name.upper()])
        found[other] = found.pop(name)
        return found, f"{name} is {other[:20]!r}"
    said, change = draw.choice(ODD)
    found[name] = change(found[name])
    return found, f"{name}: {said}"
