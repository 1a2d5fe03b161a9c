"""Budgets that did nothing, or switched everything off: why, and what to set."""

from typing import Any

import pytest

from orchestrator.console.explained.advice import advice, verdict
from trainers.config import TrainConfig
from trainers.method_config import AdapterConfig
from trainers.training.decisions import Facts, ModuleDecision


def budgets(sizes: dict[str, list[float]], tau: float, **keys: Any) -> tuple[AdapterConfig, list[ModuleDecision]]:
    """Layers whose |g| ended so beside τ."""
    settings = AdapterConfig(target_modules=["a"], max_rank=4, **keys)
    log: dict[str, Any] = {"step": [10]}
    budget = {}
    for name, gates in sizes.items():
        rank = sum(size > tau for size in gates)
        log |= {f"g/{name}": [gates], f"tau/{name}": [tau], f"rank/{name}": [rank]}
        budget[name] = {"rank": rank, "max_rank": len(gates), "tau": tau}
    facts = Facts(
        when=None, run="r", task="t", settings=settings, log=log, budget=budget, before={}, after={}, earlier=0,
        overlaps={},
    )  # fmt: skip
    return settings, facts.decisions()


FULL = {"a": [1.0, 0.9, 0.8, 0.7], "b": [1.0, 0.9, 0.6, 0.5]}


def test_a_budget_that_did_nothing() -> None:
    settings, found = budgets(FULL, 0.25)
    assert verdict(found) == (
        "The budget did nothing: every layer kept all its dimensions, since τ went from 0.200 to at most 0.250, and "
        "the least |g| of all is 0.500."
    )
    assert [*advice(settings, TrainConfig(), found, 1000)] == [
        "To change that, begin another run, `orthoplex run CONFIG --set name=other`, with one or more of",
        "  --set adapter.threshold=0.7   a higher τ₀: a quarter of |g| ended within 0.7",
        "  --set adapter.budget_weight=0.03   pulls |g| down and τ up more strongly",
        "  --set train.budget_learning_rate_factor=30   lets g and τ move faster",
        "  --set adapter.max_parameters=500   bounds the total; what falls is what |g| and τ say",
    ]


def test_a_loss_that_asked_for_all() -> None:
    settings, found = budgets(FULL, 0.1)
    *_, last = advice(settings, TrainConfig(), found, None)
    assert last == "  --set adapter.max_rank=8   gives more dimensions: the loss pulled every τ down"


@pytest.mark.parametrize(
    ("keys", "why", "first"),
    [
        ({"threshold": 0.0}, ", since τ₀ = 0 stays 0.", "adapter.threshold=0.7 "),
        ({"min_rank": 4}, ", since adapter.min_rank keeps them.", "adapter.min_rank=0 "),
        ({"budget_weight": 0.0}, "to at most 0.000, and the least |g|", "adapter.threshold=0.7 "),
    ],
)
def test_why_a_budget_did_nothing(keys: dict[str, Any], why: str, first: str) -> None:
    settings, found = budgets(FULL, 0.0, **keys)
    assert why in (verdict(found) or "")
    _, second, *_ = advice(settings, TrainConfig(), found, None)
    assert second.startswith(f"  --set {first}")


def test_a_budget_that_left_nothing() -> None:
    settings, found = budgets(FULL, 2.0)
    assert verdict(found) == "The budget switched everything off: no layer kept a dimension."
    sets = [line.split()[1] for line in advice(settings, TrainConfig(), found, 0) if "--set adapter" in line]
    assert sets == ["adapter.threshold=0.1", "adapter.budget_weight=0.0003", "adapter.min_rank=1"]


def test_a_budget_that_did_something() -> None:
    settings, found = budgets(FULL, 0.65)
    assert verdict(found) is None and [*advice(settings, TrainConfig(), found, 1000)] == []


def test_what_is_advised_can_be_set() -> None:
    """Each line is a value that the configuration takes."""
    for tau in (0.1, 2.0):
        settings, found = budgets(FULL, tau, budget_weight=0.0)
        for line in [*advice(settings, TrainConfig(), found, 1000)][1:]:
            section, _, rest = line.split()[1].partition(".")
            key, _, value = rest.partition("=")
            model = {"adapter": settings, "train": TrainConfig()}[section]
            assert getattr(type(model).model_validate({**model.model_dump(), key: float(value)}), key) == float(value)
