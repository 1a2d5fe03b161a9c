"""What the sections of a training job accept, and the numbers that follow from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainers.config import NAMED, ModelConfig, OwnTraining, TrainConfig, check_template
from trainers.data.batching import epoch_batches


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


@given(
    rows=st.integers(1, 5000), batch_size=st.integers(1, 300), epochs=st.integers(1, 20),
    bounds=st.tuples(st.integers(0, 2000), st.none() | st.integers(1, 2000)),
)  # fmt: skip
def test_steps_are_those_of_the_epochs_between_both_bounds(
    rows: int, batch_size: int, epochs: int, bounds: tuple[int, int | None]
) -> None:
    least, most = bounds
    asked = {"batch_size": batch_size, "epochs": epochs, "min_steps": least, "max_steps": most}
    if most is not None and least > most:
        with pytest.raises(ValidationError, match=f"min_steps {least} is above max_steps {most}; lower min_steps"):
            TrainConfig.model_validate(asked)
        with pytest.raises(ValueError, match=f"min_steps {least} is above max_steps {most}; lower min_steps"):
            TrainConfig().with_own(OwnTraining.model_validate(asked))
        return
    found = TrainConfig.model_validate(asked)
    passes = len(epoch_batches(np.ones(rows), batch_size, 0, 0)) * epochs
    assert found.steps(rows) == int(np.clip(passes, least, most))
    assert found.steps(rows) == TrainConfig().with_own(OwnTraining.model_validate(asked)).steps(rows)


def test_a_task_has_its_own_values_in_place_of_the_runs() -> None:
    run = TrainConfig(epochs=2, learning_rate=0.5, min_steps=7, seed=3)
    own = run.with_own(OwnTraining(learning_rate=0.25, min_steps=0))
    assert own == TrainConfig(epochs=2, learning_rate=0.25, seed=3)
    assert run.with_own(None) is run
    assert {*OwnTraining.model_fields} < {*TrainConfig.model_fields}


def test_what_came_later_is_stored_only_if_it_is_used() -> None:
    """So that runs that were stored before compare equal."""
    assert not {"min_steps", "max_steps"} & TrainConfig().model_dump().keys()
    assert TrainConfig(min_steps=5).model_dump().keys() - TrainConfig().model_dump().keys() == {"min_steps"}
    assert OwnTraining(epochs=3).model_dump() == {"epochs": 3}


def test_every_task_of_every_run_seed_has_a_seed_of_its_own() -> None:
    seeds = {TrainConfig(seed=seed).task_seed(index) for seed in range(40) for index in range(40)}
    assert len(seeds) == 1600 and TrainConfig(seed=0).task_seed(7) == 7
