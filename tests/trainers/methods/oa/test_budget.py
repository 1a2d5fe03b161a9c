from itertools import pairwise

import pytest
import torch

from trainers.methods.oa.budget import cap_schedule, common_shift, floored_threshold, margins, soft_threshold


def test_soft_threshold_values() -> None:
    g = torch.tensor([1.5, -1.5, 0.5, -0.4, 0.0])
    gamma = soft_threshold(g, torch.tensor([0.5]))
    assert gamma.tolist() == [1.0, -1.0, 0.0, 0.0, 0.0]  # |g| = τ is off


def test_soft_threshold_gradients() -> None:
    g = torch.tensor([1.5, -1.5, 0.3, -0.2], requires_grad=True)
    tau = torch.tensor([0.5], requires_grad=True)
    weights = torch.tensor([2.0, 3.0, 5.0, 7.0])
    (soft_threshold(g, tau) * weights).sum().backward()
    assert g.grad is not None and tau.grad is not None
    assert g.grad.tolist() == [2.0, 3.0, 0.0, 0.0]  # 1 where on, 0 where off
    assert tau.grad.tolist() == [-2.0 + 3.0]  # −sign(g) where on


def test_dimension_comes_back_when_tau_falls() -> None:
    """Only the active dimension's task gradient moves τ; once τ is below |g| of the other one, that one learns too."""
    g = torch.tensor([1.0, 0.4], requires_grad=True)
    tau = torch.tensor([0.5], requires_grad=True)
    target = torch.tensor([1.0, 0.3])
    optimizer = torch.optim.SGD([g, tau], lr=0.05)
    assert soft_threshold(g, tau)[1] == 0
    for _ in range(400):
        optimizer.zero_grad()
        (soft_threshold(g, tau) - target).square().sum().backward()
        optimizer.step()
    assert tau.item() < 0.4
    assert torch.allclose(soft_threshold(g, tau), target, atol=1e-3)


def one(g: torch.Tensor, tau: torch.Tensor, floor: int) -> torch.Tensor:
    """The threshold of a single module."""
    return floored_threshold(g[None], tau, torch.tensor([floor]))


def test_all_off_is_final_without_a_floor_and_open_with_one() -> None:
    g, tau = torch.tensor([0.2, 0.3]), torch.tensor([0.5], requires_grad=True)
    soft_threshold(g, one(g, tau, 0)).sum().backward()
    assert tau.grad is not None and tau.grad.item() == 0
    tau.grad = None
    gamma = soft_threshold(g, one(g, tau, 1))
    gamma.sum().backward(retain_graph=True)
    assert (gamma != 0).tolist() == [False, True]
    assert tau.grad is not None and tau.grad.item() == 0  # τ is above its cap: the pull does not raise it further
    (-gamma.sum()).backward()
    assert tau.grad.item() == 1  # straight through the cap: the task can pull τ down


@pytest.mark.parametrize("floor", [0, 1, 3, 5])
def test_floor_keeps_at_least_that_many(floor: int) -> None:
    g = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5])
    on = soft_threshold(g, one(g, torch.tensor([9.0]), floor)) != 0
    assert int(on.sum()) == floor
    low = soft_threshold(g, one(g, torch.tensor([0.05]), floor))
    assert int((low != 0).sum()) == 5  # a floor never switches anything off


def test_every_module_has_its_own_floor() -> None:
    g = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    on = soft_threshold(g, floored_threshold(g, torch.tensor([9.0, 9.0]), torch.tensor([0, 2]))[:, None]) != 0
    assert on.sum(-1).tolist() == [0, 2]


def test_tau_is_never_negative() -> None:
    assert one(torch.ones(2), torch.tensor([-0.3]), 0).item() == pytest.approx(0.3)


@pytest.mark.parametrize("floors", [(0, 0), (1, 2)])
@pytest.mark.parametrize("allowed", [0, 40, 100, 166, 10_000])
def test_common_shift_is_the_least_that_meets_the_cap(floors: tuple[int, int], allowed: int) -> None:
    """Against a search over every threshold that could matter, in two groups of different prices."""
    generator = torch.Generator().manual_seed(allowed)
    gates = [torch.rand(3, 4, generator=generator), torch.rand(2, 6, generator=generator)]
    taus, prices = [torch.rand(3, generator=generator), torch.rand(2, generator=generator)], [17, 33]
    found = [margins(g, tau, torch.full_like(tau, n).long()) for g, tau, n in zip(gates, taus, floors, strict=True)]
    plain = [g - tau[:, None] for g, tau in zip(gates, taus, strict=True)]

    def spent(shift: float) -> int:
        total = 0
        for margin, price, floor in zip(plain, prices, floors, strict=True):
            for row in margin:
                kept = row.sort(descending=True).values
                total += price * (floor + int((kept[floor:] > shift).sum()))
        return total

    candidates = [0.0, *(float(v) for margin in plain for v in margin.flatten() if v > 0)]
    least = spent(float("inf"))
    expected = min(c for c in candidates if spent(c) <= max(allowed, least))
    assert float(common_shift(found, prices, float(allowed))) == pytest.approx(expected)


def test_cap_schedule_starts_full_and_is_met_at_six_tenths() -> None:
    allowed = [cap_schedule(step, 100, 800.0, 100.0) for step in range(101)]
    assert allowed[:11] == [800.0] * 11 and allowed[60:] == [100.0] * 41
    assert all(a >= b for a, b in pairwise(allowed))
    assert allowed[35] == pytest.approx(100 + 700 / 8)  # halfway down the fall: an eighth of it is left
