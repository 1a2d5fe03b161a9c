"""A verdict as JUnit XML, which continuous integration shows: a test case per bound."""

from xml.etree import ElementTree as ET

from orchestrator.gates.verdict import Verdict
from orchestrator.log.decision import Decision


def junit(verdict: Verdict) -> str:
    """The XML of one suite. A bound that is broken is a failure; one that the rows cannot resolve passes, and says so
    in its output."""
    counts = {"tests": str(len(verdict.decisions)), "failures": str(len(verdict.broken)), "errors": "0", "skipped": "0"}
    root = ET.Element("testsuites", {"name": "orthoplex gate", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": clean(verdict.ref), **counts, "time": "0"})
    told = ET.SubElement(suite, "properties")
    for name, value in (
        ("task", verdict.task),
        ("rules", verdict.origin),
        ("split", verdict.split),
        ("quarantined", str(verdict.quarantined).lower()),
        *(("note", note) for note in verdict.notes),
    ):
        ET.SubElement(told, "property", {"name": name, "value": clean(value)})
    for decision in verdict.decisions:
        _case(suite, verdict.ref, decision)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(suite: ET.Element, ref: str, decision: Decision) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": clean(ref), "name": clean(decision.rule), "time": "0"})
    reason = clean(decision.reason)
    if decision.verdict == "stop":
        ET.SubElement(case, "failure", {"message": reason, "type": "bound"}).text = reason
    else:
        ET.SubElement(case, "system-out").text = f"{'unresolved: ' * decision.open}{reason}"


def clean(text: str) -> str:
    """The text without characters that XML 1.0 lacks: they become their escapes."""
    return "".join(each if _is_xml(ord(each)) else ascii(each)[1:-1] for each in text)


def _is_xml(code: int) -> bool:
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
