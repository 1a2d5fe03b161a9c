"""Files of an adapter that somebody made up are refused with one message, whatever their header says."""

import json
import random
import struct
from typing import Any

import pytest
import torch
from safetensors.torch import save

from cluster.errors import IntegrityError
from trainers.methods.base import Lora
from trainers.methods.oa.artifact import dump, dump_start, parse

TENSORS = {"m.W1": torch.ones(2, 3), "m.W2": torch.ones(3, 2), "m.gamma": torch.ones(2)}
BASES = {"m.Q": torch.eye(3)[:, :2].contiguous(), "m.singular_values": torch.ones(2)}


def file_of(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def record(**changes: Any) -> dict[str, Any]:
    return {"m.gamma": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


HEADERS = [
    b"", b"\0", file_of(b""), file_of(b"{"), file_of(b"[]"), file_of(b"null"), file_of({}, length=2**63),
    file_of({}, length=2**64 - 1), file_of(record(), b""), file_of(record()), file_of(record(), length=10**9),
    file_of(b"[" * 100_000), file_of(b'{"a":' * 10_000),
    *(file_of(record(**change)) for change in (
        {"shape": [2**62, 4]}, {"shape": [-1]}, {"shape": [2.5]}, {"shape": "2"}, {"shape": [3]},
        {"data_offsets": [8, 0]}, {"data_offsets": [0, 2**63]}, {"data_offsets": [-8, 0]}, {"data_offsets": [0]},
        {"data_offsets": [4, 12]}, {"dtype": "F33"}, {"dtype": None}, {"dtype": "pickle"}, {"extra": 1},
    )),
]  # fmt: skip


@pytest.mark.parametrize("data", HEADERS, ids=range(len(HEADERS)))
def test_hostile_headers(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="do not use this version"):
        parse(data, save(BASES))


def test_headers_with_a_byte_changed() -> None:
    """They are refused or say the same of tensors of the same shapes."""
    good, draw = save(TENSORS), random.Random(3)
    header = 8 + struct.unpack("<Q", good[:8])[0]
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        data[draw.randrange(header)] ^= 1 << draw.randrange(8)
        try:
            parsed = parse(bytes(data), save(BASES))
        except IntegrityError:
            refused += 1
            continue
        assert all(module.w1_RD.shape == (2, 3) for module in parsed.modules.values())
    assert refused > 150


@pytest.mark.parametrize(
    "change",
    [
        {"m.W1": torch.ones(3, 3)}, {"m.W2": torch.ones(2, 2)}, {"m.W2": torch.ones(6)}, {"m.gamma": torch.ones(2, 1)},
        {"m.gamma": torch.tensor([1.0, float("nan")])}, {"m.W1": torch.full((2, 3), float("inf"))},
        {"m.gamma": torch.ones(2, dtype=torch.int64)}, {"m.W1": torch.ones(2, 3).half()},
        {"m.W2": torch.ones(3, 2).double()}, {"m.W1": torch.full((2, 3), 3e38)}, {"m.gamma": torch.tensor([1, -2e12])},
    ],
)  # fmt: skip
def test_tensors_that_make_no_adapter(change: dict[str, torch.Tensor]) -> None:
    assert parse(save(TENSORS), save(BASES)).parameters == 14
    with pytest.raises(
        IntegrityError, match="'m' has wrong shapes, is not float32 or not finite, or has values beyond"
    ):
        parse(save({**TENSORS, **change}), save(BASES))


@pytest.mark.parametrize(
    "change",
    [
        {"m.Q": torch.ones(3)}, {"m.singular_values": torch.ones(3)}, {"m.Q": torch.full((3, 2), float("nan"))},
        {"m.Q": torch.ones(3, 2).half()},
    ],
)  # fmt: skip
def test_directions_that_are_none(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(IntegrityError, match="bases: 'm' has wrong shapes, or is not finite float32"):
        parse(save(TENSORS), save({**BASES, **change}))


FELT = {
    "m.C": torch.eye(3)[:, :2].contiguous(), "m.C_values": torch.tensor([2.0, 1.0]), "m.C_rest": torch.tensor(0.5),
    "m.G": torch.zeros(3, 0), "m.G_values": torch.zeros(0), "m.G_rest": torch.tensor(1.0),
}  # fmt: skip


def test_what_is_kept_of_a_task_is_read_back_exactly() -> None:
    found = parse(save(TENSORS), save({**BASES, **FELT}))
    felt = found.felt["m"]
    assert torch.equal(felt.read.dense(), torch.diag(torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)))
    assert torch.equal(felt.loss.dense(), torch.eye(3, dtype=torch.float64))
    assert dump(found)["bases.safetensors"] == save({**BASES, **FELT})
    assert parse(save(TENSORS), save(BASES)).felt == {}


@pytest.mark.parametrize(
    "change",
    [
        {"m.C": torch.ones(3)}, {"m.C_values": torch.ones(3)}, {"m.C": torch.full((3, 2), float("nan"))},
        {"m.C_rest": torch.ones(1)}, {"m.G_rest": torch.tensor(-1.0)}, {"m.C_values": torch.tensor([1.0, -1.0])},
    ],
)  # fmt: skip
def test_what_cannot_be_kept_of_a_task(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(IntegrityError, match="bases: C or G of 'm' has wrong shapes or values"):
        parse(save(TENSORS), save({**BASES, **FELT, **change}))
    with pytest.raises(IntegrityError, match="malformed"):
        parse(save(TENSORS), save({**BASES, "m.C": FELT["m.C"]}))


@pytest.mark.parametrize("lost", ["m.gamma", "m.Q", "m.C"])
def test_what_lost_the_tensor_that_it_is_found_by(lost: str) -> None:
    """It is not taken for absent."""
    tensors, bases = ({k: v for k, v in each.items() if k != lost} for each in (TENSORS, {**BASES, **FELT}))
    with pytest.raises(IntegrityError, match=r"'m\.\w+' belongs to nothing in its file; do not use this version"):
        parse(save(tensors), save(bases))


def a_start() -> dict[str, Lora]:
    draw = torch.Generator().manual_seed(0)
    return {"m": Lora(torch.randn(2, 5, generator=draw), torch.randn(3, 2, generator=draw), scaling=0.3)}


def test_a_lora_from_elsewhere_is_read_back_exactly() -> None:
    """Q spans what s B A writes, and its singular values are those of s B A."""
    files, start = dump_start(a_start()), a_start()["m"]
    found = parse(files["adapter.safetensors"], files["bases.safetensors"])
    assert not found.modules and found.adapts == ["m"] and found.start["m"].scaling == 0.3
    assert torch.equal(found.start["m"].a_RK, start.a_RK) and torch.equal(found.start["m"].b_DR, start.b_DR)
    written, update = found.written["m"], 0.3 * start.b_DR @ start.a_RK
    torch.testing.assert_close(written.columns_DH @ (written.columns_DH.T @ update), update, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(written.spectrum_H, torch.linalg.svdvals(update)[:2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["base_model.model.m.lora_A.weight", "base_model.model.n.lora_B.weight"])
def test_a_lora_from_elsewhere_that_is_not_whole(name: str) -> None:
    """A tensor is missing, or belongs to nothing."""
    stream = {f"base_model.model.m.lora_{key}.weight": torch.ones(2, 2) for key in "AB"}
    stream = (
        {**stream, name: torch.ones(2, 2)} if name not in stream else {k: v for k, v in stream.items() if k != name}
    )
    with pytest.raises(IntegrityError, match="do not use this version"):
        parse(save(stream, {"scaling": "1.0"}), save(BASES))
