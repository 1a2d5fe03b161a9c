"""Figures are scraped from the endpoint that Ray's own metrics have; the dashboard asks for no other names."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from orchestrator.run.tracking import figures
from orchestrator.sinks.base import Sinks, Tracked
from orchestrator.sinks.prometheus import DONE, SAID, STATUS, Prometheus
from trainers.messages import Progress

RUN = Tracked(store="/s", team="blue", name="r")
SCRAPED_S = 60.0
DASHBOARD = Path(__file__).parents[3] / "cluster/deploy/grafana.json"
OF_STREAMS = {"aa", "forgetting", "guard_broken", DONE, STATUS}


def scraped() -> dict[str, dict[str, float]]:
    """Our metrics at the endpoint of this node: name, then labels as they are written, then value."""
    import ray

    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in re.findall(r"^(ray_orthoplex_\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE):
        kept = dict(re.findall(r'(\w+)="(.*?)"', labels))
        found.setdefault(name, {})["|".join(kept.get(key, "") for key in ("run", "task", "of"))] = float(value)
    return found


@pytest.mark.slow
def test_a_scrape_of_rays_endpoint(local_ray: None) -> None:
    said: list[str] = []
    following = Sinks({"prometheus": Prometheus}, said.append).start(RUN)
    following.log(figures(Progress(0, "train", 10, 20, 0.5, mean_rank=3.5, tokens_per_s=80.0)), step=10, task="a b")
    following.log({"aa/validation": 0.25, "guard_broken/max_forgetting": 1.0}, step=1)
    following.end("stopped", {})
    wanted = {
        "ray_orthoplex_loss": {"blue/r|a b|": 0.5}, "ray_orthoplex_mean_rank": {"blue/r|a b|": 3.5},
        "ray_orthoplex_tokens_per_s": {"blue/r|a b|": 80.0}, "ray_orthoplex_progress": {"blue/r|a b|": 0.5},
        "ray_orthoplex_aa": {"blue/r||validation": 0.25}, "ray_orthoplex_tasks_done": {"blue/r||": 1.0},
        "ray_orthoplex_guard_broken": {"blue/r||max_forgetting": 1.0}, "ray_orthoplex_ended": {"blue/r||stopped": 1.0},
    }  # fmt: skip
    deadline, found = time.monotonic() + SCRAPED_S, dict[str, dict[str, float]]()
    while found != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
        found = scraped()
    assert found == wanted and said == []


def test_without_ray_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    sink = Prometheus()
    sink.start(RUN)
    sink.log({"aa": 1.0}, step=1)
    sink.end("finished", {})


def test_the_dashboard_asks_for_what_is_told() -> None:
    """Each expression of each panel, but for what Ray says of its nodes; and every figure that matters has a panel."""
    content = json.loads(DASHBOARD.read_text())
    asked = {
        name
        for panel in content["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_orthoplex_(\w+)", target["expr"])
    }
    known = {*figures(Progress(0, "train", 1, 1)), *OF_STREAMS}
    assert asked <= known and {"loss", "functional", "mean_rank", "tokens_per_s", "gpu_bytes", "progress"} <= asked
    assert {DONE, "guard_broken", "aa"} <= asked and {*SAID} <= known
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
