"""Parts of a run that a screen shows, and layers of a kind as one row."""

from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.console.views import ALL, MOST_LAYERS, View, kinds

LAYERS = [f"model.layers.{number}.{part}" for number in range(20) for part in ("mlp.up", "attn.q")]


def test_tasks(fake_run: Any) -> None:
    run = fake_run("a", "weather", "c")
    for _ in "ab":
        run.commit([0.5, 0.5, 0.5])
    assert ALL.indices(run.state) == [0, 1, 2] and View(["c", "a"]).indices(run.state) == [0, 2]
    assert [commit.task for commit in View(["weather", "c"]).commits(run.state)] == ["weather"]
    with pytest.raises(ConfigError, match=r"--task 'wether': default/stream has no such task; did you mean 'weather'"):
        View(["wether"]).indices(run.state)


def test_layers() -> None:
    assert View(module="layers.3.").layers(LAYERS) == ["model.layers.3.mlp.up", "model.layers.3.attn.q"]
    assert View(module="*.1?.attn.q").layers(LAYERS) == [f"model.layers.{n}.attn.q" for n in range(10, 20)]
    assert ALL.layers(["x", "x"]) == ["x"] and View(module="a").layers([]) == []
    with pytest.raises(
        ConfigError, match=r"--module 'key': no adapted layer is called so; one is model\.layers\.0\.mlp\.up"
    ):
        View(module="key").layers(LAYERS)


def test_rows_of_a_table() -> None:
    few = LAYERS[:MOST_LAYERS]
    assert ALL.rows(few) == {name: [name] for name in few}
    assert ALL.rows(LAYERS) == {
        "model.layers.*.mlp.up (×20)": LAYERS[::2], "model.layers.*.attn.q (×20)": LAYERS[1::2],
    }  # fmt: skip
    assert [*View(module="layers.3.").rows(LAYERS)] == LAYERS[6:8]


def test_kinds() -> None:
    assert kinds(["h.0.c_fc2", "h.1.c_fc2", "0.x", "head"]) == {
        "h.*.c_fc2 (×2)": ["h.0.c_fc2", "h.1.c_fc2"], "0.x": ["0.x"], "head": ["head"],
    }  # fmt: skip
