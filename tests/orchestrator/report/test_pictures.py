"""Heat maps, lines and panels: what is written, contrast of colours, and values that were not measured."""

import re
from collections.abc import Sequence

import pytest
from matplotlib.colors import to_rgb

from orchestrator.report.pictures import Line, bars, heat_map, known, luminance, over_stream, panels, text_on
from orchestrator.report.svg import COLOURS

PAGES = {"light": "#ffffff", "dark": "#12161b"}
pytestmark = pytest.mark.usefixtures("drawn")


def texts(svg: str) -> list[str]:
    return [each for each in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if each.strip()]


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    low, high = sorted((luminance(*one), luminance(*other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_as_wcag_has_it() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast(to_rgb("#777777"), (1, 1, 1)) == pytest.approx(4.478, abs=1e-3)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("colour", COLOURS)
def test_lines_stand_out_from_the_page(colour: str, page: str) -> None:
    assert contrast(to_rgb(colour), to_rgb(PAGES[page])) >= 3  # WCAG 2.2, 1.4.11


def test_texts_of_cells_can_be_read_on_every_colour() -> None:
    import matplotlib as mpl

    for name in ("viridis", "magma", "cividis"):
        for place in range(256):
            rgb = mpl.colormaps[name](place)[:3]
            assert contrast(to_rgb(text_on(rgb)), rgb) >= 4.5


def test_a_heat_map() -> None:
    svg = heat_map(
        "m", [[0.5, None], [0.0, 1.0]], ["one", "two"], ["a", "<b>"], texts=[["50", ""], ["0", "100"]],
        outlined=[(0, 0)], scale="share",
    )  # fmt: skip
    found = texts(svg)
    assert {"50", "0", "100", "one", "two", "a", "&lt;b&gt;", "share"} <= {*found}
    assert found.index("one") < found.index("two")


def test_a_large_heat_map_has_no_texts_and_stays_small() -> None:
    values = [[0.5] * 30 for _ in range(240)]
    svg = heat_map("m", values, ["layer"] * 240, ["task"] * 30, texts=[["7/16"] * 30] * 240)
    assert "7/16" not in svg and len(svg) < 400_000


def test_lines_over_a_stream() -> None:
    line = Line("AA", [None, 50.0, 60.0], [None, 2.0, None], dashed=[(3, 60.0), (4, 70.0)])
    svg = over_stream("s", [[line]], ["a", "b", "c", "d"], "points", bound=("most", 90.0))
    assert {"AA", "most", "points", "a", "d"} <= {*texts(svg)} and "nan" not in svg
    assert known(line) == ([2, 3], [50.0, 60.0])


def test_names_that_would_touch_are_slanted() -> None:
    assert "rotate(-40" not in over_stream("s", [[Line("AA", [1.0, 2.0])]], ["a", "b"], "points")
    assert "rotate(-40" in over_stream("s", [[Line("AA", [1.0] * 9)]], ["a long name"] * 9 + ["n" * 13], "points")


def test_panels() -> None:
    lines = [Line(name, [None] * place + [50.0] * (7 - place), [None] * 7) for place, name in enumerate("abcdefg")]
    found = texts(panels("p", lines, "points", [20.0, *[None] * 6]))
    assert [each for each in found if each in [*"abcdefg"]] == [*"abcdefg"]


def test_stacked_bars() -> None:
    found = texts(bars("b", {"training": [1.0, None], "evaluation": [2.0, 3.0]}, ["a", "b"], "seconds"))
    assert {"training", "evaluation", "a", "b", "seconds"} <= {*found}
