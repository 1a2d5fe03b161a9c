"""AdaLoRA's budget over a task, what its tasks cost, and how it begins."""

import peft
import pytest
import torch
from peft.tuners.adalora import RankAllocator
from torch import nn

from tests.support.small_layers import SIZES, context, layers
from trainers.lowrank_config import AdaloraConfig
from trainers.methods.lowrank.adalora import AdaloraMethod, budget_at, last_choice


def config(**changed: object) -> AdaloraConfig:
    return AdaloraConfig.model_validate({"method": "adalora", "target_modules": [*SIZES], **changed})


@pytest.mark.parametrize("interval", [1, 4])
def test_the_budget_falls_as_in_peft(interval: int) -> None:
    """Of both, only where the ranks are chosen; theirs is to be asked to choose at the end of the descent."""
    settings, layer = config(initial_share=0.2, final_share=0.25, interval=interval), nn.Module()
    layer.lora_A = nn.ParameterDict({"default": nn.Parameter(torch.ones(12, 3))})
    model = nn.ModuleDict({"a": layer, "b": layer})
    reference = peft.AdaLoraConfig(init_r=12, target_r=8, tinit=8, tfinal=10, total_step=40, deltaT=interval)
    allocator = RankAllocator(model, reference, "default")
    assert last_choice(settings, 40) == 30
    budgets = []
    for step in range(1, 41):
        expected, chooses = allocator.budget_schedule(step)
        found = budget_at(step, 40, settings, len(allocator.name_set))
        assert found == (expected if chooses or step == 30 else None)
        budgets.append(found)
    assert budgets[7] is None and budgets[29:] == [8 * len(allocator.name_set)] * 11


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_short_task_ends_with_the_budget_too(steps: int) -> None:
    found = [budget_at(step, steps, config(initial_share=0.49, final_share=0.5), 3) for step in range(1, steps + 1)]
    assert found[-1] == 3 * 8


def test_it_begins_with_nothing_added() -> None:
    method = AdaloraMethod(layers(), config(), torch.float32)
    method.reset(method.own)
    attached = method.begin(context())
    assert not any((b_DR @ a_RK).any() for a_RK, b_DR in attached.triplets.parts()[0])  # type: ignore[attr-defined]
    drawn = torch.cat([p.detach().flatten() for n, p in attached.module.named_parameters() if not n.startswith("E")])
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.15)
    singular, decayed = attached.groups()[1], attached.groups()[0]
    assert {parameter.ndim for parameter in singular.parameters} == {1} and singular.weight_decay == 0
    assert {parameter.ndim for parameter in decayed.parameters} == {2}


def test_what_a_task_costs() -> None:
    """It trains the ranks at the start; at most, what it keeps are full ranks of the dearest layers."""
    method = AdaloraMethod(layers(), config(initial_rank=3, rank=2), torch.float32)
    cost = method.footprint(1)
    assert cost.trained == sum(3 * (k + d + 1) for k, d in SIZES.values())
    prices = sorted((k + d for k, d in SIZES.values()), reverse=True)
    assert cost.kept == 3 * prices[0] + 3 * prices[1]
