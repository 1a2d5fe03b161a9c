from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import results
from benchmarks.methods.fill import Filling
from benchmarks.methods.plan import Asked, Cell, cell, grid
from tests.support.method_cells import line, made_plan


class FakeSlot:
    def __init__(self) -> None:
        self.cell: Cell | None = None

    def begin(self, cell: Cell) -> None:
        self.cell = cell


class FakeSlots:
    """Two slots that end their cells at once; cells in `broken` fail, and after `most` cells the command is killed."""

    def __init__(self, broken: tuple[str, ...] = (), most: int = 100) -> None:
        self.slots, self.broken, self.most = [FakeSlot(), FakeSlot()], broken, most
        self.began: list[Cell] = []
        self.left = False

    @property
    def busy(self) -> list[FakeSlot]:
        return [slot for slot in self.slots if slot.cell]

    def free(self) -> FakeSlot | None:
        return next((slot for slot in self.slots if not slot.cell), None)

    def ended(self, timeout_s: float) -> Iterator[tuple[Cell, dict[str, Any]]]:
        for slot in self.busy:
            cell, slot.cell = slot.cell, None
            assert cell is not None
            if len(self.began) == self.most:
                raise KeyboardInterrupt
            self.began.append(cell)
            last = (0.5, 0.75) if cell.values.get("train.learning_rate") == 0.2 else (0.5, 0.5)
            yield cell, {**cell.named(), "error": "broken"} if cell.method in self.broken else line(cell, last)

    def end(self) -> None:
        self.left = True


def filled(path: Path, slots: FakeSlots, **more: Any) -> tuple[list[str], list[str]]:
    said: list[str] = []
    filling = Filling(
        plan=made_plan(), path=path, slots=slots, work=path.parent, asked=Asked(), say=said.append, **more
    )  # type: ignore[arg-type]
    filling.run()
    assert slots.left
    return [f"{cell.method}/{cell.stream}/{cell.seed}" for cell in slots.began], said


def test_every_cell_is_measured_once_tuning_first_then_long_ones(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    began, said = filled(path, FakeSlots())
    assert began[:2] == ["rival/ab/0"] * 2 and began[2:4] == ["ours/ba/0", "ours/ba/1"]
    assert len(began) == len({*began}) + 1 == 2 + 4 + 1 + 1
    assert sum("chosen" in each for each in said) == 1 and any("tried" in each for each in said)
    (chosen,) = [each for each in results.read(path).values() if "chosen" in each]
    assert chosen["chosen"] == {"train.learning_rate": 0.2}
    assert filled(path, FakeSlots())[0] == []


def test_a_command_that_is_killed_loses_what_has_not_ended(tmp_path: Path) -> None:
    path, slots = tmp_path / "found.jsonl", FakeSlots(most=4)
    with pytest.raises(KeyboardInterrupt):
        filled(path, slots)
    assert slots.left
    first = [cell.key for cell in slots.began]
    assert [key for key in results.read(path) if not key.startswith("choice")] == first and len(first) == 4
    rest = FakeSlots()
    filled(path, rest)
    assert len(rest.began) == 4 and not {*first} & {cell.key for cell in rest.began}


def test_a_cell_that_fails_stands_in_the_file_and_is_not_tried_again_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    _, said = filled(path, FakeSlots(broken=("bound",)))
    assert "bound on ab, seed 0: failed: broken" in said
    assert filled(path, FakeSlots())[0] == []
    assert filled(path, FakeSlots(), retry=True)[0] == ["bound/ab/0"]


def test_no_cell_is_begun_that_would_not_end_in_time(tmp_path: Path) -> None:
    """60 s are left: cells of `ba` are reckoned to take 120 s, those of `ab` 60 s, and 12 s once one was measured."""
    began, _ = filled(tmp_path / "found.jsonl", FakeSlots(), minutes=1.1)
    assert {each.split("/")[1] for each in began} == {"ab"} and len(began) == len(grid(made_plan(), "rival")) + 3
    assert filled(tmp_path / "none.jsonl", FakeSlots(), minutes=0.0)[0] == []


def test_a_cell_that_was_begun_before_comes_first_and_whatever_the_time(tmp_path: Path) -> None:
    begun = cell(made_plan(), "ours", "ba", 1, {})
    (tmp_path / begun.name).mkdir()
    began, _ = filled(tmp_path / "found.jsonl", FakeSlots(), minutes=0.5)
    assert began == ["ours/ba/1", "ours/ba/0"]  # the second one since the first took 12 s
