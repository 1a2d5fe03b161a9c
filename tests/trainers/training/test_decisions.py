"""Decisions per module: how a budget came about, what is protected, how much room is left; as they are stored."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import IntegrityError
from trainers.lowrank_config import AdaloraConfig, InfloraConfig
from trainers.method_config import AdapterConfig, LoraConfig, MethodConfig
from trainers.training.decisions import (
    MOST_SAMPLES,
    Course,
    Facts,
    ModuleDecision,
    as_json,
    evenly,
    quartiles,
    read_decisions,
    room,
    write_decisions,
)

TAUS = [0.5, 0.5, 0.75, 0.75]
GATES = [[1.0, -0.75, 0.25], [1.0, -0.5, 0.75], [1.0, -1.0, 0.75], [0.875, -1.0, 0.5]]
LOG = {
    "step": [10, 20, 30, 40], "loss": [2.0, 1.5, float("nan"), 1.0],
    "rank/a": [2, 2, 2, 2], "tau/a": TAUS, "g/a": GATES,
}  # fmt: skip
NOTHING, SHARES = ({"written": w, "read": r, "free": f, "dropped": 0.0} for w, r, f in ((0.0, 0.0, 8), (0.25, 0.5, 4)))


def facts(settings: MethodConfig | None = None, **changed: Any) -> Facts:
    given = {
        "when": "2026-01-01T00:00:00+00:00", "run": "team/run", "task": "t", "log": LOG, "earlier": 1,
        "functional": 0.125,
        "budget": {"a": {"rank": 2, "max_rank": 3, "tau": 0.75}}, "before": {"a": NOTHING}, "after": {"a": SHARES},
        "overlaps": {"a": 0.25}, "settings": settings or AdapterConfig(target_modules=["a"]),
    }  # fmt: skip
    return Facts(**{**given, **changed})


def found(settings: MethodConfig | None = None, **changed: Any) -> dict[str, ModuleDecision]:
    return {each.decision: each for each in facts(settings, **changed).decisions()}


def test_how_a_budget_came_about() -> None:
    """Dimension 2 was off at 10, on at 20, and off again from 30 on, where |g| = τ; dimension 1 came back."""
    budget = found()["budget"]
    assert budget.rule == "a dimension stays while |g| > τ" and budget.outcome == {
        "rank": 2, "max_rank": 3, "settled": 10,
    }  # fmt: skip
    assert budget.thresholds == {
        "threshold": 0.2, "budget_weight": 0.003, "min_rank": 0, "max_parameters": None, "tau": 0.75,
    }  # fmt: skip
    assert budget.inputs["g"] == [1.0, 0.875, 0.5] and budget.inputs["steps"] == 40
    assert budget.inputs["off"] == [
        {
            "dimension": 2,
            "step": 30,
            "after": 20,
            "g": 0.75,
            "tau": 0.75,
            "loss": pytest.approx(float("nan"), nan_ok=True),
        }
    ]
    assert budget.inputs["trajectory"][1] == {
        "step": 20, "loss": 1.5, "rank": 2, "tau": 0.5, "g": [0.5, 0.5, 0.75, 1.0, 1.0],
    }  # fmt: skip


def test_a_dimension_that_never_was_on() -> None:
    course = Course(steps=[5, 6], losses=[1.0, 1.0], ranks=[0, 0], taus=[0.5, 0.5], sizes=[[0.25], [0.5]])
    assert course.off() == [{"dimension": 0, "step": 5, "after": None, "g": 0.25, "tau": 0.5, "loss": 1.0}]


@pytest.mark.parametrize(("ranks", "step"), [([3, 3, 3, 3], 10), ([3, 2, 3, 2], 40), ([3, 3, 2, 2], 30)])
def test_the_step_at_which_a_rank_stood(ranks: list[int], step: int) -> None:
    assert Course(steps=[10, 20, 30, 40], losses=[1.0] * 4, ranks=ranks).settled == step


def test_the_floor_is_the_layers_own() -> None:
    settings = AdapterConfig(target_modules=["a"], min_rank=1, min_rank_pattern={"a": 2}, max_parameters=100)
    thresholds = found(settings)["budget"].thresholds
    assert thresholds["min_rank"] == 2 and thresholds["max_parameters"] == 100
    assert found(AdapterConfig(target_modules=["a"], min_rank_pattern={"b": 2}))["budget"].thresholds["min_rank"] == 0


def test_what_is_protected() -> None:
    ways: Any = {"side": "both", "weight": 0.5}
    settings = AdapterConfig(target_modules=["a"], orthogonality=ways)
    protection = found(settings)["protection"]
    assert protection.rule == "; ".join(settings.protects) and protection.thresholds["orthogonality"]["weight"] == 0.5
    assert protection.inputs == {
        "tasks": 1, "width": 8, "written": 0, "read": 0, "overlap": 0.25, "functional": 0.125,
    }  # fmt: skip
    assert protection.outcome == {"written": 2, "read": 4, "dropped": 0.0}


def test_widths_that_are_not_known() -> None:
    """Of a full layer in an old log; also without what was before."""
    full = {"written": 1.0, "read": 0.0, "free": 0, "dropped": 0.0}
    assert facts(before={}).width("a") == 8 and facts(after={"a": full}).width("a") == 8
    protection = found(before={}, after={"a": full})["protection"]
    assert protection.inputs["width"] is None and protection.outcome["written"] is None


@pytest.mark.parametrize(
    ("side", "changed", "verdict"),
    [
        ("both", {}, ("room", "read", 0.5)), ("output", {}, ("room", "written", 0.25)),
        ("none", {}, ("unbounded", None, None)), ("input", {"read": 1.0}, ("full", "read", 1.0)),
        ("input", {"read": 0.75}, ("above", "read", 0.75)), ("both", {"dropped": 0.5}, ("dropped", "read", 0.5)),
    ],
)  # fmt: skip
def test_how_much_room_is_left(side: Any, changed: dict[str, float], verdict: tuple[Any, ...]) -> None:
    ways: Any = {"side": side, "weight": 0.5, "max_occupancy": 0.625}
    settings = AdapterConfig(target_modules=["a"], orthogonality=ways)
    shares = {**SHARES, **changed}
    assert tuple(room(settings.orthogonality, shares).values()) == verdict
    assert found(settings, after={"a": shares})["capacity"].outcome["verdict"] == verdict[0]


def test_other_methods() -> None:
    """AdaLoRA chooses ranks without a threshold; InfLoRA keeps directions; LoRA decides nothing per module."""
    adalora = found(
        AdaloraConfig(method="adalora", target_modules=["a"]), log={**LOG, "tau/a": (), "g/a": ()}, after={}
    )
    assert [*adalora] == ["budget"] and adalora["budget"].thresholds["initial_rank"] == 12
    inputs = adalora["budget"].inputs
    assert inputs["off"] is inputs["g"] is None and [*inputs["trajectory"][0]] == ["step", "loss", "rank"]
    inflora = found(InfloraConfig(method="inflora", target_modules=["a"]))
    assert [*inflora] == ["protection"] and inflora["protection"].thresholds == {"energy": 0.995, "horizon": 15}
    assert found(LoraConfig(method="lora", target_modules=["a"]), after={}) == {}


def test_samples_of_a_long_course() -> None:
    assert evenly(3, 24) == [0, 1, 2] and evenly(1, 24) == [0] and evenly(0, 24) == []
    steps = [*range(10, 1010, 10)]
    course = Course(steps=steps, losses=[1.0] * 100, ranks=[1] * 100)
    sampled = [each["step"] for each in course.samples()]
    assert len({*sampled}) == MOST_SAMPLES and sampled[0] == 10 and sampled[-1] == 1000
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == [1.0, 2.0, 3.0, 4.0, 5.0] and quartiles([2.0]) == [2.0] * 5


def test_the_file_gives_them_back(tmp_path: Path) -> None:
    decisions = facts().decisions()
    write_decisions(tmp_path / "x", decisions)
    read = read_decisions((tmp_path / "x").read_bytes())
    assert len(read) == 3 and read[1:] == decisions[1:]
    assert read[0].inputs["off"][0]["loss"] is None  # NaN
    assert as_json({"x": [1 / 3, float("inf"), 7, "y"]}) == '{"x": [0.333333, null, 7, "y"]}'


@pytest.mark.parametrize("changed", [{"decision": "other"}, {"outcome": "[]"}, {"inputs": "{}"}, {"thresholds": "{"}])
def test_what_is_no_such_file(tmp_path: Path, changed: dict[str, str]) -> None:
    for data in (b"", b"PAR1"):
        with pytest.raises(IntegrityError, match=r"decisions\.parquet: is malformed"):
            read_decisions(data)
    write_decisions(tmp_path / "x", facts().decisions())
    lines = pq.read_table(tmp_path / "x").to_pylist()
    pq.write_table(pa.Table.from_pylist([{**lines[0], **changed}]), tmp_path / "x")
    with pytest.raises(IntegrityError, match="is malformed"):
        read_decisions((tmp_path / "x").read_bytes())
