"""Every method that a configuration can name has an implementation."""

from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter

from cluster.errors import ConfigError
from tests.support.shift_method import ShiftConfig
from tests.support.small_layers import SIZES, layers
from trainers.any_method import AnyMethod, method_named
from trainers.methods.registry import method_for


def names() -> list[str]:
    """The tags of the union."""
    return [each.__metadata__[0].tag for each in get_args(get_args(AnyMethod)[0])]


@pytest.mark.parametrize("name", names())
def test_a_method_is_made_from_its_settings(name: str) -> None:
    """It stands on the layers that they name, and has changed none of them yet."""
    config: Any = TypeAdapter(AnyMethod).validate_python({"method": name, "target_modules": [*SIZES]})
    assert config.method == name == method_named(config) == method_named({"method": name})
    model = layers()
    method = method_for(model, config, torch.float32)
    assert [*method.modules] == [*SIZES]
    assert all(type(module) is torch.nn.Linear for module in method.modules.values())
    assert method.footprint(2).trained > 0


def test_settings_without_an_implementation_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^adapter\.method: 'shift' has no implementation; add it to"):
        method_for(layers(), ShiftConfig(target_modules=[*SIZES]), torch.float32)
