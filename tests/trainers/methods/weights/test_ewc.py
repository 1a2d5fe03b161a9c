"""EWC's Fisher and penalty are those of autograd, row by row and by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from cluster.errors import IntegrityError
from tests.support.method_stream import ROWS, TRAIN, MethodStream
from trainers.method_config import EwcConfig
from trainers.methods.base import Artifact, TaskContext
from trainers.methods.weights.ewc import FISHER, EwcAttached, EwcMethod
from trainers.methods.weights.stream import FILE

New = Callable[..., MethodStream]
SECTION = {"method": "ewc", "target_modules": ["c_attn"], "weight": 30.0}
CONTEXT = TaskContext(name="t", seed=3, steps=6, train=TRAIN, device=torch.device("cpu"), rank=0)


def fisher_of(stream: MethodStream, index: int, values: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """Mean of the squared gradients of single rows, at these values of the model's own parameters."""
    model = stream.backbone.model
    weights = {name: model.get_parameter(name) for name in values}
    split, sums = stream.rows(index), {name: torch.zeros_like(value) for name, value in values.items()}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.data.copy_(values[name])
        weight.requires_grad_()
    for row in rows:
        model.zero_grad()
        split.losses(split.batch(np.array([row]))).sum().backward()
        for name, weight in weights.items():
            sums[name] += weight.grad**2
    for name, weight in weights.items():
        weight.data.copy_(before[name])
        weight.requires_grad_(False)
        weight.grad = None
    return {name: total / len(rows) for name, total in sums.items()}


def test_the_fisher_is_summed_over_tasks(new: New) -> None:
    """F̄_1 = F_1, F̄_2 = decay · F_1 + F_2, each at the values that the task left."""
    learner, other = (new("gpt2", EwcConfig, **SECTION, decay=0.5) for _ in range(2))
    expected: dict[str, Tensor] = {}
    for index in range(2):
        made = learner.learn(index)
        own = fisher_of(other, index, load(made.files[FILE]), [*range(ROWS)])
        expected = {name: 0.5 * expected.get(name, torch.zeros(())) + value for name, value in own.items()}
        found = load(made.files[FISHER])
        assert found.keys() == expected.keys() and sum(float(value.sum()) for value in found.values()) > 0
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-8)


def test_the_fisher_of_some_rows(new: New) -> None:
    stream, other = (new("gpt2", EwcConfig, **SECTION, fisher_rows=3) for _ in range(2))
    made = stream.learn(0)
    expected = fisher_of(other, 0, load(made.files[FILE]), [0, 6, 11])
    for name, value in load(made.files[FISHER]).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-8)


def test_the_penalty_and_its_gradient(new: New) -> None:
    """λ/2 Σ F̄ (θ − θ*)² and λ F̄ (θ − θ*); nothing in the first task."""
    stream = new("gpt2", EwcConfig, **SECTION)
    first = stream.method.begin(CONTEXT)
    assert first.penalties()["ewc"].value == 0
    first.detach()
    made = stream.learn(0)
    fisher, anchors = load(made.files[FISHER]), load(made.files[FILE])
    attached = stream.method.begin(CONTEXT)
    assert isinstance(attached, EwcAttached)
    torch.manual_seed(0)
    moved = {name: torch.randn_like(value) for name, value in attached.trained.items()}
    with torch.no_grad():
        for name, value in attached.trained.items():
            value.add_(moved[name])
    weight, value = attached.penalties()["ewc"]
    assert weight == 30.0
    drift = {name: attached.trained[name].detach().double() - anchors[name] for name in anchors}
    expected = sum(float((fisher[name].double() * drift[name] ** 2).sum()) for name in anchors) / 2
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    gradients = torch.autograd.grad(weight * value, [*attached.trained.values()])
    for name, gradient in zip(attached.trained, gradients, strict=True):
        torch.testing.assert_close(gradient.double(), 30.0 * fisher[name] * drift[name], rtol=1e-4, atol=1e-6)


def drift_of(new: New, weight: float) -> float:
    """Σ F̄ (θ_2 − θ_1)² of two tasks with this λ."""
    stream = new("gpt2", EwcConfig, **SECTION | {"weight": weight})
    first, second = (stream.learn(index) for index in range(2))
    fisher, before, after = load(first.files[FISHER]), load(first.files[FILE]), load(second.files[FILE])
    return sum(float((fisher[name] * (after[name] - before[name]) ** 2).sum()) for name in fisher)


def test_a_stronger_spring_gives_way_less(new: New) -> None:
    free, held = drift_of(new, 0.0), drift_of(new, 1e5)
    assert held < free / 4


def test_another_worker_has_the_fisher_from_the_files(new: New) -> None:
    learner, other = (new("gpt2", EwcConfig, **SECTION) for _ in range(2))
    learner.learn(0)
    other.take([Artifact(dict(learner.committed[0].files))])
    assert learner.learn(1).files == other.learn(1).files
    assert isinstance(other.method, EwcMethod)
    assert other.method.footprint(2).history_bytes == 4 * other.method.footprint(2).trained
    other.method.reset(other.config)
    assert other.method.fisher == {}


def test_a_fisher_of_other_weights_is_refused(new: New) -> None:
    learner = new("gpt2", EwcConfig, **SECTION)
    files = learner.learn(0).files
    fresh = new("gpt2", EwcConfig, **SECTION)
    with pytest.raises(IntegrityError, match=r"^ewc: task 1 has other weights"):
        fresh.method.extend([Artifact({**files, FISHER: save({"a": torch.ones(1)})})])


def test_a_fisher_below_zero_is_refused(new: New) -> None:
    """It would push weights away without end."""
    learner = new("gpt2", EwcConfig, **SECTION)
    files = learner.learn(0).files
    values = load(files["fisher.safetensors"])
    bad = save({name: -value - 1 for name, value in values.items()})
    with pytest.raises(IntegrityError, match=r"^ewc: fisher\.safetensors, '.*': has values below 0; do not use this"):
        new("gpt2", EwcConfig, **SECTION).take([Artifact({**files, "fisher.safetensors": bad})])
