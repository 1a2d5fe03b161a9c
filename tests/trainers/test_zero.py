"""What is shared out and what is not, on one process; `training/test_engine.py` trains a model that is, on two."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from trainers.zero import gathered, hold, local, partitioned_loading, release, stage_3


def parameter(*, shared_out: bool) -> nn.Parameter:
    """As DeepSpeed marks it if it is shared out."""
    made = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    if shared_out:
        made.ds_id, made.ds_tensor = 0, torch.arange(3.0)  # type: ignore[attr-defined]
    return made


def test_whole_parameters_are_not_gathered() -> None:
    assert isinstance(gathered([parameter(shared_out=False)], write=True), nullcontext)
    assert isinstance(gathered([]), nullcontext)


@pytest.mark.parametrize(("write", "writer"), [(True, 0), (False, None)])
def test_only_what_is_shared_out_is_gathered(monkeypatch: pytest.MonkeyPatch, write: bool, writer: int | None) -> None:
    import deepspeed

    calls: list[tuple[list[nn.Parameter], int | None]] = []
    monkeypatch.setattr(
        deepspeed.zero,
        "GatheredParameters",
        lambda parameters, modifier_rank: calls.append((parameters, modifier_rank)),
    )
    whole, shared = parameter(shared_out=False), parameter(shared_out=True)
    gathered([whole, shared], write=write)
    ((found, rank),) = calls
    assert len(found) == 1 and found[0] is shared and rank == writer


def test_what_a_rank_holds() -> None:
    assert local(parameter(shared_out=False)).shape == (2, 3)
    assert torch.equal(local(parameter(shared_out=True)), torch.arange(3.0))


@pytest.mark.parametrize("shared_out", [False, True])
def test_a_rank_holds_another_dtype(shared_out: bool) -> None:
    """A shard stays the tensor that DeepSpeed has marked."""
    made = parameter(shared_out=shared_out)
    before = local(made)
    hold(made, torch.ones_like(before, dtype=torch.bfloat16))
    assert made.dtype == local(made).dtype == torch.bfloat16 and bool((local(made) == 1).all())
    assert (local(made) is before) == shared_out


def test_only_a_gathered_model_lets_go_of_its_layers() -> None:
    class Engine:
        emptied = 0

        def empty_partition_cache(self) -> None:
            self.emptied += 1

    engine, model = Engine(), nn.Linear(2, 2)
    release(model)
    model.__dict__["gathering"] = engine
    release(model)
    assert engine.emptied == 1 and not list(model.children())


@pytest.mark.parametrize("fails", [False, True])
def test_only_loads_inside_are_partitioned(fails: bool) -> None:
    """After an error, too: the next model of this process is loaded whole."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    try:
        with partitioned_loading(torch.bfloat16):
            assert is_deepspeed_zero3_enabled()
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert not is_deepspeed_zero3_enabled()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_frozen_models_configuration(dtype: torch.dtype) -> None:
    found: dict[str, Any] = stage_3(dtype)
    assert found["zero_optimization"]["stage"] == 3 and found["bf16"]["enabled"] == (dtype == torch.bfloat16)
