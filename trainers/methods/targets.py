"""The linear layers of a model that can be adapted, found by PEFT's rules, however they keep their weights."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from cluster.words import did_you_mean

Layer = Any  # an nn.Linear or a quantised subclass of it, or GPT-2's Conv1D
Number = TypeVar("Number", int, float)


def width(module: Layer) -> int:
    """Output width D of a linear layer or of a GPT-2 `Conv1D`."""
    return int(module.nf if hasattr(module, "nf") else module.out_features)


def input_width(module: Layer) -> int:
    """Input width K of a linear layer or of a GPT-2 `Conv1D`."""
    return int(module.nx if hasattr(module, "nx") else module.in_features)


def is_transposed(module: Layer) -> bool:
    """Whether the layer keeps its weight as (K, D), as GPT-2's `Conv1D` does."""
    return hasattr(module, "nf")


def device_of(module: nn.Module) -> torch.device:
    """The device of a layer, in whichever form it keeps its weight."""
    return next(chain(module.parameters(), module.buffers())).device


def dense(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """W0 (D, K) and b (D,) of a layer, in whichever form it keeps its weight; views of its parameters."""
    weight, bias = module.get_parameter("weight").detach(), module.bias
    return (weight.T if is_transposed(module) else weight), (bias.detach() if isinstance(bias, Tensor) else None)


def match_modules(model: Any, target_modules: Sequence[str] | str) -> dict[str, Layer]:
    """Linear layers named by `target_modules` with PEFT's rules, in the model's order.

    A list holds whole names or suffixes after a dot; a string is a regex over whole names; `all-linear` takes every
    linear layer but the output head. GPT-2's `Conv1D` counts as linear.

    Raises:
        ConfigError: an entry matches no linear layer (the message suggests similar names), or one whose weight is tied
            to the embeddings.
    """
    linears = linear_layers(model)
    if target_modules == "all-linear":
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        chosen = {name: module for name, module in linears.items() if module is not head}
        if not chosen:
            raise ConfigError("adapter.target_modules: all-linear matches no layer: the model has no linear layer")
        return chosen
    if isinstance(target_modules, str):
        chosen = _matching(target_modules, linears)
    else:
        for target in target_modules:
            if not any(_named(name, target) for name in linears):
                raise _no_match(target, linears)
        chosen = {name: m for name, m in linears.items() if any(_named(name, target) for target in target_modules)}
    _refuse_tied(model, chosen)
    return chosen


def by_pattern(name: str, patterns: Mapping[str, Number], default: Number) -> Number:
    """The value for a layer by PEFT's rule for `rank_pattern`: that of the first key that matches, else the default."""
    return next((value for key, value in patterns.items() if _fits(key, name)), default)


def check_patterns(key: str, patterns: Iterable[str], names: Collection[str]) -> None:
    """Raises ConfigError if one of the patterns under `adapter.KEY` decides nothing: it matches none of the adapted
    layers `names`, or the patterns before it match all that it does. The message suggests similar names."""
    before: list[str] = []
    for pattern in patterns:
        fitting = [name for name in names if _fits(pattern, name)]
        if not fitting:
            raise ConfigError(f"adapter.{key}: {pattern!r} matches no adapted layer; {_near(pattern, names)}")
        if all(any(_fits(other, name) for other in before) for name in fitting):
            raise ConfigError(
                f"adapter.{key}: {pattern!r} decides nothing, since the first pattern that matches a layer counts and "
                f"all of its layers match one before it ({', '.join(map(repr, before))}); put it first, or leave it out"
            )
        before.append(pattern)


def _fits(pattern: str, name: str) -> bool:
    """Whether a regex matches the whole name of a layer, or its end after a dot."""
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None


def _near(given: str, names: Collection[str]) -> str:
    """What a pattern may have meant: the same up to the end of the names, an end of a name, or any end there is."""
    if any(_fits(f"{given}.*", name) for name in names):
        return f"it must match to the end of a name: write {f'{given}.*'!r}"
    suffixes = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in names})
    parts = [name.split(".") for name in names]
    ends = sorted({".".join(each[start:]) for each in parts for start in range(len(each))})
    return did_you_mean(given, suffixes) or did_you_mean(given, ends) or f"adapted layers end in {', '.join(suffixes)}"


def linear_layers(model: nn.Module) -> dict[str, Layer]:
    """Every linear layer by name: `nn.Linear`, its quantised subclasses, and GPT-2's `Conv1D`.

    A model's own subclass counts if it computes the same, as Falcon's does; Llama 4's router does not.
    """
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Layer] = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    return {name: module for name, module in found.items() if type(module) is Conv1D or is_linear(type(module))}  # type: ignore[arg-type]


@cache
def is_linear(kind: type[nn.Module]) -> bool:
    """Whether a subclass of `nn.Linear` gives x·Wᵀ + b. One with a forward pass of transformers' models is tried."""
    owner = next(each for each in kind.__mro__ if "forward" in vars(each))
    if not owner.__module__.startswith("transformers."):
        return True
    layer: Any = kind.__new__(kind)  # whatever else its own __init__ asks for
    nn.Module.__init__(layer)
    weight, bias = torch.arange(6.0, device="cpu").view(3, 2), torch.ones(3, device="cpu")
    layer.in_features, layer.out_features = 2, 3
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    try:
        return torch.equal(layer(weight[1:]), nn.functional.linear(weight[1:], weight, bias))
    except Exception:  # whatever its code raises without what its own __init__ makes
        return False


def _matching(regex: str, linears: Mapping[str, Layer]) -> dict[str, Layer]:
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise ConfigError(f"adapter.target_modules: {regex!r} is not a regex: {error}") from None
    chosen = {name: module for name, module in linears.items() if pattern.fullmatch(name)}
    if not chosen:
        if any(_named(name, regex) for name in linears):
            raise ConfigError(f"adapter.target_modules: a string is a regex over whole names; write [{regex}]")
        raise _no_match(regex, linears)
    return chosen


def _refuse_tied(model: nn.Module, chosen: Mapping[str, Layer]) -> None:
    embeddings = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    for name, module in chosen.items():
        if id(module.weight) in embeddings:
            raise ConfigError(
                f"adapter.target_modules: {name!r} shares its weight with the embedding "
                f"{embeddings[id(module.weight)]!r}, which would change with it; leave it out"
            )


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _no_match(target: str, linears: Mapping[str, Layer]) -> ConfigError:
    suffixes = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in linears})
    hint = did_you_mean(target, suffixes) or f"linear layers here: {', '.join(suffixes)}"
    return ConfigError(f"adapter.target_modules: {target!r} matches no linear layer of the model; {hint}")
