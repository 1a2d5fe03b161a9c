"""What a long stream costs in the store."""

from pathlib import Path

import pytest
import torch

from trainers.methods.base import Artifact
from trainers.methods.oa.artifact import ADAPTER_FILE, BASES_FILE, dump, extract, parse
from trainers.methods.oa.bank import ModuleState
from trainers.methods.oa.subspace import Basis

TASKS, RANK, WIDTH, HEADER_BYTES = 200, 5, 1024, 1024


@pytest.mark.slow
def test_200_tasks_cost_the_sum_of_their_ranks(tmp_path: Path) -> None:
    """Each adds its own r directions of 4·D bytes, and a singular value each: not the r·t of the history so far."""
    generator = torch.Generator().manual_seed(0)
    written, sizes = {"layer": Basis.empty(WIDTH)}, []
    for number in range(TASKS):
        w1, w2 = (torch.randn(shape, generator=generator) for shape in ((RANK, WIDTH), (WIDTH, RANK)))
        state = ModuleState(w1, w2, torch.ones(RANK), torch.ones(RANK), 0.0)
        folder = tmp_path / str(number)
        folder.mkdir()
        Artifact(dump(extract({"layer": state}, written, {}, {}, 0.95))).write(folder)
        stored = parse((folder / ADAPTER_FILE).read_bytes(), (folder / BASES_FILE).read_bytes())
        written = {"layer": written["layer"].joined(stored.written["layer"])}
        sizes.append((folder / BASES_FILE).stat().st_size)
    values = TASKS * RANK * (WIDTH + 1)
    assert 4 * values < sum(sizes) < 4 * values + TASKS * HEADER_BYTES
    assert max(sizes) - min(sizes) < 64  # the last is no larger than the first
    q_DH = written["layer"].columns_DH.double()
    assert q_DH.shape == (WIDTH, TASKS * RANK)
    torch.testing.assert_close(q_DH.T @ q_DH, torch.eye(TASKS * RANK, dtype=torch.float64), rtol=0, atol=1e-5)
