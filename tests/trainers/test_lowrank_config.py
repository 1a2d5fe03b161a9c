"""What the sections of methods with low-rank updates accept, and what follows from them."""

from typing import Any

import pytest
from pydantic import ValidationError

from trainers.lowrank_config import AdaloraConfig, IncrementalLoraConfig, LowRankConfig
from trainers.method_config import MethodConfig


def made(kind: type[LowRankConfig], **changed: object) -> Any:
    (name,) = kind.model_fields["method"].annotation.__args__  # type: ignore[union-attr]
    return kind.model_validate({"method": name, "target_modules": ["q"], **changed})


def test_an_update_is_scaled_by_its_rank() -> None:
    """AdaLoRA's by that which it begins with, since the others change."""
    assert made(IncrementalLoraConfig, rank=4, alpha=2.0).scaling == 0.5
    assert made(AdaloraConfig, rank=4, initial_rank=8, alpha=2.0).scaling == 0.25


def test_only_what_is_folded_is_rounded() -> None:
    assert made(IncrementalLoraConfig).rounds == "nearest" and not made(IncrementalLoraConfig).needs_task
    assert made(IncrementalLoraConfig, rounding="none").rounds is None
    alone = made(AdaloraConfig, mode="per_task", rounding="stochastic")
    assert alone.rounds is None and alone.needs_task
    assert made(AdaloraConfig, rounding="stochastic").rounds == "stochastic"


def test_they_fill_nothing_and_need_whole_weights() -> None:
    config: MethodConfig = made(IncrementalLoraConfig)
    assert config.protection is None and config.patterns == {} and not config.takes_quantised
    assert config.most_zero_stage == 2 and config.package is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 13}, "rank 13 is above initial_rank 12; lower rank"),
        ({"initial_share": 0.5, "final_share": 0.5}, "leave no updates between them; their sum must be below 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(AdaloraConfig, **changed)
