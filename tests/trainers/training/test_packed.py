"""Packed rows equal rows alone, in loss, gradients and second moments, on one rank and on two, at every ZeRO stage; and
sampled answers score alike on one rank and on two."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import packed_pair
from tests.support.launching import launch
from tests.support.packed_pair import FAMILIES, STAGES, Setting, Tensors, alone, case

TOLERANCE = 1e-5
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_process")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave; they start once for all cases."""
    made = tmp_path_factory.mktemp("packed")
    launch(made, 2, packed_pair.__name__)
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def setting(request: pytest.FixtureRequest, folder: Path, one_process: None) -> Setting:
    return Setting(request.param, folder)


@pytest.fixture(scope="module")
def expected(setting: Setting) -> Tensors:
    """In plain PyTorch, row by row."""
    return alone(setting)


def assert_equal(found: Tensors, expected: Tensors) -> None:
    """To float32: by norm, as sums of thousands of terms are added in another order (measured: up to 2e-6)."""
    assert {*expected} - {*found} <= {"score", "nll"} and {*found} <= {*expected}
    for name in found:
        value = expected[name]
        error = (found[name].float() - value.float()).norm()
        assert error <= TOLERANCE * value.float().norm() + 1e-7, (
            f"{name}: {float(error):.1e} of {float(value.norm()):.1e}"
        )
    assert expected["loss"] > 1 and any(name.startswith("read/") for name in expected)
    assert all(value.norm() > 0 for name, value in expected.items() if name.startswith("gradient/W"))


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks(folder: Path, setting: Setting, expected: Tensors, stage: int) -> None:
    family = Path(setting.base.model.config._name_or_path).name
    assert_equal(load_file(folder / f"{family}_{stage}.safetensors"), expected)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_one_rank(setting: Setting, expected: Tensors, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert_equal(case(setting, stage), expected)


def test_rows_that_see_each_other_would_show(setting: Setting, expected: Tensors) -> None:
    """Positions that go on from row to row change loss and gradients by far more than the tolerance."""
    split = setting.split
    batch = split.batch(packed_pair.BATCH)
    places = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    with torch.no_grad(), setting.with_adapters():
        object.__setattr__(batch, "positions", places)
        error = abs(float(split.losses(batch).sum() - expected["loss"]))
    assert error > 5 * TOLERANCE * float(expected["loss"])
