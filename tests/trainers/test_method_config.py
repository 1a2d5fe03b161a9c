"""What the `adapter` section accepts, and what follows from it."""

from typing import Any

import pytest
from pydantic import ValidationError

from trainers.method_config import AdapterConfig, OrthogonalityConfig


@pytest.mark.parametrize(
    ("section", "penalises", "projects_output", "projects_input"),
    [
        ({}, False, False, False),
        ({"weight": 1}, True, False, False),
        ({"mode": "projection"}, False, True, False),
        ({"side": "input"}, False, False, True),
        ({"side": "both"}, False, False, True),
        ({"side": "both", "weight": 1}, True, False, True),
        ({"side": "none", "weight": 1}, False, False, False),
        ({"side": "both", "mode": "projection"}, False, True, True),
    ],
)
def test_each_side_is_protected_in_one_way(
    section: dict[str, object], penalises: bool, projects_output: bool, projects_input: bool
) -> None:
    made = OrthogonalityConfig.model_validate(section)
    found = (made.penalises, made.projects_output, made.projects_input)
    assert found == (penalises, projects_output, projects_input)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"min_rank": 5, "max_rank": 4}, "min_rank 5 is above max_rank 4; lower min_rank"),
        ({"rank_pattern": {"(": 2}}, r"'\(' is not a regex"),
        ({"target_modules": []}, "name at least one module"),
        ({"target_modules": ["q", ""]}, "name at least one module"),
    ],
)
def test_adapters_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdapterConfig.model_validate({"target_modules": ["q"], **section})


def test_rounding_to_the_nearest_is_not_stored_since_it_always_was() -> None:
    plain = {"target_modules": ["q"]}
    nearest, other = (AdapterConfig.model_validate({**plain, "rounding": way}) for way in ("nearest", "stochastic"))
    assert "rounding" not in nearest.model_dump() and nearest == AdapterConfig.model_validate(plain)
    assert other.model_dump(mode="json")["rounding"] == "stochastic"
    assert AdapterConfig.model_validate(other.model_dump()) == other != nearest


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, ["outputs on earlier tasks by a penalty (functional.weight 10, metric loss)"]),
        (
            {"orthogonality": {"weight": 5.0}, "functional": {"weight": 0.0}},
            ["W2 by a penalty (orthogonality.weight 5)"],
        ),
        ({"orthogonality": {"weight": 5.0, "side": "none"}, "functional": {"weight": 0.0}}, ["nothing"]),
        (
            {"orthogonality": {"side": "both", "mode": "projection", "energy": 0.8}, "functional": {"weight": 0.0}},
            ["W2 exactly (orthogonality.mode projection)", "W1 exactly (orthogonality.side both, energy 0.8)"],
        ),
        (
            {"orthogonality": {"side": "none"}, "functional": {"weight": 3.0, "metric": "none"}},
            ["outputs on earlier tasks by a penalty (functional.weight 3, metric none)"],
        ),
    ],
)
def test_what_is_said_of_protection(keys: dict[str, Any], said: list[str]) -> None:
    assert AdapterConfig(target_modules=["dense"], **keys).protects == said
