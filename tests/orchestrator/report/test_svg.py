"""Pictures that can stand in a page: names as they are, no ids but those that are referred to, the page's own ink."""

import re
from xml.etree import ElementTree

import pytest

from orchestrator.report.svg import INK, label, new_figure, svg_of


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a  b\nc", "a b c"), ("\x1b[31m", "\\x1b[31m"), ("x" * 50, "x" * 39 + "…"), ("half \ud800", "half \\ud800"),
        ("\u202eabc", "\\u202eabc"), ("τ café", "τ café"),
    ],
)  # fmt: skip
def test_names(name: str, shown: str) -> None:
    assert label(name) == shown


@pytest.mark.filterwarnings("error")
def test_what_a_picture_holds(drawn: None) -> None:
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], label="$\\notmath{<b>")
    axes.pcolormesh([[1.0, 2.0]], rasterized=True)
    axes.set_title("漢字 & <script>")
    axes.legend()
    text = svg_of(figure, "here")
    root = ElementTree.fromstring(text)
    ids = {value for each in root.iter() if (value := each.get("id"))}
    asked = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    assert ids == asked != set() and all(each.startswith("here-") for each in ids)
    said = [each.text for each in root.iter() if each.tag.endswith("}text")]
    assert "$\\notmath{<b>" in said and "漢字 & <script>" in said
    assert not [each for each in root.iter() if each.tag.rpartition("}")[2] in ("style", "metadata", "script")]
    assert INK not in text and "currentColor" in text and 'href="data:image/png;base64,' in text
    assert root.get("viewBox") and root.get("width") is None and root.get("aria-hidden") == "true"
