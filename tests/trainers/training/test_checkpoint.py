"""Checkpoints: their bytes, and training that goes on from them on other stages and ranks."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from cluster.errors import IntegrityError
from tests.support.closeness import assert_moved_alike
from tests.support.zero_pair import RESUMED, Case
from tests.support.zero_reference import References
from trainers.messages import Vouched
from trainers.training.checkpoint import Checkpoint, is_fit, vouched


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


def test_no_flipped_bit_is_accepted() -> None:
    """Wherever it is: in tensors, in the header, in the digest itself."""
    good, draw = Checkpoint(7, TENSORS).dump(IDENTITY), random.Random(5)
    for bit in draw.sample(range(8 * len(good)), 400):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError, match="the checkpoint is damaged"):
            Checkpoint.parse(bytes(data), IDENTITY)


def without_digest() -> bytes:
    """As an older Orthoplex stored it."""
    tensors = {name: value.contiguous() for name, value in TENSORS.items()}
    return save(tensors, {"step": "7", "identity": json.dumps(IDENTITY, sort_keys=True)})


def test_a_checkpoint_of_an_older_version_has_no_digest() -> None:
    read = Checkpoint.parse(without_digest(), IDENTITY)
    assert read is not None and read.step == 7 and not read.sealed
    again = Checkpoint.parse(Checkpoint(7, TENSORS).dump(IDENTITY), IDENTITY)
    assert again is not None and again.sealed


SHAPES = {"value/W": (3, 2)}


@pytest.mark.parametrize(
    ("step", "change", "fault"),
    [
        (0, {}, "it is of step 0, and the task has 9"),
        (10, {}, "it is of step 10, and the task has 9"),
        (7, {"value/V": torch.ones(1)}, "it has 'value/V'"),
        (7, {"value/W": torch.ones(2, 3)}, r"'value/W' has the shape \(2, 3\), not \(3, 2\)"),
        (7, {"value/W": torch.full((3, 2), torch.nan)}, "'value/W' is not finite"),
        (7, {"log/loss": torch.ones(3)}, "the columns of its log are not of one length"),
        (7, {"log/loss": torch.tensor(1.0)}, "the columns of its log are not of one length"),
    ],
)
def test_a_checkpoint_fits_what_is_trained(step: int, change: dict[str, torch.Tensor], fault: str) -> None:
    Checkpoint(7, TENSORS).check(SHAPES, 9)
    with pytest.raises(IntegrityError, match=fault):
        Checkpoint(step, {**TENSORS, **change}).check(SHAPES, 9)


def test_a_checkpoint_without_a_parameter_does_not_fit() -> None:
    with pytest.raises(IntegrityError, match="it lacks 'exp_avg/W'"):
        Checkpoint(7, TENSORS).check({**SHAPES, "exp_avg/W": (3, 2)}, 9)


NAMED = Vouched(5, "a" * 64, "i")


@pytest.mark.parametrize(
    ("found", "named", "others", "only_named"),
    [
        (NAMED, NAMED, True, True),
        (Vouched(6, "b" * 64, "i"), NAMED, True, False),  # the driver was killed before it could name it
        (Vouched(5, "b" * 64, "i"), None, True, False),
        (Vouched(4, "b" * 64, "j"), NAMED, True, False),  # what the log names is of another configuration
    ],
)
def test_which_checkpoint_is_fit(found: Vouched, named: Vouched | None, others: bool, only_named: bool) -> None:
    """Without signatures also one that the log does not name yet; with them no other."""
    assert is_fit(found, named, only=False) == others and is_fit(found, named, only=True) == only_named


@pytest.mark.parametrize("step", [4, 5])
@pytest.mark.parametrize("only", [True, False])
def test_a_checkpoint_that_was_changed_or_taken_back(step: int, only: bool) -> None:
    with pytest.raises(IntegrityError, match=rf"of step {step}, is not the one that the run's log names, of step 5"):
        is_fit(Vouched(step, "b" * 64, "i"), NAMED, only=only)


def test_what_the_log_says_of_a_checkpoint() -> None:
    data = Checkpoint(7, TENSORS).dump(IDENTITY)
    told = vouched(7, data, IDENTITY)
    assert (told.step, told.sha256) == (7, hashlib.sha256(data).hexdigest())
    assert told.of == vouched(3, b"", dict(reversed(IDENTITY.items()))).of != vouched(7, data, {}).of
