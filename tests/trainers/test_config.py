"""What the sections of a training job accept, and the numbers that follow from them."""

from typing import Any

import pytest
from pydantic import ValidationError

from trainers.config import NAMED, AdapterConfig, ModelConfig, OrthogonalityConfig, TrainConfig, check_template


def test_generation_needs_a_language_model() -> None:
    with pytest.raises(ValueError, match="a LABEL_EMBEDDING model generates no text"):
        ModelConfig(scoring="generation")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Answer:", "needs {text} once"),
        ("{text} {text}", "needs {text} once"),
        ("{{text}}", "needs {text} once"),
        ("{text} {lables}", "unknown field {lables}; there are {text}, {labels}"),
        ("{text} {}", "unknown field {}"),
        ("{text.upper}", "unknown field {text.upper}"),
        ("{text!r}", "formats {text}"),
        ("{text:>9}", "formats {text}"),
        ("{text} }", "write {{ and }} for braces"),
        ("cl_benchmrk", "or name one of cl_benchmark, cl_benchmark_prefix"),
    ],
)
def test_templates_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        check_template(template)
    assert message in str(error.value)
    with pytest.raises(ValidationError) as refused:
        ModelConfig(prompt=template)
    (found,) = refused.value.errors()
    assert found["loc"] == ("prompt",) and message in found["msg"]


@pytest.mark.parametrize("name", NAMED)
def test_named_templates_are_templates(name: str) -> None:
    assert check_template(name) == name and check_template(NAMED[name])


@pytest.mark.parametrize(("rows", "batch_size", "epochs", "steps"), [(11, 4, 1, 3), (12, 4, 3, 9), (1, 32, 2, 2)])
def test_steps_count_the_last_short_batch_of_each_epoch(rows: int, batch_size: int, epochs: int, steps: int) -> None:
    assert TrainConfig(batch_size=batch_size, epochs=epochs).steps(rows) == steps


def test_every_task_of_every_run_seed_has_a_seed_of_its_own() -> None:
    seeds = {TrainConfig(seed=seed).task_seed(index) for seed in range(40) for index in range(40)}
    assert len(seeds) == 1600 and TrainConfig(seed=0).task_seed(7) == 7


@pytest.mark.parametrize(
    ("section", "penalises", "projects_output", "projects_input"),
    [
        ({}, True, False, False),
        ({"mode": "projection"}, False, True, False),
        ({"side": "input"}, False, False, True),
        ({"side": "both"}, True, False, True),
        ({"side": "both", "mode": "projection"}, False, True, True),
    ],
)
def test_each_side_is_protected_in_one_way(
    section: dict[str, str], penalises: bool, projects_output: bool, projects_input: bool
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
