"""Fine-tuning is AdamW on the weights themselves, from the values that the last task left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from tests.support.method_stream import ROWS, TRAIN, MethodStream
from trainers.config import ModelConfig, learning_rate_factor
from trainers.method_config import FullConfig
from trainers.methods.base import Artifact, TaskContext
from trainers.methods.registry import method_for
from trainers.methods.weights.full import FullAttached, FullMethod
from trainers.methods.weights.stream import FILE
from trainers.models.loading import load_backbone
from trainers.models.packed import PackedBase
from trainers.training.stage import seed_step

New = Callable[..., MethodStream]
SECTION = {"method": "full", "target_modules": ["c_attn", "mlp.c_proj"]}


def stored(artifact: Artifact) -> dict[str, Tensor]:
    return dict(load(artifact.files[FILE]))


def context(**own: Any) -> TaskContext:
    train = TRAIN.model_copy(update=own)
    return TaskContext(name="t", seed=3, steps=6, train=train, device=torch.device("cpu"), rank=0)


def by_hand(stream: MethodStream, index: int, weights: dict[str, torch.nn.Parameter]) -> None:
    """AdamW over the model's own parameters, on the same batches."""
    stage = stream.training(index)
    batches = [*stage.batches()]
    optimizer = torch.optim.AdamW([w.requires_grad_() for w in weights.values()], TRAIN.learning_rate, weight_decay=0)
    split = stream.rows(index)
    stream.backbone.model.train()
    for step, batch in enumerate(batches):
        seed_step(stage.seed, step + 1)
        loss = split.losses(split.batch(batch)).sum() / int(split.terms[batch].sum())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), TRAIN.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = TRAIN.learning_rate * learning_rate_factor(step, TRAIN.warmup_steps, len(batches))
        optimizer.step()
    stream.backbone.model.eval()


def felt(name: str, value: Tensor) -> Tensor:
    """A parameter without the biases of keys, which change no attention: their gradients are nothing but rounding, and
    AdamW makes whole steps of these."""
    return torch.cat(value.chunk(3)[::2]) if name.endswith("c_attn.bias") else value


