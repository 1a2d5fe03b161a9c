"""Rows in lines: every row whole, once, and nothing of it lost."""

import numpy as np
import pytest
import torch

from trainers.data.lines import best_fit, in_lines


@pytest.mark.parametrize("seed", range(20))
def test_best_fit_puts_every_row_in_one_line_that_holds_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, 40).tolist()
    lines = best_fit(lengths, 64)
    assert sorted(i for line in lines for i in line) == list(range(40))
    assert max(sum(lengths[i] for i in line) for line in lines) <= 64
    least = -(-sum(lengths) // 64)
    assert least <= len(lines) <= 1.3 * least + 1, "best fit is at most 1.22 of the least, and one"


def test_the_line_with_the_least_room_is_taken() -> None:
    assert best_fit([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]
    assert best_fit([5, 5, 5], 5) == [[0], [1], [2]]


def test_places_point_before_the_trained_tokens() -> None:
    ids = [np.array([5, 6, 7]), np.array([8, 9, 10, 11]), np.array([12, 13])]
    trained = [np.array([True, False, True]), np.array([False, True, False, True]), np.array([False, True])]
    batch = in_lines(ids, trained, 0, 5)
    assert batch.answers is not None and batch.packed and batch.attention is None
    assert batch.ids.tolist() == [[8, 9, 10, 11, 0], [5, 6, 7, 12, 13]]
    assert batch.positions is not None and batch.positions.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    assert batch.mask.tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert batch.answers.tolist() == [7, 9, 11, 13], "the first token of a row has nothing before it"
    assert batch.ids.flatten()[batch.places].tolist() == [6, 8, 10, 12]
    assert batch.row.tolist() == [0, 1, 1, 2]
    assert batch.sums(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [1.0, 5.0, 4.0]


def test_one_row_per_line_has_a_mask() -> None:
    batch = in_lines([np.array([5, 6]), np.array([7, 8, 9])], [np.array([False, True]), np.ones(3, bool)], 3, None)
    assert batch.ids.tolist() == [[5, 6, 3], [7, 8, 9]]
    assert batch.attention is not None and batch.attention.tolist() == [[1, 1, 0], [1, 1, 1]]
    moved = batch.to(torch.device("cpu"))
    assert type(moved) is type(batch) and moved.rows == 2
