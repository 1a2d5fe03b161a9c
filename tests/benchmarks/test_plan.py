from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.methods.plan import (
    PLAN,
    Asked,
    Cell,
    Plan,
    cell,
    cells,
    choice,
    estimate_s,
    grid,
    missing,
    nested,
    places,
    read_plan,
)
from cluster.errors import ConfigError
from tests.support.method_cells import line, made_plan


def tuned(plan: Plan, *scores: float) -> dict[str, Any]:
    made = [line(each, (0.5, 0.5), validation=score) for each, score in zip(grid(plan, "rival"), scores, strict=True)]
    return {each["key"]: each for each in made}


def test_settings_are_merged_and_later_ones_win() -> None:
    plan = made_plan()
    found = cell(plan, "rival", "ba", 3, {"train.learning_rate": 0.5}).config()
    assert (found.train.epochs, found.train.min_steps, found.train.seed, found.train.learning_rate) == (3, 5, 3, 0.5)
    assert found.adapter.method == "lora" and found.adapter.target_modules == ["output.dense"]
    assert [task.name for task in found.tasks] == ["b", "a"]
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_a_key_tells_cells_apart_by_what_is_written() -> None:
    plan = made_plan()
    one = cell(plan, "ours", "ab", 0, {})
    assert one.key == cell(made_plan(), "ours", "ab", 0, {}).key
    others = [cell(plan, *rest) for rest in (("ours", "ab", 1, {}), ("ours", "ba", 0, {}), ("bound", "ab", 0, {}))]
    others.append(cell(plan, "ours", "ab", 0, {"train.learning_rate": 0.5}))
    assert one.key == cell(made_plan(common={**plan.common, "evaluate": {"every": 2}}), "ours", "ab", 0, {}).key
    others.append(cell(made_plan(common={"model": {"name": "minilm"}, "train": {"epochs": 4}}), "ours", "ab", 0, {}))
    assert len({one.key, *(each.key for each in others)}) == 6


def test_what_is_assumed_of_defaults_stands_below_all_and_makes_no_new_cell() -> None:
    plan = made_plan()
    ours = plan.methods["ours"].model_copy(update={"assumed": {"train": {"epochs": 9, "batch_size": 7}}})
    assumed = cell(plan.model_copy(update={"methods": {**plan.methods, "ours": ours}}), "ours", "ab", 0, {})
    assert assumed.key == cell(plan, "ours", "ab", 0, {}).key
    assert (assumed.config().train.epochs, assumed.config().train.batch_size) == (3, 7)


def test_a_cell_waits_for_tuning_and_takes_what_was_best_on_validation() -> None:
    plan = made_plan()
    first = missing(plan, {})
    assert [each.key for each in first.ready[:2]] == [each.key for each in grid(plan, "rival")]
    assert first.waiting == [("rival", "ab", 0), ("rival", "ba", 0)] and len(first.ready) == 2 + 4 + 1
    lines = tuned(plan, 0.25, 0.75)
    found = choice(plan, "rival", lines)
    assert found is not None and found.values == {"train.learning_rate": 0.2}
    assert found.line(plan)["tried"][0] == {"values": {"train.learning_rate": 0.1}, "validation_aa": 0.25}
    after = missing(plan, lines)
    assert after.waiting == [] and len(after.ready) == 4 + 1 + 1  # what was chosen is measured on `ab` already
    (rival,) = [each for each in after.ready if each.method == "rival"]
    assert (rival.stream, rival.config().train.learning_rate) == ("ba", 0.2)


def test_a_setting_that_failed_is_not_chosen_and_is_tried_again_if_asked() -> None:
    plan = made_plan()
    lines = tuned(plan, 0.25, 0.75)
    best = grid(plan, "rival")[1]
    lines[best.key] = {**best.named(), "error": "diverged"}
    found = choice(plan, "rival", lines)
    assert found is not None and found.values == {"train.learning_rate": 0.1}
    assert best not in missing(plan, lines).ready and best in missing(plan, lines, retry=True).ready
    lines[grid(plan, "rival")[0].key] = {**grid(plan, "rival")[0].named(), "error": "diverged"}
    assert choice(plan, "rival", lines) is None


def test_only_a_part_is_missing_if_only_that_is_asked_for() -> None:
    plan = made_plan()
    found = missing(plan, {}, Asked(methods=["ours"], streams=["ba"], seeds=[1]))
    assert [(each.method, each.stream, each.seed) for each in found.ready] == [("ours", "ba", 1)]
    assert [
        each for each in cells(plan, {}, Asked(streams=["ba"])) if isinstance(each, Cell) and each.method == "bound"
    ] == []


def test_what_this_version_does_not_know_is_told_and_not_run() -> None:
    plan = made_plan()
    unknown = plan.methods["bound"].model_copy(update={"settings": {"adapter": {"method": "nobody"}}})
    found = missing(plan.model_copy(update={"methods": {**plan.methods, "bound": unknown}}), {})
    ((faulty, reason),) = found.faulty
    assert faulty.method == "bound" and "nobody" in reason


def test_an_estimate_is_what_cells_of_the_stream_took_on_such_a_machine() -> None:
    plan = made_plan()
    lines = tuned(plan, 0.25, 0.75)
    assert estimate_s(plan, "ab", lines, gpu=False) == 12 and estimate_s(plan, "ab", lines, gpu=True) == 60
    assert estimate_s(plan, "ba", lines, gpu=False) == 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ours": "nobody"}, "ours: 'nobody' is not there; there are bound, ours, rival"),
        ({"tune_on": "cd"}, "tune_on: 'cd' is not there"),
        ({"colour": 1}, "colour: Extra inputs"),
    ],
)
def test_a_plan_that_names_what_is_not_there_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**made_plan().model_dump(mode="json"), **change}))
    with pytest.raises(ConfigError, match=message):
        read_plan(path)


def test_the_plan_that_ships_has_the_orders_that_it_says() -> None:
    plan = read_plan(PLAN)
    first = np.array(plan.streams["long1"].tasks)
    assert plan.streams["long2"].tasks == tuple(first[::-1])
    assert plan.streams["long3"].tasks == tuple(first[np.random.default_rng(0).permutation(14)])
    assert all(sorted(plan.streams[f"order{n}"].tasks) == ["agnews", "amazon", "dbpedia", "yelp"] for n in (1, 2, 3))
    assert sorted(plan.streams["long1"].tasks) == sorted(plan.tasks) and len(plan.streams["sixty"].tasks) == 60
    for method in plan.methods:
        for stream, seed in places(plan, method):
            assert cell(plan, method, stream, seed, {}).fault is None