def test_it_is_adamw_on_the_weights(new: New) -> None:
    """Task after task, as a loop over the model's own parameters gives it."""
    learner, other = new("gpt2", FullConfig, **SECTION), new("gpt2", FullConfig, **SECTION)
    assert isinstance(other.method, FullMethod)
    for index in range(2):
        values = stored(learner.learn(index))
        by_hand(other, index, other.method.weights)
        assert values.keys() == other.method.weights.keys()
        for name, value in values.items():
            expected = other.method.weights[name].detach()
            torch.testing.assert_close(felt(name, value), felt(name, expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("targets", [["c_attn"], "all"])
def test_what_is_trained(new: New, targets: Any) -> None:
    """Weights and biases of the target layers; or every parameter, tied ones once."""
    stream = new("gpt2", FullConfig, method="full", target_modules=targets)
    assert isinstance(stream.method, FullMethod)
    expected = dict(stream.backbone.model.named_parameters())
    if targets != "all":
        expected = {name: weight for name, weight in expected.items() if ".c_attn." in name}
    assert stream.method.weights.keys() == expected.keys()
    size = sum(weight.numel() for weight in expected.values())
    cost = stream.method.footprint(3)
    assert (cost.trained, cost.kept, cost.history_bytes, cost.copies_weights) == (size, size, 0, True)


def test_tied_weights_stay_tied(new: New) -> None:
    """They are stored once, and both layers compute with what is trained."""
    stream = new("qwen2", FullConfig, method="full", target_modules="all")
    model: Any = stream.backbone.model
    before = model.lm_head.weight.detach().clone()
    attached = stream.method.begin(context())
    assert model.lm_head.weight is model.model.embed_tokens.weight and "lm_head.weight" not in stream.method.weights  # type: ignore[attr-defined]
    attached.detach()
    stream.learn(0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(model.lm_head.weight, before)


def test_weights_are_counted_once(new: New) -> None:
    stream = new("gpt2", FullConfig, **SECTION)
    counted = [summary.active_parameters for index in range(2) if (summary := stream.learn(index).summary)]
    assert counted == [stream.method.footprint(2).kept, 0]
    summary = stream.committed[0].summary
    assert summary and {(each["rank"], each["max_rank"]) for each in summary.budget.values()} == {(32, 32)}


def test_what_decays(new: New) -> None:
    stream = new("gpt2", FullConfig, **SECTION)
    groups = stream.method.begin(context(weight_decay=0.1)).groups()
    found = {(group.weight_decay, parameter.ndim) for group in groups for parameter in group.parameters}
    assert found == {(0.1, 2), (0.0, 1)} and all(group.learning_rate == TRAIN.learning_rate for group in groups)


def test_the_log_has_the_norm_of_the_change(new: New) -> None:
    stream = new("gpt2", FullConfig, **SECTION)
    attached = stream.method.begin(context())
    assert isinstance(attached, FullAttached)
    name = "transformer.h.0.attn.c_attn"
    with torch.no_grad():
        attached.trained[f"{name}.weight"].add_(2.0)
    row, expected = attached.report(), 2.0 * (32 * 96) ** 0.5
    assert row[f"norm/{name}"] == pytest.approx(expected) and row["norm"] == pytest.approx(expected)
    assert row["norm/transformer.h.1.attn.c_attn"] == 0


def narrow(bases: Path) -> tuple[Any, FullMethod]:
    """A base in bfloat16, and the method over it."""
    name = str(bases / "gpt2")
    config = ModelConfig(name=name, task_type="CAUSAL_LM", max_length=16, dtype="bfloat16")
    model, settings = load_backbone(config).model, FullConfig.model_validate(SECTION)
    method = method_for(model, settings, torch.bfloat16)
    assert isinstance(method, FullMethod)
    method.reset(settings)
    return model, method


def test_a_bfloat16_base_is_trained_in_float32(bases: Path) -> None:
    """What is computed, in training and later, is rounded; what a task leaves and the next begins with is not."""
    model, method = narrow(bases)
    original = {name: weight.detach().clone() for name, weight in method.weights.items()}
    attached = method.begin(context())
    assert isinstance(attached, FullAttached)
    name = "transformer.h.0.attn.c_attn.weight"
    with torch.no_grad():
        attached.trained[name].add_(1e-4)  # less than bfloat16 can add to most weights
    attached.penalties()
    layer = model.get_submodule(name.removesuffix(".weight"))
    assert layer.weight.dtype == torch.bfloat16 and layer.weight.requires_grad
    used = layer.weight.detach().clone()
    artifact = attached.finish(None)  # type: ignore[arg-type]
    attached.detach()
    method.extend([Artifact(artifact.files)])
    assert torch.equal(method.weights[name], used)
    exact = original[name].float() + 1e-4
    assert torch.equal(method.start(name), exact) and not torch.equal(used.float(), exact)
    assert method.footprint(2).history_bytes == 4 * method.footprint(2).kept
    method.reset(method.config)
    assert all(torch.equal(weight, original[name]) for name, weight in method.weights.items())


def test_memory_of_the_base_is_not_written(bases: Path) -> None:
    """Workers on a CPU compute with views of shared memory."""
    base = PackedBase.of(load_backbone(ModelConfig(name=str(bases / "gpt2"), task_type="CAUSAL_LM", max_length=16)))
    held = [tensor.data.copy() for tensor in base.tensors]
    model = base.backbone("cpu").model
    settings = FullConfig.model_validate({"method": "full", "target_modules": "all"})
    method = FullMethod(model, settings)
    method.reset(settings)
    before = {name: weight.data_ptr() for name, weight in method.weights.items()}
    changed = {FILE: save({name: weight.detach() + 1 for name, weight in method.weights.items()})}
    for _ in range(2):
        method.extend([Artifact(changed)])
    assert all((tensor.data == was).all() for tensor, was in zip(base.tensors, held, strict=True))
    assert all(before[name] != weight.data_ptr() for name, weight in method.weights.items())
    method.reset(settings)
    assert before == {name: weight.data_ptr() for name, weight in method.weights.items()}


def test_a_compiled_model_computes_with_what_is_trained(new: New) -> None:
    """The attribute that hides a parameter is seen by the compiler's tracing too, as is that it changes."""
    stream = new("gpt2", FullConfig, **SECTION)
    split = stream.rows(0)
    batch = split.batch(np.arange(ROWS))
    for block in stream.backbone.model.transformer.h:
        block.compile(backend="eager")
    attached = stream.method.begin(context())
    assert isinstance(attached, FullAttached)
    for _ in range(2):
        with torch.no_grad():
            for value in attached.trained.values():
                value.add_(0.05)
        attached.penalties()
        compiled = split.losses(batch)
        gradients = torch.autograd.grad(compiled.sum(), [*attached.trained.values()])
        with torch.compiler.set_stance("force_eager"):
            eager = split.losses(batch)
            expected = torch.autograd.grad(eager.sum(), [*attached.trained.values()])
        torch.testing.assert_close(compiled, eager)
        for gradient, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)
