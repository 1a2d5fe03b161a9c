"""`orthoplex gate`, approvals and overrides on the command line."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.orchestrator.cli.conftest import Orthoplex

RULES = "min_average_accuracy: 0.99\nmax_active_parameters: 10000\n"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return path


def test_a_breach_is_exit_3_json_and_junit(orthoplex: Orthoplex, begun: Any, tmp_path: Path, rules: Path) -> None:
    report, store = tmp_path / "junit.xml", ("--store", begun.root)
    code, out, err = orthoplex("gate", "stream", "--rules", rules, "--junit", report, *store)
    assert code == 3 and err == "orthoplex: default/stream@v2 does not pass: 1 of 2 bounds are broken\n"
    assert "1 of 2 bounds are broken" in out and "\n  broken  AA of " in out and "\n  holds   " in out
    assert ET.parse(report).getroot().get("failures") == "1"
    code, out, _ = orthoplex("gate", "stream@v2", "--rules", rules, "--json", *store)
    found = json.loads(out)
    assert (code, found["passed"], found["rules"], found["ref"]) == (3, False, str(rules), "default/stream@v2")
    rules.write_text("max_active_parameters: 10000\n")
    code, out, err = orthoplex("gate", "stream", "--rules", rules, *store)
    assert json.loads(orthoplex("gate", "stream", "--rules", rules, "--json", *store).out)["split"] == "validation"
    assert (
        (code, err) == (0, "")
        and out.startswith("default/stream@v2 (b), by ")
        and ", on validation rows: passes\n" in out
    )


def test_confidence_without_rows_is_noted(orthoplex: Orthoplex, begun: Any, rules: Path) -> None:
    rules.write_text(f"confidence: 0.9\n{RULES}")
    out = orthoplex("gate", "stream", "--rules", rules, "--store", begun.root).out
    said = "confidence 0.9 is not used: min_average_accuracy compared plainly, since the run kept no scores of single"
    assert f"\n  note: {said}" in out
    out = orthoplex("gate", "stream", "--rules", rules, "--json", "--store", begun.root).out
    assert [each.startswith(said) for each in json.loads(out)["notes"]] == [True]


def test_bad_input(orthoplex: Orthoplex, begun: Any, tmp_path: Path, rules: Path) -> None:
    store = ("--store", begun.root)
    rules.write_text("max_forgeting: 0.1\nmin_average_accuracy: 7\n")
    code, _, err = orthoplex("gate", "stream", "--rules", rules, *store)
    assert (
        code == 2
        and "2 error(s) in the rules" in err
        and "max_forgeting: unknown key; did you mean 'max_forgetting'?" in err
    )
    assert "equal to 1; fractions: 0.07" in err
    rules.write_text("guards: {max_forgetting: 0.1}\nxyz: 1\n")
    _, _, err = orthoplex("gate", "stream", "--rules", rules, *store)
    assert "guards: unknown key; the keys of a rules file stand at its top" in err
    assert "xyz: unknown key; known here: min_average_accuracy, " in err
    code, _, err = orthoplex("gate", "stream", "--rules", tmp_path / "none.yaml", *store)
    assert code == 2 and "no such file; docs/operations.md" in err and "init" not in err
    code, _, err = orthoplex("gate", "stream", *store)
    assert code == 2 and "nothing is bounded by the run's own guards; name bounds with --rules FILE" in err
    rules.write_text(RULES)
    assert orthoplex("gate", "stream", "--rules", rules, "--alias", "x", *store)[0] == 2
    code, _, err = orthoplex("gate", "stream", "--rules", rules, "--junit", tmp_path / "no" / "x.xml", *store)
    assert code == 2 and "cannot be written" in err


def test_approval_and_override(orthoplex: Orthoplex, begun: Any, tmp_path: Path) -> None:
    store, rules = ("--store", begun.root), tmp_path / "team.yaml"
    rules.write_text("promotion: {production: {approval: true}}\n")
    assert orthoplex("adapters", "rules", "default", "--set", rules, *store)[0] == 0
    promote = ("adapters", "promote", "stream@v2", "--alias", "production", *store)
    code, _, err = orthoplex(*promote)
    assert code == 3 and "v2 is not approved by anybody yet" in err
    assert orthoplex("adapters", "request", "stream@v2", "--why", "please look", *store)[0] == 0
    assert "approval: pending by " in orthoplex("adapters", "show", "stream@v2", *store).out
    assert orthoplex("gate", "stream@v2", "--alias", "production", *store)[0] == 3
    assert orthoplex("adapters", "approve", "stream@v2", *store)[0] == 2  # no reason
    assert "is approved, says " in orthoplex("adapters", "approve", "stream@v2", "--why", "fine", *store).out
    shown = json.loads(orthoplex("adapters", "show", "stream@v2", "--json", *store).out)
    assert (shown["approval"]["state"], shown["approval"]["why"]) == ("approved", "fine")
    first, second = json.loads(orthoplex("adapters", "list", "--json", *store).out)
    assert "approval" not in first and second["approval"] == shown["approval"]
    assert orthoplex("adapters", "list", *store).out.splitlines()[1].endswith("  approved")
    assert orthoplex("gate", "stream@v2", "--alias", "production", *store)[0] == 0
    assert orthoplex(*promote)[0] == 0
    assert orthoplex("adapters", "reject", "stream@v1", "--why", "swears", *store)[0] == 0
    again = ("adapters", "promote", "stream@v1", "--alias", "production", *store)
    assert orthoplex(*again)[0] == 3
    out = orthoplex(*again, "--override", "--why", "must").out
    assert "set aside, as entry " in out and out.endswith(": approval\n")
    logs = orthoplex("logs", "stream", *store).out
    assert (
        "v2 approved, says " in logs
        and ": fine" in logs
        and "setting aside approval" in logs
        and "decided: override, since must" in logs
    )
