"""InfLoRA: A as its authors' code finds it, M as theirs grows, and files that are read again."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from cluster.errors import IntegrityError, TrainingError
from tests.support.readers import KnownReader
from tests.support.small_layers import SIZES, context, layers, stored, update
from trainers.lowrank_config import InfloraConfig
from trainers.methods.lowrank.inflora import InfloraMethod, first_rows, grown, threshold


def moment(size: int, seed: int, decay: float = 0.6) -> Tensor:
    """A second moment whose spectrum falls."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator).double()).Q
    return ((basis * decay ** torch.arange(size)) @ basis.T).float()


def their_rows(c: np.ndarray, m: np.ndarray, rank: int) -> np.ndarray:
    """A as the authors compute it."""
    u, _, _ = np.linalg.svd(c - m @ m.T @ c)
    return u[:, :rank].T / math.sqrt(3)


def their_growth(c: np.ndarray, m: np.ndarray, share: float) -> np.ndarray:
    """M after a later task, as the authors compute it."""
    total = (np.linalg.svd(c)[1] ** 2).sum()
    u, s, _ = np.linalg.svd(c - m @ m.T @ c)
    covered, count = (total - (s**2).sum()) / total, 0
    while covered < share:
        covered += s[count] ** 2 / total
        count += 1
    return np.hstack([m, u[:, :count]])


def projector(columns: Any) -> np.ndarray:
    columns = np.asarray(columns, dtype=np.float64)
    return columns @ columns.T


@pytest.mark.parametrize("used", [0, 3])
def test_rows_are_those_of_the_authors(used: int) -> None:
    """Up to their signs."""
    c_KK = moment(9, 1)
    m_KH = torch.linalg.qr(torch.randn(9, used))[0] if used else torch.zeros(9, 0)
    found = first_rows(m_KH, 5.0 * c_KK, 3).double()  # any scale
    expected = torch.from_numpy(their_rows(c_KK.double().numpy(), m_KH.double().numpy(), 3))
    signs = torch.sign((found * expected).sum(1, keepdim=True))
    torch.testing.assert_close(signs * found, expected, rtol=1e-4, atol=1e-5)
    assert float((found @ m_KH.double()).abs().sum()) < 1e-6
    torch.testing.assert_close(found @ found.T, torch.eye(3).double() / 3, rtol=1e-5, atol=1e-6)


def test_rows_keep_out_of_what_is_used_even_if_nothing_else_is_read() -> None:
    """If the new task reads nothing outside M."""
    m_KH = torch.linalg.qr(torch.randn(8, 4))[0]
    rows = first_rows(m_KH, m_KH @ torch.diag(torch.arange(1.0, 5.0)) @ m_KH.T, 3)
    assert float((rows @ m_KH).abs().max()) < 1e-5
    torch.testing.assert_close(rows @ rows.T, torch.eye(3) / 3, rtol=1e-4, atol=1e-5)


def test_what_is_used_grows_as_with_the_authors() -> None:
    m_KH = torch.zeros(9, 0)
    first = grown(m_KH, moment(9, 1), 0.9)
    spectrum = (0.6 ** np.arange(9)) ** 2
    assert first.columns_DH.shape[1] == int((np.cumsum(spectrum) / spectrum.sum() < 0.9).sum()) + 1
    second = grown(first.columns_DH, 7.0 * moment(9, 2), 0.95)
    theirs = their_growth(moment(9, 2).double().numpy(), first.columns_DH.double().numpy(), 0.95)
    ours = first.joined(second).columns_DH
    assert ours.shape == theirs.shape and second.columns_DH.shape[1] > 0
    np.testing.assert_allclose(projector(ours), projector(theirs), atol=1e-4)
    assert grown(ours, moment(9, 2), 0.95).columns_DH.shape[1] == 0


def test_the_threshold_rises_to_all() -> None:
    assert threshold(0.995, 0, 15) == 0.995
    assert threshold(0.9, 5, 10) == pytest.approx(0.95)
    assert threshold(0.9, 50, 10) == threshold(0.9, 9, 10) == pytest.approx(0.99)


