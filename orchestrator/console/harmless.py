"""Consoles that what they show cannot harm: it may come from a log that others write."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from cluster.words import printable


def plain_console(width: int | None = None) -> Console:
    """A console of plain text without wrapping, whose control characters are shown as escapes."""
    console = Console(highlight=False, soft_wrap=True, width=width)
    console.push_render_hook(_Harmless())
    return console


class _Harmless(RenderHook):
    """Puts everything that is printed into a `_Shown`."""

    def process_renderables(self, renderables: Sequence[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(each) for each in renderables]


class _Shown:
    """Something to print, with escapes in the place of the control characters of its texts; rich's own stay."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)
