"""Parameters that a ZeRO-3 engine or `deepspeed.zero.Init` has partitioned over the ranks."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def gathered(parameters: Iterable[Tensor], *, write: bool = False) -> AbstractContextManager[Any]:
    """Context in which parameters are whole on every rank. A collective call if they are partitioned.

    What rank 0 writes to them in the context is kept if `write` is true, and lost otherwise.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0 if write else None)


def local(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter: all of it, or its shard."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data


def size_of(parameter: Tensor) -> int:
    """The number of values of a whole parameter, of which ZeRO 3 leaves a rank a part."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def hold(parameter: Tensor, value: Tensor) -> None:
    """Makes `value` what this rank holds of a frozen parameter, of the same shape and in any dtype; not a copy."""
    if hasattr(parameter, "ds_tensor"):
        parameter.ds_tensor.data = value  # keeps the marks that DeepSpeed has on it
        parameter.data = parameter.data.to(value.dtype)  # without elements
    else:
        parameter.data = value


@contextmanager
def partitioned_loading(dtype: torch.dtype) -> Iterator[None]:
    """Context in which `from_pretrained` keeps one shard of every weight per rank, by `deepspeed.zero.Init`."""
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    config = HfDeepSpeedConfig(stage_3(dtype))  # transformers keeps a weak reference: it must live through the load
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del config


def gather_on_use(model: nn.Module, dtype: torch.dtype) -> None:
    """Hooks a partitioned, frozen model for good: a layer's weights are whole while it computes, forward and backward.

    The hooks are those of an engine without an optimizer, as in ZeRO-Inference. Adapters get one engine per task.
    """
    import deepspeed

    engine, *_ = deepspeed.initialize(model=model, config=stage_3(dtype))
    model.__dict__["gathering"] = engine  # past nn.Module, of which the engine is one


def release(model: nn.Module) -> None:
    """Partitions again what training has left whole in a model that is gathered on use; does nothing for other models.

    In the backward pass DeepSpeed releases a layer once it has the gradient of the layer's input. The input of the
    first adapted layer has no gradient, so this layer would stay whole. It could then not be written or read any more.
    """
    if engine := model.__dict__.get("gathering"):
        engine.empty_partition_cache()


def stage_3(dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration for the frozen model."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 2**31,
    }
