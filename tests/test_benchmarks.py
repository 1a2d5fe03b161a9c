"""The benchmark scripts at a minuscule shape: what they run, keep and print. Never how long anything takes."""

import importlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from tests.support.command_line import HAS_MINILM
from tests.support.task_files import many, write_jsonl
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4, "vocab_size": 1000}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000,
}  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks.step_time` with minuscule shapes and one step of warm-up."""
    pytest.importorskip("peft")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    module = importlib.import_module("benchmarks.step_time")
    cells = importlib.import_module("benchmarks.step_cells")
    shapes = {
        "t5": cells.Shape(partial(cells.t5, **T5), *cells.T5_LAYERS, batch=2, length=16),
        "llama": cells.Shape(partial(cells.llama, **LLAMA), *cells.LLAMA_LAYERS, batch=2, length=16),
    }
    for name, shape in shapes.items():
        monkeypatch.setitem(module.SHAPES, name, shape)
    monkeypatch.setattr(module, "WARM_UP", 1)
    return module


def rows_of(table: str) -> dict[str, list[str]]:
    """Cell → the other columns of a Markdown table."""
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines() if "|" in line]
    return {first: rest for first, *rest in cells[2:]}


def test_a_finished_cell_is_not_run_again_and_keeps_the_ratios_of_its_own_command(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    first = rows_of(bench.run(["ours@1"], ["eager"], "t5", CPU, steps=1, path=path))
    assert list(first) == ["limit", "lora", "ours@1"]
    for mode, ms, tokens, _, to_limit, to_lora in first.values():
        assert mode == "eager" and float(ms) > 0 and float(tokens.replace(",", "")) > 0
        assert float(to_limit) > 0 and float(to_lora) > 0
    assert first["limit"][4] == first["lora"][5] == "1.000"

    ran = []

    def counted(cell: str, *_: Any) -> dict[str, float]:
        ran.append(cell)
        return {"ms": 1.0, "gib": 2.0}

    monkeypatch.setattr(bench, "run_cell", counted)
    assert rows_of(bench.run(["ours@1"], ["eager"], "t5", CPU, steps=1, path=path)) == first
    assert ran == []
    second = rows_of(bench.run(["ours@1", "forward"], ["eager"], "t5", CPU, steps=1, path=path))
    assert ran == ["limit", "lora", "forward"]
    assert second["ours@1"] == first["ours@1"]
    assert second["forward"] == second["limit"] == ["eager", "1.0", "32,000", "2.0", "1.000", "1.000"]


def test_a_failing_cell_stands_in_the_table_with_its_reason_and_is_tried_again(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room | none\nmore")

    path = tmp_path / "results.json"
    with monkeypatch.context() as patch:
        patch.setitem(bench.BUILDERS, "adalora", broken)
        rows = rows_of(bench.run(["adalora", "bank@1"], ["eager"], "t5", CPU, steps=1, path=path))
    assert rows["adalora"][:2] == ["eager", "OutOfMemoryError: no room / none"]
    assert float(rows["bank@1"][1]) > 0
    assert float(rows_of(bench.run(["adalora"], ["eager"], "t5", CPU, steps=1, path=path))["adalora"][1]) > 0


@pytest.mark.parametrize(
    ("name", "cells"),
    [("t5", ["forward", "adalora", "olora@15", "ours-concat@1"]), ("llama", ["adalora", "ours@0", "bank@15"])],
)
def test_every_kind_of_cell_runs(bench: Any, name: str, cells: list[str]) -> None:
    rows = rows_of(bench.run(cells, ["eager"], name, CPU, steps=1, path=None))
    assert list(rows) == ["limit", "lora", *cells]
    for cell, (_, ms, *_) in rows.items():
        assert ms.replace(".", "").isdigit(), f"{cell}: {ms}"


@pytest.mark.parametrize(("name", "cell", "graphs"), [("t5", "ours@15", 4), ("llama", "lora", 2)])
def test_compiled_blocks_share_their_code(
    bench: Any, name: str, cell: str, graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first block of an encoder, of a decoder or of both, and all others: no break, nothing layer by layer."""
    from torch._dynamo.utils import counters

    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda block, **options: compiled(block, backend="eager", **options))
    torch._dynamo.reset()
    counters.clear()
    step = bench.cell_step(cell, bench.Bench(bench.SHAPES[name], CPU, torch.float32, True))
    for _ in range(2):
        step()
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]
    torch._dynamo.reset()


def test_registry(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish and pull beside raw clients; a second command measures nothing again."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    module = importlib.import_module("benchmarks.registry")
    for name, value in {"SMALL_FILES": 5, "SMALL_BYTES": 200_000, "PUBLISHES": 3, "INDEX_EVERY": 10}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path))
    path = tmp_path / "results.json"
    table = module.run(s3_bucket, [1], 1, 30, path)
    rows, listed = rows_of(table.partition("| a track of")[0]), rows_of(table[table.index("| a track of") :])
    assert list(rows) == ["1 MB", "1,000 files of 4 KiB"]
    assert list(listed) == ["30 versions, none after the index", "38 versions, 8 after the index"]
    newest = [cells[0].partition(", ")[2] for cells in listed.values()]
    assert newest == ["2 requests"] * 2
    for publish, *there, to_fastest, pull, boto, managed, arrow, from_fastest in rows.values():
        rates = [*map(float, (publish, *there, pull, boto, managed, arrow))]
        assert min(rates) > 0
        for ratio in (to_fastest, from_fastest):
            assert float(ratio.strip("*")) > 0
    for name in ("compare", "publishes", "listing"):
        monkeypatch.setattr(module, name, None)
    assert module.run(s3_bucket, [1], 1, 30, path) == table


def test_rounding(tmp_path: Path) -> None:
    """Each way over a bfloat16 base and the float32 one, in a process of its own, since it makes a process group."""
    save_tiny("llama", tmp_path / "base")
    tasks = []
    for name, labels in (("first", "ab"), ("second", "cd")):
        rows = write_jsonl(tmp_path / f"{name}.jsonl", many(24, name, labels))
        tested = write_jsonl(tmp_path / f"{name}_test.jsonl", many(6, f"{name} test", labels))
        tasks.append({"name": name, "source": "files", "train": str(rows), "test": str(tested)})
    content = {
        "name": "rounding", "store": str(tmp_path / "store"), "tasks": tasks,
        "model": {"name": str(tmp_path / "base"), "task_type": "CAUSAL_LM", "max_length": 16},
        "adapter": {"target_modules": ["o_proj"], "max_rank": 2, "functional": {"weight": 0.0}},
        "train": {"epochs": 1, "batch_size": 12, "warmup_steps": 0}, "deepspeed": {"zero_stage": 0},
        "data": {"max_validation_rows": 4},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    words = ["--base", tmp_path / "run.yaml", "--rates", "1e-5", "--results", tmp_path / "found.json"]
    command = [sys.executable, "benchmarks/rounding.py", *words, "--set", "train.logging_steps=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    rows = {
        key.rpartition(", ")[2]: row for key, row in json.loads((tmp_path / "found.json").read_text())["rows"].items()
    }
    assert [*rows] == ["nearest", "stochastic", "none", "concatenated", "float32 base"]
    assert [*rows_of(printed.stdout)] == [f"1e-05, 0, {way}" for way in rows]
    assert rows["nearest"]["kept"] < 0.9 and rows["none"]["kept"] == rows["float32 base"]["kept"] == 1
    assert rows["none"]["MiB"] > rows["nearest"]["MiB"] and rows["none"]["host MiB"] == rows["nearest"]["host MiB"]
    for row in rows.values():
        assert 0 < row["change"] < 0.01 and 0 <= row["untrained"] <= 100 and 0 <= row["AA"] <= 100 and row["ms"] > 0


def test_steps_with_and_without_penalties_are_made_in_turn() -> None:
    """Every step in every round, in all orders; what is printed are ratios to the plain step of the same round."""
    from benchmarks.functional_cost import PENALTIES, WARM_UP, durations, row

    made: list[str] = []
    found = durations({name: partial(made.append, name) for name in PENALTIES}, 9)
    rounds = [made[start : start + 3] for start in range(0, len(made), 3)]
    assert len(rounds) == WARM_UP + 9 and all({*each} == {*PENALTIES} for each in rounds)
    assert len({tuple(each) for each in rounds}) == 6 and {len(times) for times in found.values()} == {9}
    times = {"none": [10.0, 20.0, 40.0], "functional": [11.0, 22.0, 44.0], "orthogonality": [5.0, 10.0, 20.0]}
    apart = {"none": [1.0, 2.0, 9.0], "functional": [1.5, 2.5, 9.5], "orthogonality": [1.0, 3.0, 11.0]}
    assert row(3, times, apart) == ["3", "20", "0.5", "1.100 (1.100 to 1.100)", "1.0", "0.500 (0.500 to 0.500)"]


@pytest.mark.skipif(not HAS_MINILM, reason="needs the `offline` extra")
@pytest.mark.parametrize("past", [0, 2])
def test_a_step_computes_the_penalty_that_it_is_named_after_alone(monkeypatch: pytest.MonkeyPatch, past: int) -> None:
    from benchmarks.functional_cost import PENALTIES, alone, step_of, targets_of
    from trainers.config import ModelConfig
    from trainers.methods.oa import bank
    from trainers.methods.oa.layers import attach
    from trainers.models.loading import load_backbone

    called: list[str] = []
    for key, name in (("functional_penalty", "functional"), ("penalty", "orthogonality")):
        right = getattr(bank, key)
        monkeypatch.setattr(bank, key, lambda *parts, right=right, name=name: [called.append(name), right(*parts)][1])
    backbone = load_backbone(ModelConfig(), CPU)
    attach(targets_of(backbone))
    for penalty in PENALTIES:
        step_of(penalty, backbone, 4, past)()
        alone(penalty, backbone, past)()
        assert called == ([penalty, penalty] if past and penalty != "none" else [])
        called.clear()
