from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import tables
from benchmarks.methods.figures import rows
from benchmarks.methods.plan import Plan, grid
from benchmarks.methods.report import report
from tests.support.method_cells import line, made_plan, put


@pytest.fixture
def plan() -> Plan:
    return made_plan()


def measured(plan: Plan) -> dict[str, Any]:
    """Ours with two seeds on both orders, the rival tuned and measured, no bound."""
    lines = {(made := line(each, (0.5, 0.5), validation=score))["key"]: made
             for each, score in zip(grid(plan, "rival"), (0.75, 0.25), strict=True)}  # fmt: skip
    for seed in (0, 1):
        put(lines, plan, f"ours/ab/{seed}", (0.5, 1.0))
        put(lines, plan, f"ours/ba/{seed}", (0.25, 0.75 + seed / 4), kept=300)
    put(lines, plan, "rival/ba/0", (0.25, 0.5), kept=1000)
    return lines


def cells(table: str) -> dict[str, dict[str, str]]:
    """Method → column → cell."""
    head, _, *body = [[part.strip() for part in each.strip("|").split("|")] for each in table.splitlines()]
    return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def test_the_table_has_means_over_cells_the_worst_order_and_what_is_kept(plan: Plan) -> None:
    found = cells(tables.table(plan, "pairs", measured(plan)))
    ours, rival = found["**Ours**"], found["Rival¹"]
    assert ours["AA"] == "**65.6**"  # the mean of 75, 75, 50, 62.5
    assert ours["worst order"] == "56.2 (ba)" and rival["worst order"] == "37.5 (ba)"
    assert (ours["kept"], ours["of O-LoRA"]) == ("400", "40.0%")  # the mean of 500 and 300, of 1,000
    assert (rival["kept"], rival["of O-LoRA"], rival["stored"], rival["training"]) == ("750", "75.0%", "2.0 MB", "10 s")
    assert (ours["dimensions"], ours["dead"]) == ("50.0%", "25.0%")
    assert ours["BWT"] == "−12.5" and ours["ours minus it"] == "–"
    assert "GPU peak" not in ours and "AA, union of labels" not in ours  # nothing was measured of it
    assert [*found] == ["**Ours**", "Rival¹"]


def test_the_difference_pairs_the_cells_that_both_have(plan: Plan) -> None:
    """Seed 0 of both orders: ours 75 and 50, the rival 50 and 37.5."""
    (_, rival, _) = rows(plan, "pairs", measured(plan))
    assert rival.difference is not None and (rival.difference.cells, rival.difference.seeds) == (2, 1)
    assert rival.difference.value == pytest.approx(0.1875) and rival.difference.low <= 0.1875 <= rival.difference.high


def test_what_was_not_measured_is_listed_and_never_filled_in(plan: Plan) -> None:
    lines = measured(plan)
    assert tables.absent(plan, lines) == "- bound on ab, seed 0: not measured"
    assert "Bound" not in tables.table(plan, "pairs", lines)
    some = {key: each for key, each in lines.items() if not key.startswith("ours/ba/1")}
    assert "**Ours** (3 of 4 cells)" in cells(tables.table(plan, "pairs", some))
    assert tables.table(plan, "pairs", {}) == "No cell of this table was measured yet."
    assert tables.absent(plan, {}).splitlines() == [
        "- rival on ab, seed 0 (2 settings): not measured", "- ours on ab, ba, seeds 0, 1: not measured",
        "- bound on ab, seed 0: not measured", "- rival on ab, ba, seed 0: waits for tuning",
    ]  # fmt: skip


def test_a_cell_that_failed_counts_as_failed(plan: Plan) -> None:
    lines = measured(plan)
    key = next(key for key in lines if key.startswith("ours/ba/1"))
    lines[key] = {name: lines[key][name] for name in ("key", "method", "stream", "seed", "values")} | {
        "error": "diverged"
    }
    assert "**Ours** (3 of 4 cells, 1 failed)" in cells(tables.table(plan, "pairs", lines))
    assert "- ours on ba, seed 1: failed: diverged" in tables.absent(plan, lines)


def test_the_page_is_made_from_the_lines_alone_and_has_pictures(plan: Plan, tmp_path: Path) -> None:
    lines, page = measured(plan), tmp_path / "results.md"
    found = grid(plan, "rival")[0]
    lines["choice/rival/x"] = {
        "key": "choice/rival/x", "method": "rival", "chosen": found.values,
        "tried": [{"values": found.values, "validation_aa": 0.75}, {"values": {}, "validation_aa": None}],
    }  # fmt: skip
    old = {**line(found, (0.5, 0.5)), "key": "rival/ab/0/old", "machine": "gone"}
    lines[old["key"]] = old
    text = report(plan, lines, page)
    assert "gone" not in text  # a cell of settings that are no longer asked for
    assert "- made, torch 2, transformers 5, DeepSpeed 0, commit abc, 2026-11-28, 1 at once: 7 cells" in text
    assert "| Rival | learning_rate 0.1 | learning_rate 0.1: 75.0; as written: failed |" in text
    assert "- ab: a, b\n- ba: b, a" in text and "- bound on ab, seed 0: not measured" in text
    pictures = sorted(tmp_path.rglob("*.svg"))
    assert [path.name for path in pictures] == [
        "pairs_course.svg",
        "pairs_frontier.svg",
        "pairs_parameters.svg",
        "pairs_tasks.svg",
    ]
    before = [path.read_bytes() for path in pictures]
    assert all(f"(results/{path.name})" in text for path in pictures) and all(b"Ours" in each for each in before)
    assert report(plan, lines, page) == text and [path.read_bytes() for path in pictures] == before


def test_a_page_of_nothing_says_so(plan: Plan, tmp_path: Path) -> None:
    text = report(plan, {}, tmp_path / "results.md")
    assert "- nothing yet" in text and "No method was tuned yet." in text and not [*tmp_path.rglob("*.svg")]
