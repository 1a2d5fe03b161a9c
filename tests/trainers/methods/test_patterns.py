"""Regexes over layer names that take for ever are named, and others cost nothing to speak of."""

import pytest

from cluster.errors import ConfigError
from trainers.method_config import AdapterConfig
from trainers.methods.patterns import check_regexes_end, ends

NAMES = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(8) for part in "qkvo"]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r"(a*)*b", r"([a-z._0-9]+)+!", r"(\w\w?|\.)*!", ".*" * 12 + "!"])
def test_what_does_not_end_is_refused_with_its_key(pattern: str) -> None:
    if pattern == r"(a*)*b":
        assert ends([pattern], NAMES), "it is harmless on these names"
        return
    with pytest.raises(ConfigError, match=r"adapter\.target_modules: .* takes more than 1 s .*; write it with fewer"):
        check_regexes_end(AdapterConfig(target_modules=pattern), NAMES)


@pytest.mark.slow
def test_patterns_of_single_layers_too() -> None:
    config = AdapterConfig(target_modules=".*", rank_pattern={"q_proj": 4, r"([a-z._0-9]+)+!": 2})
    with pytest.raises(ConfigError, match=r"adapter\.rank_pattern: '\(\[a-z"):
        check_regexes_end(config, NAMES)


def test_what_people_write_ends() -> None:
    for target in (["q_proj"], "all-linear", r".*\.(q|v)_proj", r"model\.layers\.[0-3]\..*"):
        check_regexes_end(AdapterConfig(target_modules=target, rank_pattern={r".*\.q_proj": 4}), NAMES)
    assert ends(["("], NAMES), "what is no regex is said elsewhere"
