"""Checkpoints: their bytes, and training that goes on from them on other stages and ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from cluster.errors import IntegrityError
from tests.support.closeness import assert_moved_alike
from tests.support.zero_pair import RESUMED, Case
from tests.support.zero_reference import References
from trainers.training.checkpoint import Checkpoint


@pytest.mark.parametrize("stages", RESUMED, ids=lambda stages: "-".join(map(str, stages)))
@pytest.mark.parametrize("ranks", [2, 1])
def test_a_checkpoint_resumes_on_another_stage_and_number_of_ranks(
    pair: Path, references: References, stages: tuple[str, int, int], ranks: int
) -> None:
    """Parameters after the last step are those of the run that was never interrupted, by the same norm and share."""
    family, before, after = stages
    if ranks == 1 and after == 3:
        pytest.skip("one rank has nobody to share the model with")
    result = load_file(pair / f"resumed_{family}_{before}_{after}_{ranks}.safetensors")
    case = Case(family, before, 2)
    whole = load_file(pair / f"{case.name}.safetensors")
    start, _ = references[case.setting]
    for name in start:
        assert_moved_alike(result[name], whole[name], start[name], torch.float32)


TENSORS = {"value/W": torch.arange(6.0).reshape(2, 3).T, "log/step": torch.tensor([1, 2])}
IDENTITY = {"index": 1, "tasks": ["a", "b"], "rate": 0.1}


def test_a_checkpoint_is_read_back_as_it_was() -> None:
    """Tensors that lie transposed in memory too; tuples of the identity are lists once they are JSON."""
    data = Checkpoint(7, TENSORS).dump({**IDENTITY, "tasks": ("a", "b")})
    for identity in (IDENTITY, {**IDENTITY, "tasks": ("a", "b")}):
        read = Checkpoint.parse(data, identity)
        assert read is not None and read.step == 7 and read.tensors.keys() == TENSORS.keys()
        assert all(torch.equal(read.tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("change", [{"index": 2}, {"tasks": ["a"]}, {"rate": 0.2}, {"more": None}])
def test_a_checkpoint_of_something_else_is_none(change: dict[str, Any]) -> None:
    assert Checkpoint.parse(Checkpoint(7, TENSORS).dump(IDENTITY), IDENTITY | change) is None


def test_a_checkpoint_knows_its_base() -> None:
    """One that an older Orthoplex stored does not, and is gone on from."""
    old, new = (Checkpoint(7, TENSORS).dump(IDENTITY | more) for more in ({}, {"base": {"weights": "x"}}))
    assert Checkpoint.parse(old, {**IDENTITY, "base": {"weights": "y"}}) is not None
    assert Checkpoint.parse(new, {**IDENTITY, "base": {"weights": "x"}}) is not None
    assert Checkpoint.parse(new, {**IDENTITY, "base": {"weights": "y"}}) is None
    assert Checkpoint.parse(new, {**IDENTITY, "base": {"weights": "x", "config": {"model_type": "t5"}}}) is not None


def test_a_damaged_checkpoint_is_refused_with_the_way_out() -> None:
    good = Checkpoint(7, TENSORS).dump(IDENTITY)
    for data in (b"x", b"no checkpoint at all", good[:20], good[:-1], good + b"\0", save({"value": torch.ones(1)})):
        with pytest.raises(IntegrityError, match=r"damaged \(.*\); delete it to train the task from its start"):
            Checkpoint.parse(data, IDENTITY)
