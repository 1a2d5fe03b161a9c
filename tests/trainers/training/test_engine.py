"""Two real processes under ZeRO 0 to 3 against one process of plain PyTorch on the whole batch."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.closeness import assert_moved_alike
from tests.support.zero_pair import CASES, ROWS, Case
from tests.support.zero_reference import References
from trainers.config import learning_rate_factor


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zero_equals_one_process(pair: Path, references: References, case: Case) -> None:
    """Losses of the first step, every parameter after three steps, and scores without adapters, with ranks that hold
    unequal rows, unequal tokens, or none.

    Parameters are judged by norm and share, which hold on any CPU: `assert_moved_alike` says why. Losses and scores
    have no division by noise in them: float32 to 2^-15, bfloat16 to 2^-6, as the batch is cut otherwise.
    """
    result = load_file(pair / f"{case.name}.safetensors")
    start, expected = references[case.setting]
    assert result.keys() == expected.keys()
    assert expected["loss/orthogonality"] > 0.01 and ROWS % 2
    for name, value in expected.items():
        if name in start:
            assert_moved_alike(result[name], value, start[name], getattr(torch, case.dtype))
        else:
            bound = 2**-15 if case.dtype == "float32" else 2**-6
            torch.testing.assert_close(result[name], value.float(), rtol=bound, atol=bound)


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 4, 12) for step in range(13)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[8] == pytest.approx(0.5) and factors[12] == 0
    assert learning_rate_factor(0, 20, 1) == 1  # a run shorter than its warm-up still learns
