"""Loads what a checkpoint holds of a model, and nothing in its place.

`from_pretrained` draws at random what a checkpoint does not hold. RoBERTa, ALBERT or BERT, published as masked language
models, hold no pooler. No answer of an encoder reads one, so it is left out of the model: out of its digest, out of the
layers that adapters can stand on, and out of what is exported. Everything else that is not held is refused by name, but
for tables that the class computes, such as the sinusoids of Pegasus.
"""

import copy
import errno
import inspect
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

POOLER = "pooler"
UNREADABLE = (OSError, ValueError, ImportError, SafetensorError)
SHOWN = 4  # names per message


def load_held(auto: Any, where: str, within: AbstractContextManager[Any], *, reads_pooler: bool, **how: Any) -> Any:
    """The model of the Auto class `auto` in the folder or hub id `where`, without a pooler that is not held.

    Weights are read `within` a context. The other arguments and the errors are those of `shape_held`.
    """
    shape = shape_held(auto, where, reads_pooler=reads_pooler, **how)  # ZeRO 3 neither allows nor tells it
    with _without_report(), within, _damage_named():
        model = auto.from_pretrained(where, **how)
    if hasattr(shape, POOLER) and not _has_pooler(shape):
        leave_out_pooler(model)
    return model


def shape_held(auto: Any, where: str, *, reads_pooler: bool, **how: Any) -> nn.Module:
    """`load_held` on the `meta` device: of the files, only names and shapes are read.

    Args:
        auto: one of transformers' Auto classes.
        where: the first argument of its `from_pretrained`.
        reads_pooler: whether answers may depend on a pooler, so that a checkpoint must hold one.
        how: further arguments of `from_pretrained`.

    Raises:
        ValueError: weights are not held, or in another shape than the configuration gives; it names them. Files that
            cannot be read raise one of `UNREADABLE`.
    """
    with _without_report(), _damage_named():
        loaded = auto.from_pretrained(
            where, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True, **how
        )
    model: nn.Module = loaded[0]
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    absent = {name for name in parameters & set(loaded[1]["missing_keys"]) if not _is_computed(model, name)}
    if not reads_pooler and any(map(_is_of_pooler, absent)):
        leave_out_pooler(model)
        absent = {name for name in absent if not _is_of_pooler(name)}
    if absent:
        raise ValueError(f"its checkpoint lacks {shown(absent)}, which would be drawn at random")
    if other := {each if isinstance(each, str) else each[0] for each in loaded[1]["mismatched_keys"]}:
        raise ValueError(f"its checkpoint holds {shown(other)} in another shape than config.json gives")
    return model


def leave_out_pooler(model: nn.Module) -> None:
    """Takes the pooler out of an encoder, as its class does if it is made without one."""
    can_be_absent = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    setattr(model, POOLER, None if can_be_absent else nn.Identity())


def state_without_pooler(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of an encoder without what belongs to its pooler."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if not _is_of_pooler(name)}


def shown(names: set[str]) -> str:
    """The first names in order, and how many more there are."""
    first, more = sorted(names)[:SHOWN], len(names) - SHOWN
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _is_of_pooler(name: str) -> bool:
    return name.startswith(f"{POOLER}.")


def _has_pooler(model: nn.Module) -> bool:
    return any(_is_of_pooler(name) for name, _ in model.named_parameters())


def _is_computed(model: Any, name: str) -> bool:
    """Whether the class computes this parameter: two initialisations agree, and give no mere constant."""
    owner, _, own = name.rpartition(".")
    made = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(2):
            module = copy.deepcopy(model.get_submodule(owner)).to_empty(device="cpu", recurse=False)
            value = getattr(module, own).detach().fill_(torch.nan)
            torch.manual_seed(seed)
            model._init_weights(module)
            made.append(value.clone())
    return torch.equal(*made) and bool((made[0] != made[0].flatten()[0]).any())


@contextmanager
def _damage_named() -> Iterator[None]:
    """Makes a ValueError of what torch raises of a `.bin` file that it cannot read."""
    try:
        yield
    except (EOFError, UnpicklingError, OSError, RuntimeError) as error:
        cut = getattr(error, "errno", None) == errno.EINVAL or "PytorchStreamReader" in str(error)
        if isinstance(error, OSError | RuntimeError) and not cut:
            raise
        raise ValueError("a .bin file of its weights is damaged, or holds more than tensors") from None


@contextmanager
def _without_report() -> Iterator[None]:
    """Silences progress bars, and the report on weights that are absent or superfluous: `shape_held` judges them."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
