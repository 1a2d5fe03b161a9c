"""Parameters that a ZeRO-3 engine or `deepspeed.zero.Init` has shared out over the ranks."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def gathered(parameters: Iterable[Tensor], *, write: bool = False) -> AbstractContextManager[Any]:
    """Context in which parameters are whole on every rank; a collective call where they are partitioned.

    What rank 0 writes to them there is kept with `write`, and lost without.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0 if write else None)


def local(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter: all of it, or its shard."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data


@contextmanager
def partitioned_loading(dtype: torch.dtype) -> Iterator[None]:
    """Within it `from_pretrained` keeps of every weight a shard a rank, file by file, by `deepspeed.zero.Init`."""
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

    An engine without an optimizer, as ZeRO-Inference has it; the adapters get engines of their own, task by task.
    """
    import deepspeed

    engine, *_ = deepspeed.initialize(model=model, config=stage_3(dtype))
    model.__dict__["gathering"] = engine  # past nn.Module, of which the engine is one


def release(model: nn.Module) -> None:
    """Shares out what training has left whole in a model that is gathered on use; nothing for any other.

    DeepSpeed lets go of a layer in the backward pass when the gradient of its input is there. The first adapted layer's
    input has none: it would stay whole, and neither be written to nor read again.
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
