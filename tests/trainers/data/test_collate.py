"""Ways to put rows together: each passes the same tests, a packed one too, which exists only here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_models import tiny, tokenizer
from trainers.data.batching import epoch_batches
from trainers.data.collate import Batch, Collate, Padded
from trainers.methods.oa.layers import attach, detach
from trainers.methods.targets import match_modules
from trainers.models.causal import Causal
from trainers.models.tokens import TokenIds, TokenizedSplit, TokenizedTask
from trainers.objectives.classification import Classification
from trainers.training.second_moments import second_moments

TEXTS = [[7, 9, 5], [8], [6, 6, 7, 9, 4, 3], [5, 4], [9, 9, 9, 2, 1, 1, 3]]
ANSWERS = [[11, 102], [12, 13, 14, 102], [15, 102], [102], [16, 17, 102]]
ROWS = [text + answer for text, answer in zip(TEXTS, ANSWERS, strict=True)]
LENGTHS = np.array([3, 1, 6, 2, 7] * 30)

pytestmark = pytest.mark.usefixtures("one_process")


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedBatch(Batch):
    """All rows in one line; `row_A` has the row of each answer token."""

    row_A: Tensor

    @property
    def attention(self) -> None:
        """None: the model sees where a row begins from the positions, which start anew there."""

    def sums(self, values_BA: Tensor) -> Tensor:
        return values_BA.new_zeros(int(self.row_A.max()) + 1).index_add(0, self.row_A, values_BA.flatten())


class Packed:
    """For decoders: rows end to end, without padding."""

    def batches(self, lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
        return epoch_batches(lengths, size, seed, epoch)

    def __call__(
        self, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]] = (), *, pad_id: int, left: bool = False
    ) -> Batch:
        ends = np.cumsum([len(row) for row in rows])
        keep = [np.arange(end - len(answer), end) - 1 for end, answer in zip(ends, answers, strict=True)]
        answer_ids = torch.tensor([[token for answer in answers for token in answer]])
        return PackedBatch(
            ids=torch.tensor([[token for row in rows for token in row]]),
            mask=torch.ones(1, int(ends[-1]), dtype=torch.int64),
            positions=torch.tensor([[place for row in rows for place in range(len(row))]]),
            answers=answer_ids,
            answers_mask=torch.ones_like(answer_ids),
            keep=torch.from_numpy(np.concatenate(keep)),
            row_A=torch.tensor([row for row, answer in enumerate(answers) for _ in answer]),
        )


WAYS: dict[str, Collate] = {"padded": Padded(), "rounded": Padded(8), "packed": Packed()}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@cache
def base() -> Causal:
    """Weights enlarged, since those at initialisation answer everything alike."""
    model = tiny("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return Causal(model, tokenizer(), 64, "digest")


@every_way
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(way: Collate) -> None:
    epochs = [way.batches(LENGTHS, 8, 3, epoch) for epoch in (0, 1)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
        assert max(map(len, batches)) <= 8
    orders = [np.concatenate(batches).tolist() for batches in epochs]
    assert orders[0] != orders[1]
    assert orders[0] == np.concatenate(way.batches(LENGTHS, 8, 3, 0)).tolist()
    assert orders[0] != np.concatenate(way.batches(LENGTHS, 8, 4, 0)).tolist()


@every_way
def test_a_batch_holds_the_tokens_of_its_rows_in_order(way: Collate) -> None:
    batch = way(ROWS, ANSWERS, pad_id=0, left=True).to(torch.device("cpu"))
    assert batch.answers is not None and batch.answers_mask is not None
    assert batch.ids[batch.mask == 1].tolist() == [token for row in ROWS for token in row]
    assert batch.answers[batch.answers_mask == 1].tolist() == [token for answer in ANSWERS for token in answer]
    counted = batch.sums(torch.ones(batch.answers.shape))
    assert counted.tolist() == list(map(len, ANSWERS))


@every_way
def test_losses_and_gradients_are_those_of_rows_alone(way: Collate) -> None:
    bone = base()
    parameters = list(bone.model.parameters())
    other = replace(bone, collate=way)
    losses = other.answer_losses(other.answer_batch(TEXTS, ANSWERS))
    alone = torch.cat(
        [bone.answer_losses(bone.answer_batch([t], [a])) for t, a in zip(TEXTS, ANSWERS, strict=True)]
    )  # fmt: skip
    torch.testing.assert_close(losses, alone, rtol=1e-5, atol=1e-5)
    found, expected = (torch.autograd.grad(each.sum(), parameters) for each in (losses, alone))
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max()))


@every_way
def test_second_moments_are_those_of_real_tokens(way: Collate) -> None:
    """Of several rows at once; answers are words, so that the split is a task's."""
    bone = replace(base(), collate=way)
    texts = TokenizedSplit(TokenIds.of(TEXTS), np.array([0, 1, 2, 1, 0]))
    split = Classification().encode(bone, TokenizedTask("t", ("yes", "no not so", "maybe"), {"train": texts}))["train"]
    modules = match_modules(bone.model, ["o_proj", "down_proj"])
    attach(modules)
    try:
        alone, together = (second_moments(bone, modules, split, size) for size in (1, 4))
    finally:
        detach(modules)
    for name, moment_DD in alone.items():
        torch.testing.assert_close(together[name], moment_DD, rtol=1e-4, atol=1e-4 * float(moment_DD.abs().max()))


def test_padding_is_on_the_side_that_is_asked_for() -> None:
    right, left = (Padded()([[5, 6], [7]], pad_id=9, left=side) for side in (False, True))
    assert right.ids.tolist() == [[5, 6], [7, 9]] and right.mask.tolist() == [[1, 1], [1, 0]]
    assert left.ids.tolist() == [[5, 6], [9, 7]] and left.mask.tolist() == [[1, 1], [0, 1]]
    assert Padded(4)([[5] * 5], pad_id=9).ids.shape == (1, 8)
