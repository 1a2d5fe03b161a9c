"""Saved bases and streams, made once for the exports of this folder."""

import pytest

from tests.support.exports import (
    FAMILIES,
    Case,
    make_case,
)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("bases")
    return {family: make_case(family, root / family) for family in FAMILIES}
