"""Two ranks under ZeRO 0 to 2 learn what one process learns, with every method of low-rank updates."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import methods_pair
from tests.support.methods_pair import CASES, METHODS, streamed
from tests.support.ranks_pair import folder_of
from trainers.methods.updates import parse

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(two_ranks: Path, one_process: None) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
            patch.setenv(name, str(value))
        yield folder_of(two_ranks, methods_pair)


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_learn_what_one_does(folder: Path, method: str) -> None:
    """The change of every layer by both tasks; which of them begins where the first has ended."""
    alone = [parse(data, method) for data in streamed(folder, 0, method)]
    for stage in [stage for stage, each in CASES if each == method]:
        for task, expected in enumerate(alone):
            found = parse((folder / f"{stage}-{method}-{task}.safetensors").read_bytes(), method)
            assert {name: lora.rank for name, lora in found.items()} == {n: lora.rank for n, lora in expected.items()}
            for name, lora in expected.items():
                change_DK = lora.b_DR @ lora.a_RK
                close = {"rtol": 2e-2, "atol": 2e-3 * float(change_DK.abs().max())}
                torch.testing.assert_close(found[name].b_DR @ found[name].a_RK, change_DK, **close)
