"""Who changed what, when and why; guards, decisions, lineage, environment, the log."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.storage import open_store
from orchestrator.config.run import RunConfig, load_config
from orchestrator.console.explained.layer import sentences
from orchestrator.registry.aliases import promote
from orchestrator.registry.references import find_track
from orchestrator.report.account import (
    account_sections,
    acts,
    changes,
    configuration,
    guards,
    lineage,
    log,
    per_layer,
    verdict,
)
from orchestrator.report.blocks import Grid, Verbatim, Words
from orchestrator.report.source import Source
from orchestrator.run.controller import Controller
from orchestrator.track.rules import PromotionRule, RulesLog, TeamRules
from tests.orchestrator.report.conftest import committed, source_of
from tests.support.fake_workers import FakeWorkers, Told, run_config

ROOT = Path(__file__).parents[3]


def told(source: Source) -> list[tuple[str, str]]:
    (grid,) = changes(source)
    assert isinstance(grid, Grid)
    return [(row[2], row[3]) for row in grid.rows]


def test_changes_by_people(tmp_path: Path, no_ray: None) -> None:
    store = tmp_path / "store"
    source = committed(store, ("a", "b"), guards={"max_forgetting": 0.5})
    promote(source.track, 1, alias="production", why="the first that is good enough")
    rules = TeamRules(promotion={"production": PromotionRule(max_forgetting=0.1)})
    RulesLog(source.track.store, "default").change(rules, expect=0, why="a bound for all")
    again = run_config(store, ("a", "b", "c"), guards={"max_forgetting": 0.25}, cost={"gpu_hour": 1.0})
    Controller(again, Told(), workers=FakeWorkers(again)).run()
    found = told(source_of(store))
    assert ("guards.max_forgetting: 0.5 → 0.25", "·") in found and ('tasks: ["a", "b"] → ["a", "b", "c"]', "·") in found
    (rule,) = ((what, why) for what, why in found if what.startswith("rules of the team: promotion.production"))
    assert '"max_forgetting": 0.1' in rule[0] and rule[1] == "a bound for all"
    assert any(what.startswith("production points to v1, by ") and "good enough" in what for what, _ in found)
    assert [what for what, _ in found if what.startswith("cost")] != []
    (grid,) = changes(source_of(store))
    assert isinstance(grid, Grid) and [row[0] for row in grid.rows] == sorted(row[0] for row in grid.rows)
    assert {row[1] for row in grid.rows} == {source.entries[0].actor}


def test_nobody_changed_anything(three: Source) -> None:
    assert [*changes(three)] == [] and [*acts(three.entries)] == []


def test_guards_with_what_they_judged(tmp_path: Path, no_ray: None) -> None:
    bounds, judged = guards(committed(tmp_path / "store", guards={"min_average_accuracy": 0.1}))
    assert isinstance(bounds, Grid) and bounds.rows == [["min_average_accuracy", "0.1"]]
    assert isinstance(judged, Grid) and [row[1] for row in judged.rows] == ["v1", "v2", "v3"]
    assert judged.rows[0][2:6] == ["guards.min_average_accuracy", "0.4", "0.1", "go on"]


def test_what_the_rows_cannot_resolve(tmp_path: Path, no_ray: None) -> None:
    bounds = {"max_forgetting": 0.05, "confidence": 0.95}
    source = committed(tmp_path / "store", guards=bounds, evaluate={"keep_rows": True})
    _, words, judged = guards(source)
    assert isinstance(words, Words) and words.lines[0].startswith(
        "guards.max_forgetting 0.05: the validation rows cannot"
    )
    assert isinstance(judged, Grid)
    assert [row[5] for row in judged.rows] == [verdict(each.decision) for each in source.state.decisions]


def test_no_guard(three: Source) -> None:
    assert [*guards(three)] == [Words(["No guard is set: nothing bounds forgetting, accuracy or size."])]


def test_lineage(three: Source) -> None:
    base, versions = lineage(three)
    assert isinstance(base, Grid) and isinstance(versions, Grid)
    assert [row[:2] for row in versions.rows] == [[f"default/stream@v{n}", name] for n, name in enumerate("abc", 1)]
    assert versions.rows[0][5] == three.state.commits[0].manifest_sha256
    assert ["sha256 of the base's weights", three.state.base_digest] in base.rows


def test_the_rest(three: Source) -> None:
    found = {section.name: section for section in account_sections(three)}
    assert [*found] == ["guards", "decisions", "modules", "changes", "lineage", "environment", "configuration", "log"]
    (text,) = found["configuration"].blocks
    assert isinstance(text, Verbatim) and "target_modules:" in text.text
    drivers, code = found["environment"].blocks
    assert isinstance(drivers, Grid) and isinstance(code, Grid) and "python" in drivers.rows[0][3]
    assert code.rows[0][0] == "v1, v2, v3"
    table: Any = log(three.entries)
    assert [row[0] for row in table.rows] == [f"{e.seq}" for e in three.entries if e.op != "renew"] and table.folded


def test_decisions_per_layer(three: Source) -> None:
    grid: Any = next(per_layer(three))
    assert grid.folded and [row[0] for row in grid.rows] == [*"aabbcc"]
    found = three.decisions[1]
    assert grid.rows[0][1:] == [found.lines[0].module, " ".join(sentences(found.of(found.lines[0].module)))]


@pytest.mark.parametrize("file", ["configs/quickstart.yaml", "configs/quickstart_llm.yaml", "tests/golden/run.yaml"])
def test_the_configuration_means_the_same_in_a_new_run(file: str) -> None:
    stored = load_config(ROOT / file).model_dump(mode="json")
    copied = yaml.safe_load(shown_of(stored))
    assert RunConfig.model_validate(copied) == RunConfig.stored(stored)


def test_the_configuration_of_a_golden_run_means_the_same() -> None:
    source = Source.of(find_track(open_store(str(ROOT / "tests" / "golden" / "store")), "golden/stream"))
    assert RunConfig.model_validate(yaml.safe_load(shown_of(source.state.config))) == source.config


def test_a_configuration_that_cannot_be_read_is_shown_as_stored() -> None:
    (block,) = configuration(None, {"of": "the future"})
    assert block == Verbatim("As stored; this version cannot read it", "of: the future\n")
    assert [*configuration(None, {})] == []


def shown_of(stored: Any) -> str:
    (block,) = configuration(RunConfig.stored(stored), stored)
    assert isinstance(block, Verbatim)
    return block.text
