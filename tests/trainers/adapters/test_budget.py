import pytest
import torch

from trainers.adapters.budget import budget_loss, floored_threshold, soft_threshold


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


def test_all_off_is_final_without_a_floor_and_open_with_one() -> None:
    g, tau = torch.tensor([0.2, 0.3]), torch.tensor([0.5], requires_grad=True)
    soft_threshold(g, floored_threshold(g, tau, 0)).sum().backward()
    assert tau.grad is not None and tau.grad.item() == 0
    tau.grad = None
    gamma = soft_threshold(g, floored_threshold(g, tau, 1))
    gamma.sum().backward(retain_graph=True)
    assert (gamma != 0).tolist() == [False, True]
    assert tau.grad is not None and tau.grad.item() == 0  # τ is above its cap: the pull does not raise it further
    (-gamma.sum()).backward()
    assert tau.grad.item() == 1  # straight through the cap: the task can pull τ down


@pytest.mark.parametrize("floor", [0, 1, 3, 5])
def test_floor_keeps_at_least_that_many(floor: int) -> None:
    g = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5])
    on = soft_threshold(g, floored_threshold(g, torch.tensor([9.0]), floor)) != 0
    assert int(on.sum()) == floor
    low = soft_threshold(g, floored_threshold(g, torch.tensor([0.05]), floor))
    assert int((low != 0).sum()) == 5  # a floor never switches anything off


def test_tau_is_never_negative() -> None:
    assert floored_threshold(torch.ones(2), torch.tensor([-0.3]), 0).item() == pytest.approx(0.3)


def test_budget_loss_is_mean_over_modules_and_raises_tau() -> None:
    g, tau = torch.tensor([1.0, -2.0]), torch.tensor([0.5], requires_grad=True)
    loss = budget_loss([soft_threshold(g, tau), torch.tensor([3.0])])
    assert loss.item() == pytest.approx((0.5 + 1.5 + 3.0) / 2)
    loss.backward()
    assert tau.grad is not None and tau.grad.item() == -1.0  # descent raises τ
