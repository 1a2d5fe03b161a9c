"""What the methods with a low-rank update per task have in common: sums in the weights, dropout, rounding, files."""

import pytest
import torch
from torch import nn

from cluster.errors import IntegrityError
from tests.support.small_layers import SIZES, changes, context, layers, stored, update
from trainers.lowrank_config import AdaloraConfig, IncrementalLoraConfig, LowRankConfig
from trainers.methods.lowrank.method import LowRankMethod
from trainers.methods.registry import method_for


def config(**changed: object) -> IncrementalLoraConfig:
    return IncrementalLoraConfig.model_validate(
        {"method": "incremental_lora", "target_modules": [*SIZES], "rank": 2, "alpha": 1.0, **changed}
    )


def begun(settings: LowRankConfig, dtype: torch.dtype = torch.float32) -> tuple[nn.ModuleDict, LowRankMethod]:
    model = layers(dtype)
    method = method_for(model, settings, dtype)
    assert isinstance(method, LowRankMethod)
    method.reset(settings)
    return model, method


def weights(model: nn.ModuleDict) -> dict[str, torch.Tensor]:
    return {name: model[name].get_parameter("weight").detach().clone() for name in SIZES}


def test_the_weights_hold_the_sum_of_all_tasks() -> None:
    """W0 + Σ c B A, whose c may differ; and nothing else is computed beside them."""
    model, method = begun(config())
    before = weights(model)
    streams = [update(1), update(2, rank=3, scaling=0.25), update(3)]
    method.extend([stored(streams[0])])
    method.extend([*map(stored, streams[1:])])
    for name, weight in weights(model).items():
        expected = before[name].double() + sum(changes(stream)[name] for stream in streams)
        torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-5)
        assert vars(model[name])["pair"] is None
    method.reset(config())
    assert all(torch.equal(weight, before[name]) for name, weight in weights(model).items())


def test_the_update_in_training_is_added_to_what_a_layer_gives() -> None:
    """W x + b + c B A x, with the current values; without it once it is taken off."""
    model, method = begun(config())
    method.extend([stored(update(1))])
    x_NK = torch.randn(3, SIZES["a"][0])
    before = model["a"](x_NK)
    attached = method.begin(context())
    assert torch.equal(model["a"](x_NK), before) or attached.penalties() == {}
    with torch.no_grad():
        for parameter in attached.module.parameters():
            parameter.normal_()
    attached.penalties()
    a_RK, b_DR = attached.module.get_parameter("A_0"), attached.module.get_parameter("B_0")
    torch.testing.assert_close(model["a"](x_NK), before + 0.5 * x_NK @ a_RK.T @ b_DR.T)
    row = attached.report()
    assert row["mean_rank"] == 2
    assert row["norm/a"] == pytest.approx((0.5 * b_DR @ a_RK).norm().item(), rel=1e-4)
    attached.detach()
    assert torch.equal(model["a"](x_NK), before)


def test_dropout_takes_a_share_of_what_the_update_reads() -> None:
    """While the layer trains, and only there."""
    model, method = begun(config(dropout=0.5))
    attached = method.begin(context())
    with torch.no_grad():
        for parameter in attached.module.parameters():
            parameter.fill_(1.0)
    attached.penalties()
    x_NK = torch.ones(4000, SIZES["a"][0])
    added = (model.train()["a"](x_NK) - layers()["a"](x_NK)).detach()
    assert float(added.mean()) == pytest.approx(0.5 * 2 * SIZES["a"][0], rel=0.05) and added.std() > 1
    exact = (model.eval()["a"](x_NK) - layers()["a"](x_NK)).detach()
    torch.testing.assert_close(exact, torch.full_like(exact, 0.5 * 2 * SIZES["a"][0]))


def test_what_bfloat16_weights_lose_is_measured() -> None:
    """Too small a change is lost if it is rounded, and not if the weights are held in float32."""
    small = update(1, size=1e-5)
    _, nearest = begun(config(), torch.bfloat16)
    nearest.extend([stored(small)])
    kept = nearest.kept()
    assert kept is not None and kept.overall < 0.9 and kept.modules.keys() == SIZES.keys()
    model, exact = begun(config(rounding="none"), torch.bfloat16)
    before = weights(model)
    exact.extend([stored(small)])
    assert exact.kept() is None
    for name, weight in weights(model).items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.double() - before[name].double(), changes(small)[name], rtol=1e-2, atol=5e-8)
    assert model["a"](torch.ones(1, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
    exact.reset(config(rounding="none"))
    assert all(w.dtype == torch.bfloat16 and torch.equal(w, before[name]) for name, w in weights(model).items())


def test_one_update_answers_if_each_task_has_its_own() -> None:
    """Nothing is folded; a task that is not learned yet is answered by the base."""
    settings = AdaloraConfig.model_validate(
        {"method": "adalora", "target_modules": [*SIZES], "rank": 2, "alpha": 1.0, "mode": "per_task"}
    )
    model, method = begun(settings)
    x_NK, untouched = torch.randn(3, SIZES["b"][0]), weights(model)
    base = model["b"](x_NK)
    streams = [update(1), {name: lora for name, lora in update(2).items() if name != "c"}]
    method.extend([*map(stored, streams)])
    assert all(torch.equal(weight, untouched[name]) for name, weight in weights(model).items())
    for task in (0, 1, None):
        with method.answering(task):
            change = changes(streams[1 if task is None else task])["b"]
            torch.testing.assert_close(model["b"](x_NK), base + x_NK @ change.float().T)
    with method.answering(2):
        assert torch.equal(model["b"](x_NK), base)
    assert method.as_lora([*map(stored, streams)]).keys() == {"a", "b"}
    assert not method.footprint(3).copies_weights and settings.needs_task and settings.rounds is None


def test_a_stream_is_one_stack_of_its_updates() -> None:
    _, method = begun(config())
    streams = [update(1), update(2, rank=3, scaling=0.25)]
    for name, lora in method.as_lora([*map(stored, streams)]).items():
        assert lora.rank == 5 and lora.scaling == 1
        expected = changes(streams[0])[name] + changes(streams[1])[name]
        torch.testing.assert_close(lora.b_DR.double() @ lora.a_RK.double(), expected, rtol=1e-5, atol=1e-5)


def test_what_a_task_costs() -> None:
    """A and B, in 4 bytes of all tasks but the last; the weights once more, and in float32 if they are not rounded."""
    _, method = begun(config())
    parameters = sum(2 * (k + d) for k, d in SIZES.values())
    cost = method.footprint(4)
    assert (cost.trained, cost.kept, cost.history_bytes) == (parameters, parameters, 3 * 4 * parameters)
    assert cost.copies_weights and cost.float32_weights == 0
    exact = begun(config(rounding="none"))[1].footprint(1)
    assert exact.float32_weights == sum(k * d + d for k, d in SIZES.values()) and exact.history_bytes == 0


def test_files_that_do_not_fit_are_refused() -> None:
    _, method = begun(config())
    method.extend([stored(update(1))])
    with pytest.raises(IntegrityError, match=r"^incremental_lora: task 2 adapts other layers than this run"):
        method.extend([stored({"a": update(1)["a"]})])