def rows(seed: int) -> KnownReader:
    """A task's rows."""
    return KnownReader({n: moment(k, seed + i) for i, (n, (k, _)) in enumerate(SIZES.items())}, of_inputs=True)


def begun(**changed: object) -> InfloraMethod:
    settings = InfloraConfig.model_validate(
        {"method": "inflora", "target_modules": [*SIZES], "rank": 2, "energy": 0.6, "horizon": 4, **changed}
    )
    method = InfloraMethod(layers(), settings, torch.float32)
    method.reset(settings)
    return method


def test_only_b_is_trained() -> None:
    method = begun()
    attached = method.begin(context(reader=rows(1)))
    assert {name[0] for name, _ in attached.module.named_parameters()} == {"B"}
    assert (
        sum(p.numel() for p in attached.module.parameters()) == method.footprint(1).trained < method.footprint(1).kept
    )
    a_RK = attached.module.get_buffer("A_0")
    torch.testing.assert_close(a_RK, first_rows(torch.zeros(5, 0), rows(1).moments["a"], 2))
    assert "A_0" in attached.module.state_dict()  # a checkpoint keeps it
    assert method.begin(context(resumed=True)).module.get_buffer("A_0").shape == a_RK.shape  # without its rows


def test_a_second_task_keeps_out_of_what_the_first_one_reads() -> None:
    """After it was stored and read again."""
    method = begun()
    artifact = method.begin(context(reader=rows(1))).finish(rows(1))
    assert {*artifact.files} == {*InfloraConfig.files}
    again = begun()
    again.extend([artifact])
    for name, basis in again.read.items():
        assert torch.equal(
            basis.columns_DH, grown(torch.zeros(len(basis.columns_DH), 0), rows(1).moments[name], 0.6).columns_DH
        )
    attached = again.begin(context(reader=rows(9)))
    for index, name in enumerate(SIZES):
        assert float((attached.module.get_buffer(f"A_{index}") @ again.read[name].columns_DH).abs().max()) < 1e-5
    used = again.read["a"].columns_DH.shape[1]
    assert again.capacity()["a"] == {"written": 0, "read": used / 5, "free": 5 - used, "dropped": 0}
    again.reset(again.config)
    assert again.capacity()["a"] == {"written": 0, "read": 0, "free": 5, "dropped": 0}


def test_a_layer_without_room_ends_the_stream() -> None:
    method = begun(energy=0.999)
    artifact = method.begin(context(reader=rows(1))).finish(rows(1))
    method.extend([artifact])
    with pytest.raises(TrainingError, match=r"leaves \d directions in a, and adapter.rank is 2. End the stream here"):
        method.begin(context(reader=rows(2)))


def test_bases_of_another_model_are_refused() -> None:
    method, good = begun(), begun().begin(context(reader=rows(1))).finish(rows(1))
    tensors = load(good.files["bases.safetensors"])
    wrong = {
        "malformed": {**tensors, "b.M": torch.zeros(0)},
        "lacking": {key: value for key, value in tensors.items() if key != "a.M"},
    }
    for bad in (b"", save(wrong["lacking"])):
        with pytest.raises(IntegrityError, match=r"^inflora: task 1: its bases are malformed"):
            method.extend([stored(update(1), **{"bases.safetensors": bad})])
    with pytest.raises(
        IntegrityError, match=r"^inflora: task 1, layer 'b': its bases are not of this model, or damaged$"
    ):
        method.extend([stored(update(1), **{"bases.safetensors": save(wrong["malformed"])})])
    assert not method.tasks


def test_a_spectrum_that_is_not_finite_is_refused() -> None:
    tensors = load(begun().begin(context(reader=rows(1))).finish(rows(1)).files["bases.safetensors"])
    bad = {**tensors, "a.eigenvalues": torch.full_like(tensors["a.eigenvalues"], math.nan)}
    with pytest.raises(IntegrityError, match=r"^inflora: task 1, layer 'a': its bases are not of this model, or damag"):
        begun().extend([stored(update(1), **{"bases.safetensors": save(bad)})])
