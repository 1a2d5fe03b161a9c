"""ELLA's penalty is ‖ΔW ∘ W_past‖²_F, summed over the layers."""

import pytest
import torch

from tests.support.small_layers import SIZES, changes, context, layers, stored, update
from trainers.lowrank_config import EllaConfig
from trainers.methods.lowrank.ella import EllaMethod


def begun(tasks: int) -> EllaMethod:
    settings = EllaConfig.model_validate(
        {"method": "ella", "target_modules": [*SIZES], "rank": 2, "alpha": 3.0, "alignment_weight": 7.0}
    )
    method = EllaMethod(layers(), settings, torch.float32)
    method.reset(settings)
    method.extend([stored(update(seed)) for seed in range(1, tasks + 1)])
    return method


def test_the_penalty_weighs_each_entry_by_what_earlier_tasks_changed_there() -> None:
    attached = begun(2).begin(context())
    named = dict(attached.module.named_parameters())
    with torch.no_grad():
        for parameter in named.values():
            parameter.normal_()
    expected = 0.0
    for index, name in enumerate(SIZES):
        new_DK = 1.5 * named[f"B_{index}"].detach().double() @ named[f"A_{index}"].detach().double()
        past_DK = sum(changes(update(seed))[name] for seed in (1, 2))
        expected += float((new_DK * past_DK).square().sum())
    penalty = attached.penalties()["alignment"]
    assert penalty.weight == 7 and penalty.value.item() == pytest.approx(expected, rel=1e-4)


def test_entries_that_no_task_changed_are_free() -> None:
    """An update that is 0 where earlier ones are not costs nothing."""
    method = begun(0)
    earlier = update(1)
    for lora in earlier.values():
        lora.b_DR[2:] = 0
    method.extend([stored(earlier)])
    attached = method.begin(context())
    for name, parameter in attached.module.named_parameters():
        with torch.no_grad():
            parameter.normal_()
            if name.startswith("B"):
                parameter[:2] = 0
    assert float(attached.penalties()["alignment"].value) == 0


def test_the_first_task_is_free() -> None:
    attached = begun(0).begin(context())
    assert float(attached.penalties()["alignment"].value) == 0


def test_the_penalty_takes_no_more_memory_with_more_tasks() -> None:
    kept = 4 * sum(2 * (k + d) for k, d in SIZES.values())
    held = [begun(0).footprint(tasks).history_bytes - kept * (tasks - 1) for tasks in (1, 2, 9)]
    assert held == [0, *[2 * 4 * sum(k * d for k, d in SIZES.values())] * 2]
