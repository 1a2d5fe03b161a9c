"""O-LoRA's penalties are those of its authors' code."""

import pytest
import torch

from tests.support.small_layers import SIZES, context, layers, stored, update
from trainers.lowrank_config import OloraConfig
from trainers.methods.lowrank.olora import OloraMethod


def begun(tasks: int, **changed: object) -> OloraMethod:
    settings = OloraConfig.model_validate({"method": "olora", "target_modules": [*SIZES], "rank": 2, **changed})
    method = OloraMethod(layers(), settings, torch.float32)
    method.reset(settings)
    method.extend([stored(update(seed)) for seed in range(1, tasks + 1)])
    return method


def test_the_penalty_sums_the_entries_of_all_products_with_earlier_rows() -> None:
    method = begun(2)
    attached = method.begin(context())
    named = dict(attached.module.named_parameters())
    rows = {name: named[f"A_{index}"] for index, name in enumerate(SIZES)}
    expected = sum(
        abs(float(torch.dot(earlier_K, new_K)))
        for seed in (1, 2)
        for name, lora in update(seed).items()
        for earlier_K in lora.a_RK
        for new_K in rows[name]
    )
    penalties = attached.penalties()
    assert penalties.keys() == {"orthogonality"} and penalties["orthogonality"].weight == 0.5
    assert float(penalties["orthogonality"].value) == pytest.approx(expected, rel=1e-5)


def test_its_gradient_pulls_new_rows_off_earlier_ones() -> None:
    """Of Σ |A_s A_tᵀ| by A_t: Σ_s sign(A_t A_sᵀ) A_s. B gets none."""
    attached = begun(1).begin(context())
    attached.penalties()["orthogonality"].value.backward()
    named = dict(attached.module.named_parameters())
    for index, lora in enumerate(update(1).values()):
        new_RK = named[f"A_{index}"]
        torch.testing.assert_close(new_RK.grad, torch.sign(new_RK.detach() @ lora.a_RK.T) @ lora.a_RK)
        assert named[f"B_{index}"].grad is None


def test_the_first_task_has_nothing_to_keep_away_from() -> None:
    assert float(begun(0).begin(context()).penalties()["orthogonality"].value) == 0


def test_the_second_penalty_is_the_sum_of_all_norms() -> None:
    attached = begun(1, norm_weight=0.1).begin(context())
    with torch.no_grad():
        for parameter in attached.module.parameters():
            parameter.normal_()
    penalty = attached.penalties()["norm"]
    expected = sum(float(parameter.detach().square().sum().sqrt()) for parameter in attached.module.parameters())
    assert penalty.weight == 0.1 and float(penalty.value) == pytest.approx(expected, rel=1e-5)


def test_the_norms_of_new_matrices_have_a_gradient() -> None:
    """B is 0 at the start, where a norm has none."""
    attached = begun(0, norm_weight=0.1).begin(context())
    attached.penalties()["norm"].value.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in attached.module.parameters()
    )


def test_published_settings_are_the_defaults() -> None:
    made = OloraConfig.model_validate({"method": "olora", "target_modules": ["q", "v"]})
    found = (made.rank, made.alpha, made.dropout, made.orthogonality_weight, made.norm_weight, made.scaling)
    assert found == (8, 32, 0.1, 0.5, 0, 4)


def test_the_rows_of_earlier_tasks_are_held_once_more() -> None:
    rows = sum(2 * k for k, _ in SIZES.values())
    kept = sum(2 * (k + d) for k, d in SIZES.values())
    assert begun(0).footprint(4).history_bytes == 3 * 4 * (kept + rows)
