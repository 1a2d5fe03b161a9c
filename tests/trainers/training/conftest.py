"""Two processes train once for all tests here that look at what they leave."""

from pathlib import Path

import pytest

from tests.support.launching import launch
from tests.support.zero_pair import CASES, Setting
from tests.support.zero_reference import References, reference


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    launch(folder, 2)
    launch(folder, 1)  # goes on alone from what two have left
    return folder


@pytest.fixture(scope="session")
def references(pair: Path) -> References:
    """Of each setting once: parameters at the start, and the same steps in plain PyTorch."""
    found: References = {}
    for case in CASES:
        if case.setting not in found:
            found[case.setting] = reference(Setting(case, pair, partitioned=False))
    return found
