"""Pictures as SVG that can stand in a page: text stays text, nothing has an id of its own, and lines and letters have
the page's colour, so that one picture is for light and dark.

Names come from data. They are drawn as they are: no `$` begins a formula, and what cannot be shown is an escape.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from cluster.words import brief, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#b8480f", "#00795a", "#a3457c", "#7a6a00", "#5b5fc7")  # 3:1 or more on light and dark pages
INK = "#010203"  # becomes the page's own colour
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
REFERENCE = re.compile(r"url\(#([^)]+)\)")
MOST_LABEL = 40  # characters of a name in a picture
STYLE: dict[Any, Any] = {  # matplotlib has a type of all its keys
    "svg.fonttype": "none", "svg.hashsalt": "orthoplex", "text.parse_math": False, "text.color": INK,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "axes.titlecolor": INK, "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "grid.color": INK, "grid.alpha": 0.18, "grid.linewidth": 0.6,
}  # fmt: skip


@contextmanager
def drawing() -> Iterator[None]:
    """Figures that are made and written within the block have the style of reports."""
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    style = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts are used
        yield


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches, which nothing shows on a screen."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def label(name: str) -> str:
    """A name as a picture shows it: on one line, bounded, with escapes for what has no form."""
    return brief(printable(" ".join(name.split())), MOST_LABEL)


def svg_of(figure: "Figure", prefix: str) -> str:
    """The figure as an `svg` element. What it refers to within has ids that begin with `prefix`."""
    data = io.StringIO()
    figure.savefig(data, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(data.getvalue())
    for parent in [*root.iter()]:
        for child in [*parent]:
            if child.tag.rpartition("}")[2] in ("metadata", "style"):  # a style would hold for the whole page
                parent.remove(child)
    named(root, prefix)
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    text = ElementTree.tostring(root, encoding="unicode").replace(INK, "currentColor")
    return text.replace("stroke: #000000", "stroke: currentColor")  # letters in coloured cells stay black


def named(root: ElementTree.Element, prefix: str) -> None:
    """Takes away all ids but those that something refers to, which get the prefix."""
    link = f"{{{XLINK}}}href"
    used = {target[1:] for each in root.iter() if (target := each.get(link, "")).startswith("#")}
    used |= {found for each in root.iter() for value in each.attrib.values() for found in REFERENCE.findall(value)}
    for each in root.iter():
        if (own := each.attrib.pop("id", None)) in used and own is not None:
            each.set("id", f"{prefix}-{own}")
        for key, value in each.attrib.items():
            if key == link and value.startswith("#"):  # another is an image as data
                each.set(key, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                each.set(key, REFERENCE.sub(rf"url(#{prefix}-\1)", value))
