"""OSFT leaves what the leading singular directions of a weight give as it is, and PEFT's layers do the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from cluster.errors import ConfigError
from tests.support.method_stream import TRAIN, MethodStream
from trainers.config import ModelConfig
from trainers.method_config import OsftConfig
from trainers.methods.base import Artifact, TaskContext
from trainers.methods.registry import check_method
from trainers.methods.weights.osft import TRAINING, OsftAttached, OsftMethod, outside
from trainers.methods.weights.stream import FILE

New = Callable[..., MethodStream]
SECTION = {"method": "osft", "target_modules": ["q_proj", "k_proj", "down_proj"]}  # square, and wider on either side
SHAPES = {"q_proj": (32, 32), "k_proj": (16, 32), "down_proj": (32, 64)}


def weights_of(stream: MethodStream) -> dict[str, Tensor]:
    return {
        name: stream.backbone.model.get_parameter(f"{name}.weight").detach().clone() for name in stream.method.modules
    }


def moved(before: Tensor, after: Tensor, rank: int) -> tuple[float, float]:
    """How far the output moves for inputs along the `rank` leading right singular vectors, and what is written along
    the left ones, as shares of the whole change."""
    u_DL, _, v_LK = torch.linalg.svd(before.double(), full_matrices=False)
    change_DK = after.double() - before.double()
    size = float(change_DK.norm())
    assert size > 1e-2
    return float((change_DK @ v_LK[:rank].T).norm()) / size, float((u_DL[:, :rank].T @ change_DK).norm()) / size


def test_what_is_kept_does_not_move(new: New) -> None:
    """After each of two tasks, against the decomposition of what the task before it left."""
    stream = new("llama", OsftConfig, **SECTION, effective_rank=0.5, rank_pattern={"k_proj": 5})
    for index in range(2):
        before = weights_of(stream)
        stream.learn(index)
        for name, after in weights_of(stream).items():
            rank = 5 if name.endswith("k_proj") else 16
            assert max(moved(before[name], after, rank)) < 1e-4
            assert max(moved(before[name], after, rank + 4)) > 1e-2  # the others are trained


def test_projected_gradients_alone_do_not_keep_it(new: New) -> None:
    """AdamW's steps leave the subspace in which PEFT's gradients lie."""
    stream = new("llama", OsftConfig, **SECTION, projection="gradients")
    before = weights_of(stream)
    stream.learn(0)
    assert max(max(moved(before[name], after, 8)) for name, after in weights_of(stream).items()) > 1e-2


def test_the_step_is_that_of_the_formula(new: New) -> None:
    """One step of gradient descent on U, S and V, by hand: gradients of U and V off the kept directions."""
    stream = new("llama", OsftConfig, **SECTION)
    before, split = weights_of(stream), stream.rows(0)
    context = TaskContext(name="t", seed=3, steps=1, train=TRAIN, device=torch.device("cpu"), rank=0)
    attached = stream.method.begin(context)
    assert isinstance(attached, OsftAttached)
    attached.penalties()
    loss = split.losses(split.batch(torch.arange(12).numpy())).sum()
    gradients = torch.autograd.grad(loss, [*attached.module.parameters()])
    with torch.no_grad():
        for parameter, gradient in zip(attached.module.parameters(), gradients, strict=True):
            parameter.sub_(0.01 * gradient)
    changes = {name: change.detach() for name, change in attached.changes().items()}
    attached.detach()
    for name, weight in before.items():
        own = stream.backbone.model.get_parameter(f"{name}.weight").requires_grad_()
        (gradient_DK,) = torch.autograd.grad(split.losses(split.batch(torch.arange(12).numpy())).sum(), own)
        own.requires_grad_(False)
        rank = min(weight.shape) // 2
        u_DL, s_L, v_LK = torch.linalg.svd(weight, full_matrices=False)
        (u_h, u), s, (v_h, v) = (u_DL[:, :rank], u_DL[:, rank:]), s_L[rank:], (v_LK[:rank], v_LK[rank:])
        of_u, of_s, of_v = gradient_DK @ (s[:, None] * v).T, (u.T @ gradient_DK @ v.T).diag(), (u * s).T @ gradient_DK
        stepped = (
            (u - 0.01 * (of_u - u_h @ u_h.T @ of_u)) * (s - 0.01 * of_s) @ (v - 0.01 * (of_v - of_v @ v_h.T @ v_h))
        )
        torch.testing.assert_close(changes[name], stepped - (u * s) @ v, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(("d", "k"), [(6, 6), (4, 7), (7, 4)])
def test_what_is_outside_of_what_is_kept(d: int, k: int) -> None:
    """Either basis that PEFT stores gives the same."""
    u_DL = torch.linalg.svd(torch.randn(d, k))[0]
    kept, left, vectors = u_DL[:, :2], u_DL[:, 2:], torch.randn(d, 3)
    expected = vectors - kept @ kept.T @ vectors
    by_kept, by_left = outside(vectors, {TRAINING: kept}, {TRAINING: left}), outside(vectors, {}, {TRAINING: left})
    torch.testing.assert_close(by_kept, expected)
    torch.testing.assert_close(by_left, expected)
    torch.testing.assert_close(outside(vectors, {TRAINING: kept.T}, {}, rows=True), expected)


def test_what_is_stored_and_counted(new: New) -> None:
    """The weights that change, whole and in float32; U, S and V are trained."""
    stream = new("llama", OsftConfig, **SECTION, effective_rank=10)
    made = stream.learn(0)
    found = load(made.files[FILE])
    expected = {
        f"model.layers.{i}.{part}.{key}.weight"
        for i in range(3)
        for part, key in (("self_attn", "q_proj"), ("self_attn", "k_proj"), ("mlp", "down_proj"))
    }
    assert {*found} == expected and {value.dtype for value in found.values()} == {torch.float32}
    cost = stream.method.footprint(2)
    kept = 3 * sum(d * k for d, k in SHAPES.values())
    trained = 3 * sum((min(d, k) - 10) * (d + k + 1) for d, k in SHAPES.values())
    assert (cost.kept, cost.trained) == (kept, trained)
    assert made.summary and made.summary.active_parameters == kept
    assert {each["rank"] for each in made.summary.budget.values()} == {22.0, 6.0}


def test_a_task_that_is_given_up_leaves_nothing(new: New) -> None:
    """Also of one that has begun on changed weights."""
    stream = new("llama", OsftConfig, **SECTION)
    stream.learn(0)
    before, names = weights_of(stream), [name for name, _ in stream.backbone.model.named_modules()]
    context = TaskContext(name="t", seed=3, steps=1, train=TRAIN, device=torch.device("cpu"), rank=0)
    stream.method.begin(context).detach()
    assert names == [name for name, _ in stream.backbone.model.named_modules()]
    assert all(torch.equal(before[name], after) for name, after in weights_of(stream).items())


def checked(base: Path, family: str, dtype: str = "float32", **section: Any) -> OsftMethod:
    config = OsftConfig.model_validate({"method": "osft", "target_modules": "all-linear", **section})
    model = ModelConfig.model_validate({"name": str(base / family), "task_type": "CAUSAL_LM", "dtype": dtype})
    method = check_method(model, config)[1]
    assert isinstance(method, OsftMethod)
    return method


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        (
            "gpt2",
            {},
            r"^adapter\.target_modules: 'transformer.h.0.attn.c_attn' is a Conv1D, .* use adapter.method full",
        ),
        ("llama", {"target_modules": "all"}, r"^adapter\.target_modules: all: osft .* write all-linear$"),
        ("llama", {"dtype": "bfloat16"}, r"^model\.dtype: osft .* set model.dtype to float32$"),
        (
            "llama",
            {"effective_rank": 16},
            r"k_proj' has 16 singular directions, and 16 are to be kept, which leaves none",
        ),
        ("llama", {"rank_pattern": {"q_prj": 3}}, r"^adapter\.rank_pattern: 'q_prj' matches no adapted layer; did you"),
    ],
)
def test_what_is_refused(bases: Path, family: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checked(bases, family, **settings)


def test_a_share_keeps_one_direction_at_least(bases: Path) -> None:
    method = checked(bases, "llama", effective_rank=0.001, rank_pattern={"k_proj": 0.25})
    assert {method.kept_rank(name) for name in method.modules} == {1, 4}


def test_what_is_kept_grows_with_the_tasks(new: New) -> None:
    """PEFT's advice for a stream of n tasks: nothing at first, and 1/n more with each."""
    stream = new("llama", OsftConfig, **SECTION, effective_rank=1, rank_growth=0.25)
    ranks = [
        {each["rank"] for each in made.summary.budget.values()} for i in range(2) if (made := stream.learn(i)).summary
    ]
    assert ranks == [{31, 15}, {23, 11}] and isinstance(stream.method, OsftMethod)
    stream.method.tasks = 9
    assert {*stream.method.low.values()} == {1}
    stream.method.reset(stream.config)
    assert {*stream.method.low.values()} == {31, 15}


def test_files_of_a_plain_weight_are_taken(new: New) -> None:
    """Whatever wrote them: what counts is the weights."""
    learner, other = new("llama", OsftConfig, **SECTION), new("llama", OsftConfig, **SECTION)
    other.take([Artifact(learner.learn(0).files)])
    assert torch.equal(other.outputs(), learner.outputs())
