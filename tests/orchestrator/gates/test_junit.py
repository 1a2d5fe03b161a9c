"""JUnit XML that parsers read, whatever stands in a name."""

from xml.etree import ElementTree as ET

from orchestrator.gates.junit import clean, junit
from orchestrator.gates.verdict import Verdict
from orchestrator.log.decision import Decision

BROKEN = Decision(rule="max_forgetting", subject="v2", bound=0.1, verdict="stop", reason='a < "b" & \x1b[31mred\x00')
OPEN = Decision(rule="min_average_accuracy", subject="v2", measured=0.5, bound=0.5, verdict="go_on", reason="open ±",
                limits=(0.4, 0.6))  # fmt: skip
HELD = Decision(rule="max_cost", subject="v2", measured=1.0, bound=2.0, verdict="go_on", reason="within")


def test_a_case_per_bound() -> None:
    verdict = Verdict(
        ref="default/s@v2", task="b", origin="rules.yaml", quarantined=True, decisions=(BROKEN, OPEN, HELD)
    )
    root = ET.fromstring(junit(verdict))
    assert root.tag == "testsuites" and (root.get("tests"), root.get("failures")) == ("3", "1")
    (suite,) = root
    assert {each.get("name"): each.get("value") for each in suite.iter("property")} == {
        "task": "b", "rules": "rules.yaml", "split": "validation", "quarantined": "true",
    }  # fmt: skip
    broken, open_, held = suite.iter("testcase")
    (failure,) = broken
    assert (broken.get("classname"), broken.get("name"), failure.tag) == ("default/s@v2", "max_forgetting", "failure")
    assert failure.text == failure.get("message") == 'a < "b" & \\x1b[31mred\\x00'
    assert [each.findtext("system-out") for each in (open_, held)] == ["unresolved: open ±", "within"]
    assert open_.find("failure") is None


def test_what_xml_lacks_is_escaped() -> None:
    assert clean("tab\tand 𝄞 \ud800 \ufffe \x07") == "tab\tand 𝄞 \\ud800 \\ufffe \\x07"
