"""Two workers make of the base's weights what one does, under every ZeRO stage that is allowed, and across a resume."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support import weights_pair
from tests.support.ranks_pair import folder_of
from tests.support.weights_pair import CASES, METHODS, stream_of, training
from trainers.methods.base import Artifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(two_ranks: Path) -> Path:
    return folder_of(two_ranks, weights_pair)


@pytest.fixture(scope="module")
def alone(two: Path, bases: Path) -> dict[str, list[Artifact]]:
    """The same tasks by one process, undisturbed."""
    found: dict[str, list[Artifact]] = {}
    for method in METHODS:
        stream = stream_of(two / "base", method, two / "alone" / method)
        for index in range(2):
            stream.take([training(stream, index, 0).run().artifact])
        found[method] = stream.committed
    return found


def read(folder: Path) -> dict[str, Tensor]:
    return {
        f"{file.name} {name}": value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize(("method", "stage"), CASES)
def test_two_workers_are_as_good_as_one(
    two: Path, alone: dict[str, list[Artifact]], tmp_path: Path, method: str, stage: int
) -> None:
    for number, artifact in enumerate(alone[method]):
        artifact.write(tmp_path)
        expected, found = read(tmp_path), read(two / f"{method}_{stage}" / str(number))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-5)
