"""Ragged rows in two arrays."""

from types import SimpleNamespace

import pytest

from trainers.data.generative.refusals import TooLong
from trainers.models import tokens
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


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        (None, "a; set the task's max_length to 9 or more, or raise max_cut to 0.25"),
        (9, "a; set the task's max_length to 9 or more, or raise max_cut to 0.25"),
        (8, "a, and 9 tokens are beyond the model's 8 positions; raise max_cut to 0.25"),
    ],
)
def test_no_length_beyond_the_positions_is_advised(
    positions: int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, base = TooLong("a", "answer_cut", 9, 0.25), SimpleNamespace(model=object())
    error.evidence = {"rows": 1}
    monkeypatch.setattr(tokens, "most_positions", lambda model, answers: positions)
    found = tokens.positions_for(error, base)  # type: ignore[arg-type]
    assert found == positions and str(error.need(9, found, 0.25)) == told and error.evidence == {"rows": 1}
    assert tokens.positions_for(error, SimpleNamespace(model=None)) is None  # type: ignore[arg-type]
