"""What a model's class can do, seen from its forward pass and from the cache that it gives."""

import inspect
from typing import Any

from torch import nn

PLAIN_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer"}  # of a cache: keys and values of tokens, and nothing else


class NoCacheError(Exception):
    """The model's cache of a text cannot serve several answers."""


def takes(model: nn.Module, *names: str) -> bool:
    """Whether the forward pass has all these parameters by name."""
    return {*names} <= {*inspect.signature(model.forward).parameters}


def taken(model: nn.Module, **inputs: Any) -> dict[str, Any]:
    """Those of the inputs that the forward pass has by name."""
    return {name: value for name, value in inputs.items() if takes(model, name)}


def needs(model: nn.Module, *names: str) -> None:
    """Raises NoCacheError unless the forward pass has all these parameters by name."""
    if not takes(model, *names):
        raise NoCacheError


def check_repeatable(cache: Any) -> None:
    """Raises NoCacheError unless a cache holds keys and values alone, so that its rows can be repeated.

    Recurrent and convolutional layers keep a state of the text as a whole, which `batch_repeat_interleave` leaves out
    or does not have.
    """
    parts = [getattr(cache, part, None) for part in ("self_attention_cache", "cross_attention_cache")]
    caches = parts if all(parts) else [cache]
    layers = [layer for each in caches for layer in getattr(each, "layers", ())]
    if not layers or any(type(layer).__name__ not in PLAIN_LAYERS for layer in layers):
        raise NoCacheError
