"""The parts of a report, before they are HTML: sections of facts, tables, pictures and texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.table import Table as RichTable

from orchestrator.console.html import plain

MOST_WORD = 50  # characters of a word that is not broken


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    lines: Sequence[str]
    kind: str = "words"


@dataclass(frozen=True)
class Verbatim:
    """A text whose lines and spaces stay, folded below its title."""

    title: str
    text: str
    kind: str = "verbatim"


@dataclass(frozen=True)
class Grid:
    """A table: its caption, the heads of its columns, rows as long as these, and the columns whose cells are numbers.
    The first cell of a row is its head. It is `folded` below its caption if it repeats a picture or is long."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    folded: bool = False
    kind: str = "grid"

    @property
    def cells(self) -> list[list[tuple[str, str]]]:
        """The rows, each cell with its kind: `number`, `long` if it is one long word, or empty."""
        kinds = ["number" if place in self.numeric else "" for place in range(len(self.heads))]
        return [
            [(cell, "long" if longest_word(cell) > MOST_WORD else kind) for cell, kind in zip(row, kinds, strict=True)]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Picture:
    """An SVG with the same in words: a name, and a sentence on what it shows. `table` has its numbers."""

    name: str
    says: str
    svg: str
    table: Grid | None = None
    kind: str = "picture"


Block = Words | Verbatim | Grid | Picture


@dataclass(frozen=True)
class Section:
    """A part of the page. `name` is its anchor. Without blocks, `nothing` says why."""

    name: str
    title: str
    blocks: Sequence[Block]
    nothing: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page, and what is known beside it."""

    title: str
    value: str
    beside: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    status: str
    lines: Sequence[str]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=tuple)


def longest_word(text: str) -> int:
    """The characters of the longest word."""
    return max(map(len, text.split()), default=0)


def grid_of(table: RichTable, *, folded: bool = False) -> Grid:
    """A table of a screen."""
    numeric = frozenset(place for place, column in enumerate(table.columns) if place and column.justify == "right")
    rows = zip(*([plain(cell).strip() for cell in column.cells] for column in table.columns), strict=True)
    return Grid(
        caption=plain(table.title or ""), heads=[plain(column.header).strip() for column in table.columns],
        rows=[list(row) for row in rows], numeric=numeric, folded=folded,
    )  # fmt: skip


def facts(caption: str, pairs: Iterable[tuple[str, str]]) -> Grid:
    """Names with their values."""
    return Grid(caption, ("what", "value"), [list(pair) for pair in pairs])


def stripped(lines: Iterable[str]) -> list[str]:
    """Lines of a screen without the spaces that put them below each other."""
    return [" ".join(line.split()) for line in lines]
