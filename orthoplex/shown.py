"""What `orthoplex` gives back, with a form for notebooks: the screens of the command line, as HTML."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from orchestrator.registry.catalog import Row
from orchestrator.track.state import RunState

V = TypeVar("V")


def as_html(show: Callable[[], None]) -> str:
    """The HTML of what `show` prints, with lines as they are and tables as tables. A screen knows no notebook."""
    from orchestrator.console.html import Page
    from orchestrator.console.screen import out, screens_on

    page, in_notebook = Page(), out.is_jupyter
    out.is_jupyter = False
    try:
        with screens_on(page):
            show()
    finally:
        out.is_jupyter = in_notebook
    return page.html


def of(kind: type[V], value: Any, **more: Any) -> V:
    """A record with the fields of another, as `kind`, which has the fields in `more` too."""
    return kind(**{field.name: getattr(value, field.name) for field in fields(value)}, **more)


class Run(RunState):
    """Where a run stands."""

    def _repr_html_(self) -> str:
        from orchestrator.console.run import print_status

        return as_html(lambda: print_status(self))


class Listing(list[Row]):
    """Adapters of a store."""

    def _repr_html_(self) -> str:
        from rich.markup import escape
        from rich.table import Table

        from orchestrator.console.html import table_html
        from orchestrator.console.scores import nats, number, percent

        table = Table("adapter", "task", title=f"{len(self)} adapters")
        for title in ("AA, points", "nll", "parameters"):
            table.add_column(title, justify="right")
        for title in ("committed", "aliases"):
            table.add_column(title)
        for row in self:
            measured = (
                percent(row["average_accuracy"]), nats(row["average_nll"]), number(row["active_parameters"], ",.0f")
            )  # fmt: skip
            table.add_row(
                *map(escape, (row["ref"], row["task"], *measured, row["committed_at"], ", ".join(row["aliases"])))
            )
        return table_html(table)
