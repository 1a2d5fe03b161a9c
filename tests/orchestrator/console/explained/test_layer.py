"""One layer in words: how its threshold moved, when dimensions fell, what is protected, how much room is left."""

from typing import Any

import pytest
from rich.console import Console

from orchestrator.console.explained.layer import sentences, switched_off, trajectory
from trainers.lowrank_config import AdaloraConfig
from trainers.method_config import AdapterConfig, MethodConfig
from trainers.training.decisions import Facts, ModuleDecision

GATES = [[1.0, -0.75, 0.25], [1.0, -0.5, 0.75], [1.0, -1.0, 0.75], [0.875, -1.0, 0.5]]
LOG = {
    "step": [10, 20, 30, 40], "loss": [2.0, 1.5, 1.25, 1.0], "rank/a": [2, 2, 2, 2], "tau/a": [0.5, 0.5, 0.75, 0.75],
    "g/a": GATES,
}  # fmt: skip
BEFORE = {"written": 0.125, "read": 0.0, "free": 7, "dropped": 0.0}
AFTER = {"written": 0.25, "read": 0.5, "free": 4, "dropped": 0.0}


def found(settings: MethodConfig | None = None, **changed: Any) -> dict[str, ModuleDecision]:
    given = {
        "when": None, "run": "team/run", "task": "t", "log": LOG, "earlier": 1, "overlaps": {"a": 0.25},
        "budget": {"a": {"rank": 2, "max_rank": 3, "tau": 0.75}}, "before": {"a": BEFORE}, "after": {"a": AFTER},
        "settings": settings or oa(),
    }  # fmt: skip
    return {each.decision: each for each in Facts(**{**given, **changed}).decisions()}


def oa(**keys: Any) -> AdapterConfig:
    return AdapterConfig(target_modules=["a"], **keys)


def told(*args: Any, **changed: Any) -> list[str]:
    return [*sentences(found(*args, **changed))]


def test_a_dimension_that_fell() -> None:
    assert told(oa(orthogonality={"side": "both", "weight": 0.5, "max_occupancy": 0.75})) == [
        "a kept 2 of 3 dimensions: τ began at 0.200 and ended at 0.750; 1 dimension had |g| at or below it, it fell "
        "after step 20 and by step 30 of 40, when the loss was 1.250.",
        "Protection: W2 by a penalty (orthogonality.weight 0.5); W1 exactly (orthogonality.side both, energy 0.95); "
        "outputs on earlier tasks by a penalty (functional.weight 10, metric loss). Directions kept of its 8: written "
        "1 → 2, read 0 → 4, by 2 tasks. 25.0% of what its adapter writes lies in what earlier tasks write.",
        "Room: 50% of its width is read (max_occupancy 75%); 4 directions are free.",
    ]
    assert switched_off(found()["budget"]) == "off: dimension 2 by step 30 (|g| 0.750, τ 0.750)"


@pytest.mark.parametrize(
    ("gates", "rank", "words"),
    [
        ([[1.0, 1.0, 1.0]] * 4, 3, "no |g| fell to it, the least is 1.000."),
        ([[1.0, 1.0, 1.0]] * 4, 2, "the least is 1.000; 1 dimension above it writes nothing yet."),
        ([[1.0, 0.25, 0.125]] * 4, 1, "2 dimensions had |g| at or below it, the last fell by step 10, the first that"),
    ],
)
def test_how_dimensions_fell(gates: list[list[float]], rank: int, words: str) -> None:
    (first, *_) = told(log={**LOG, "g/a": gates}, budget={"a": {"rank": rank, "max_rank": 3, "tau": 0.75}})
    assert words in first


def test_what_else_held_the_rank() -> None:
    (first, *_) = told(oa(min_rank=2, max_parameters=1000))
    assert first.endswith(
        "1.250. adapter.min_rank 2 let no more fall. This τ holds what adapter.max_parameters 1,000 adds to it."
    )


def test_of_a_first_task() -> None:
    _, second, third = told(before={"a": {**BEFORE, "written": 0.0, "free": 8}}, earlier=0)
    assert second == "Protection: no task came before. Directions kept of its 8: written 0 → 2, read 0 → 4, by 1 task."
    assert third == "Room: nothing bounds it, since adapters are kept out of no basis."


def test_full_layers_and_what_was_let_go_of() -> None:
    ways = oa(orthogonality={"side": "input", "max_occupancy": 0.5, "saturation": "drop"})
    for changed, words in (
        ({"read": 1.0, "free": 0}, "which leaves nothing to learn in; 0"), ({"dropped": 0.125}, "were let go of; 4"),
        ({"read": 0.75, "free": 2}, "which is above the bound; 2"),
    ):  # fmt: skip
        *_, second, third = told(ways, after={"a": {**AFTER, **changed}})
        assert f"{words} directions are free." in third
        assert ("12.50% of the written energy was let go of." in second) == ("dropped" in changed)
    (_, second, _) = told(ways, before={}, after={"a": {**AFTER, "read": 1.0, "free": 0}})
    assert second.endswith("; how many directions are kept is not recorded.")


def test_ranks_that_no_threshold_chose() -> None:
    settings = AdaloraConfig(method="adalora", target_modules=["a"])
    (only,) = told(settings, log={key: LOG[key] for key in ("step", "loss", "rank/a")}, after={})
    assert only == (
        "a kept 2 of 3 dimensions: the most important dimensions of all layers together stay, rank 8, initial_rank 12, "
        "initial_share 0.1, final_share 0.3, interval 1. Its rank stood from step 10 of 40 on."
    )


def test_the_trajectory_is_narrow() -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(trajectory(found()["budget"]))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 70
    assert [cell.strip() for cell in lines[3].split("│")[1:-1]] == [
        "10", "2.000", "0.500", "0.250", "0.750", "1.000", "2",
    ]  # fmt: skip
    many = {key: [value[0]] * 100 for key, value in LOG.items()} | {"step": [*range(100)]}
    assert trajectory(found(log=many)["budget"]).row_count == 10


def test_many_that_are_off() -> None:
    gates = [[1.0, 1.0, *([0.5] * 8)]] * 4
    off = switched_off(found(log={**LOG, "g/a": gates})["budget"])
    assert off is not None and off.startswith("off: dimension 4 by step 10 (") and off.count("; dimension ") == 5
    assert off.endswith("; and 2 before these")
    assert switched_off(found(log={**LOG, "g/a": [[1.0]] * 4})["budget"]) is None
