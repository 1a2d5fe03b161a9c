"""What a model's class can do, seen from its configuration, its modules, its forward pass and its cache."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

POSITION_KEYS = {  # what configurations call their positions, by the side of a model that has them
    "encoder": ("max_encoder_position_embeddings", "max_source_positions", "max_position_embeddings"),
    "decoder": ("max_decoder_position_embeddings", "max_target_positions", "max_position_embeddings", "max_seq_len"),
}
PLAIN_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer"}  # of a cache: keys and values of tokens, and nothing else


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class NoCacheError(Exception):
    """The model's cache of a text cannot serve several answers."""


def takes(model: nn.Module, *names: str) -> bool:
    """Whether the forward pass has all these parameters by name, or hands on to the part without a head what it has no
    name for, and that has them."""
    own = inspect.signature(model.forward).parameters
    found = {*own}
    inner = getattr(model, "base_model", model)
    if any(each.kind is each.VAR_KEYWORD for each in own.values()):
        found |= {*inspect.signature(inner.forward).parameters}
    return {*names} <= found


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


@dataclass(frozen=True)
class Shape:
    """What the memory of activations is reckoned from: width D, layers and heads of the part that reads texts, and its
    positions, None if it has no limit."""

    width: int
    layers: int
    heads: int
    positions: int | None

    @classmethod
    def of(cls, model: Any) -> "Shape":
        """Of a model, with or without weights."""
        config = text_config(model.config)
        width = whole(config, "hidden_size") or model.get_input_embeddings().weight.shape[-1]
        blocks = [len(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
        layers = whole(config, "num_hidden_layers") or max(blocks, default=1)
        return cls(width, layers, whole(config, "num_attention_heads") or 1, most_positions(model))


def text_config(config: Any, side: str = "encoder") -> Any:
    """The part of a configuration that says how texts are read: of an encoder-decoder that of the encoder, or of the
    decoder for answers; of a model of several media that of text; else all of it."""
    inner = getattr(config, side, None)
    if hasattr(inner, "get_text_config"):
        return text_config(inner, side)
    try:
        return config.get_text_config()
    except (AttributeError, ValueError):  # several, or a configuration that is none of transformers'
        return config


def most_positions(model: Any, *, answers: bool = False) -> int | None:
    """The tokens of the longest text that a model has positions for; None if there is no limit. With `answers`, those
    of the longest answer of an encoder-decoder.

    It is what the configuration says, less what a table of as many positions leaves out: RoBERTa and its kin count from
    padding_idx + 1.
    """
    side = "decoder" if answers or not model.config.is_encoder_decoder else "encoder"
    config = text_config(model.config, side)
    said = next((most for key in POSITION_KEYS[side] if (most := whole(config, key))), None)
    if not said:
        return None
    skipped = (
        module.padding_idx + 1
        for name, module in model.named_modules()
        if "position" in name.rpartition(".")[2] and is_table(module, said) and module.padding_idx is not None
    )
    return said - max(skipped, default=0)


def is_table(module: nn.Module, rows: int) -> bool:
    """Whether a module keeps one row per position, as an `nn.Embedding` does."""
    weight = getattr(module, "weight", None)
    return hasattr(module, "padding_idx") and isinstance(weight, Tensor) and len(weight) == rows


def whole(config: Any, key: str) -> int | None:
    """A number of the configuration above 0; None if it has none, as XLNet's positions, which are -1."""
    try:
        value = getattr(config, key, None)
    except Exception:  # transformers', of a value that differs between layers
        return None
    return value if isinstance(value, int) and value > 0 else None
