"""Ragged rows in two arrays."""

import pytest

from trainers.models.tokens import TokenIds

ROWS = [[5, 6, 7], [8], [9, 10]]


def test_rows_come_out_as_they_went_in() -> None:
    ids = TokenIds.of(ROWS)
    assert list(ids) == ROWS and ids[1:] == ROWS[1:] and ids[-1] == ROWS[-1] and len(ids) == 3
    assert ids.lengths.tolist() == [3, 1, 2]
    assert ids.flat.flags.c_contiguous and ids.flat.dtype == "int32"
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            ids[beyond]
    assert list(TokenIds.of([])) == []
