"""W1 from the task's own rows: the leading directions outside of P, the same on all ranks, and kept by a resume."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.support.oa_streams import WIDTH, bert, settings
from tests.support.readers import KnownReader
from trainers.config import TrainConfig
from trainers.method_config import AdapterConfig
from trainers.methods.base import TaskContext
from trainers.methods.oa.initial import directions
from trainers.methods.oa.method import OaAttached, OaMethod
from trainers.methods.oa.subspace import Basis


def moment(seed: int, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(100, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return h.T @ h


def test_directions_are_the_leading_ones_outside_of_p() -> None:
    """By the definition of eigenvectors, in float64."""
    c, p = moment(0), torch.linalg.qr(torch.randn(WIDTH, 7, generator=torch.Generator().manual_seed(1))).Q
    rows = directions(c, p, 5)
    assert rows.shape == (5, WIDTH)
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), rtol=0, atol=1e-5)
    assert float((rows @ p).abs().max()) < 1e-5
    keep = torch.eye(WIDTH, dtype=torch.float64) - p.double() @ p.double().T
    inside = keep @ c.double() @ keep
    values = torch.linalg.eigvalsh(inside).flip(0)
    for row, value in zip(rows.double(), values, strict=False):
        torch.testing.assert_close(inside @ row, value * row, rtol=1e-4, atol=1e-4 * float(values[0]))


@pytest.mark.parametrize(("c", "left"), [
    (moment(0), 2), (torch.zeros(WIDTH, WIDTH), 0), (torch.full((WIDTH, WIDTH), torch.nan), 0),
    (torch.ones(WIDTH, WIDTH), 1),
])  # fmt: skip
def test_there_are_no_more_than_the_task_has_outside_of_p(c: Tensor, left: int) -> None:
    p = torch.eye(WIDTH)[:, : WIDTH - 2]
    assert len(directions(c, p, 6)) == left


@dataclass
class OtherRank(KnownReader):
    """A rank that gets rank 0's bytes."""

    given: bytes = b""
    sent: list[bytes] = field(default_factory=list)

    def shared(self, data: bytes) -> bytes:
        self.sent.append(data)
        return self.given or data


def begun(config: AdapterConfig, reader: KnownReader, *, rank: int = 0, resumed: bool = False) -> OaAttached:
    """A task over a history that reads the first three axes."""
    method = OaMethod(bert(), config, torch.float32)
    method.reset(config)
    method.history.read = {name: Basis(torch.eye(WIDTH)[:, :3], torch.ones(3)) for name in method.modules}
    reader.moments = {name: moment(index) for index, name in enumerate(method.modules)}
    task = TaskContext(
        name="t", seed=3, steps=4, train=TrainConfig(), device=torch.device("cpu"), rank=rank, reader=reader,
        resumed=resumed,
    )  # fmt: skip
    attached = method.begin(task)
    assert isinstance(attached, OaAttached)
    return attached


@pytest.mark.parametrize("side", ["none", "both"])
@pytest.mark.parametrize("trained", [True, False])
def test_w1_starts_on_them_and_everything_else_as_drawn(side: str, trained: bool) -> None:
    reader, given = KnownReader(), {"orthogonality": {"side": side}, "train_down": trained}
    bank = begun(settings(**given, initial="task"), reader).bank
    p = torch.eye(WIDTH)[:, : 3 if side == "both" else 0]
    for row, name in enumerate(bank.groups[0].names):
        assert torch.equal(bank.W1_0[row], directions(moment(row), p, 6)), name
    drawn = begun(settings(**given), KnownReader()).bank
    assert torch.equal(bank.g_0, drawn.g_0) and not torch.equal(bank.W1_0, drawn.W1_0)
    assert reader.asked == 1 and ("W1_0" in dict(bank.named_parameters())) == trained
    assert ("W1_0" in bank.state_dict()) and not bank.state_dict().keys() - {"W1_0", "W2_0", "g_0", "tau_0"}


def test_without_a_reason_rows_are_not_read() -> None:
    resumed, drawn = KnownReader(), KnownReader()
    begun(settings(initial="task"), resumed, resumed=True)
    begun(settings(), drawn)
    assert (resumed.asked, drawn.asked) == (0, 0)


def test_all_ranks_start_from_what_rank_0_sent() -> None:
    """Another rank decomposes nothing, and reads all the same, since reading is collective."""
    first = OtherRank()
    expected = begun(settings(initial="task"), first).bank
    other = OtherRank(given=first.sent[0])
    found = begun(settings(initial="task"), other, rank=1).bank
    assert torch.equal(found.W1_0, expected.W1_0)
    assert other.sent == [b""] and other.asked == 1
