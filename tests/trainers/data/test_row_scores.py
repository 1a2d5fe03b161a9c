"""Scores of single rows: what is written is read again, in few bytes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from trainers.data.row_scores import ROWS, RowScores, read_row_scores, write_row_scores

DRAW = np.random.default_rng(0)


def scores(values: np.ndarray, rows: np.ndarray | None = None, **of: object) -> RowScores:
    told = {"task": "a", "split": "test", "learned": 1, **of}
    return RowScores(rows=np.arange(len(values)) if rows is None else rows, values=values, **told)  # type: ignore[arg-type]


CASES = {
    "bits": scores(np.array([1.0, 0.0, 1.0])),
    "some rows": scores(np.array([0.0, 1.0]), np.array([3, 9]), task="é", split="validation", learned=0),
    "one row": scores(np.array([1.0]), np.array([0])),
    "the second row": scores(np.array([1.0]), np.array([1])),
    "shares": scores(np.array([0.5, 1.0, 0.25])),
}


def test_scores_come_back(tmp_path: Path) -> None:
    write_row_scores(tmp_path / ROWS, [*CASES.values()])
    found = read_row_scores((tmp_path / ROWS).read_bytes())
    for mine, expected in zip(found, CASES.values(), strict=True):
        assert (mine.task, mine.split, mine.learned) == (expected.task, expected.split, expected.learned)
        np.testing.assert_array_equal(mine.values, expected.values)
        np.testing.assert_array_equal(mine.rows, expected.rows)


def test_other_programs_find_columns(tmp_path: Path) -> None:
    write_row_scores(tmp_path / ROWS, [CASES["bits"], CASES["some rows"], CASES["shares"]])
    table = pq.read_table(tmp_path / ROWS).to_pydict()
    assert table["rows"] == [None, [3, 9], None]
    assert table["right"] == [[True, False, True], [False, True], None]
    assert table["value"] == [None, None, [0.5, 1.0, 0.25]]


@pytest.mark.parametrize("splits", [1, 28])
def test_a_row_is_a_bit(splits: int, tmp_path: Path) -> None:
    """Beside a few kilobytes that every Parquet file has."""
    every = [scores((DRAW.random(2_000) < 0.7).astype(float)) for _ in range(splits)]
    write_row_scores(tmp_path / ROWS, every)
    assert (tmp_path / ROWS).stat().st_size < 4_000 + splits * 2_000 / 8 * 1.2
