"""The layers of one task on a screen: as sentences over all, as rows of a table, and single ones in detail."""

from typing import Any

import pytest

from orchestrator.console.explained.task import print_task, shared_start
from orchestrator.console.views import View
from orchestrator.registry.decisions import Decided
from orchestrator.track.state import RunState
from trainers.lowrank_config import AdaloraConfig
from trainers.method_config import AdapterConfig, MethodConfig
from trainers.training.decisions import Facts

MANY = [f"model.layers.{number}.{part}" for number in range(150) for part in ("mlp.up", "attn.q")]
OA = AdapterConfig(target_modules=["a"], orthogonality={"side": "input"})  # type: ignore[arg-type]


def learned(run: Any, layers: list[str], rank: int | None = None) -> RunState:
    """A task whose layers chose `rank` of 4 dimensions; number i, from 0, i % 5 by default."""
    budget = {
        name: {"rank": i % 5 if rank is None else rank, "max_rank": 4, "tau": 0.25 if i % 2 else 0.75}
        for i, name in enumerate(layers)
    }
    files = {"version": 1, "prefix": "p", "manifest_sha256": "0" * 64, "stored_bytes": 1, "active_parameters": 1234}
    run.append("commit", {"task": "t", "index": 0, "budget": budget, "overlap": 0.5, **files})
    state: RunState = run.state
    return state


def decided(state: RunState, settings: MethodConfig = OA) -> Decided:
    """Dimensions that are off end 1/8 below τ, the others 1/8 above. Layer number i reads i of 1,000 directions."""
    (commit,) = state.commits
    log: dict[str, Any] = {"step": [10, 20, 30], "loss": [1.0, 0.5, 0.25]}
    for name, each in commit.budget.items():
        log |= {f"rank/{name}": [4, each.rank, each.rank]}
        if isinstance(settings, AdapterConfig):
            gates = [each.tau + (1 if d < each.rank else -1) * 0.125 for d in range(4)]
            log |= {f"tau/{name}": [0.2, 0.3, each.tau], f"g/{name}": [[1.0] * 4, gates, gates]}
    shares = {
        name: {"written": 0.0, "read": i / 1000, "free": 1000 - i, "dropped": 0.0}
        for i, name in enumerate(commit.budget)
    }
    facts = Facts(
        when=None, run="r", task="t", settings=settings, log=log, before={}, after=shares, earlier=0, overlaps={},
        budget={name: each.model_dump() for name, each in commit.budget.items()},
    )  # fmt: skip
    return Decided(commit=commit, recorded=True, lines=facts.decisions())


@pytest.fixture
def told(fake_run: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    def tell(layers: list[str], *, module: str | None = None, settings: Any = OA, rank: int | None = None) -> list[str]:
        state = learned(fake_run("t"), layers, rank)
        print_task(state, decided(state, settings), {}, View(module=module))
        return capsys.readouterr().out.splitlines()

    return tell


def test_kinds_of_many_layers_by_their_means(told: Any) -> None:
    """Layers are sorted by name, as they stand in commits. |g| of the median is that of a dimension that is off, in
    two layers of five, or on, in three; of four its nearest place is the third."""
    lines = told(MANY)
    assert lines[:2] == ["", "t (default/stream@v1)"] and lines[2:6] == [
        "  300 layers kept 2 of 4 dimensions on average, 0 to 4; 60 kept all, 60 none.",
        "  τ began at 0.200 and ended at 0.250 to 0.750; 600 of 1,200 dimensions ended with |g| at or below it, the "
        "last by step 30 of 30.",
        "  Protection: no task came before. Directions kept per layer, on average: written 0.0 → 0.0, read 0.0 → "
        "149.5.",
        f"  Room, least in {max(MANY)}: 30% of its width is read (max_occupancy 90%); 701 directions are free.",
    ]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "(×150)" in line]
    assert cells == [
        ["model.layers.*.attn.q (×150)", "4 → 2.0", "0.200 → 0.250", "0.275", "20"],
        ["model.layers.*.mlp.up (×150)", "4 → 2.0", "0.200 → 0.750", "0.775", "20"],
    ]
    assert "layers of a kind are one row" in lines[-3] and "of up to 6 layers" in lines[-2]
    assert lines[-1] == "  overlap with earlier tasks 50.00%, parameters 1,234"


def test_single_layers_in_detail(told: Any) -> None:
    lines = told(MANY, module="layers.7.")
    assert sum(" dimensions: τ began at" in line for line in lines) == 2
    assert sum("least |g|" in line for line in lines) == 2 and any("off: dimension" in line for line in lines)
    assert not any("on average" in line for line in lines)


def test_of_too_many_in_rows(told: Any) -> None:
    lines = told(MANY, module="*layers.7*.mlp.up")
    assert lines[2].startswith("  11 layers kept") and sum("│ model.layers.7" in line for line in lines) == 11


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        (4, "The budget did nothing: every layer kept all its dimensions, since τ went"),
        (0, "The budget switched everything off: no layer kept a dimension."), (3, ""),
    ],
)  # fmt: skip
def test_budgets_that_did_nothing(told: Any, rank: int, words: str) -> None:
    lines = told(MANY[:3], rank=rank)
    assert lines[2] == f"  3 layers kept {rank} of 4 dimensions each."
    assert [line for line in lines if "The budget" in line] == [line for line in lines if words and words in line]
    assert any("The budget" in line for line in lines) == bool(words)


def test_methods_without_a_threshold(told: Any) -> None:
    settings = AdaloraConfig(method="adalora", target_modules=["a"])
    lines = told(MANY[:3], settings=settings)
    assert lines[3].startswith("  the most important dimensions of all layers together stay, rank 8, initial_rank 12")
    row = next(line for line in lines if "layers.1.mlp.up" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [MANY[2], "4 → 2", "20"]


def test_methods_that_choose_nothing(fake_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    state = learned(fake_run("t"), MANY[:3])
    (commit,) = state.commits
    log = {"step": [10], **{f"norm/{name}": [0.5] for name in MANY[:3]}}
    print_task(state, Decided(commit=commit, recorded=False, lines=[]), log, View())
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "layers.1.mlp.up" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [MANY[2], "2", "0.500"]


def test_what_names_begin_with() -> None:
    assert shared_start(["encoder.layer.0.output.dense", "encoder.layer.10.output.dense"]) == "encoder.layer."
    assert shared_start(["a.b", "a.b.c"]) == "a." and shared_start(["a.b"]) == shared_start(["a", "b"]) == ""
