"""The report of a run: its head, and all its sections in order."""

from collections.abc import Iterator

from orchestrator.console.notes import notes
from orchestrator.console.run import duration
from orchestrator.console.scores import ACCURACIES, LOSSES, half_shown
from orchestrator.console.story import second
from orchestrator.report.account import account_sections
from orchestrator.report.blocks import Page, Tile
from orchestrator.report.effort import effort_sections
from orchestrator.report.later import later_sections
from orchestrator.report.layers import layer_sections
from orchestrator.report.learned import kinds_of, learned_sections
from orchestrator.report.rows import row_sections
from orchestrator.report.source import Source
from orchestrator.track.events import skipped
from orchestrator.track.spending import spent
from orchestrator.track.state import RunState

PARTS = (learned_sections, layer_sections, effort_sections, later_sections, row_sections, account_sections)
HEAD = ("aa", "bwt", "forgetting", "nll", "nll_increase")


def run_page(source: Source) -> Page:
    """The report of a run. What could not be read is among its notes, and so is what `status` notes."""
    sections = [section for part in PARTS for section in part(source)]
    left_out = skipped(source.entries)
    return Page(
        title=source.state.label, status=source.state.status, lines=[*head_lines(source)],
        tiles=[*tiles(source.state)], sections=sections,
        notes=[*notes(source.state), *dict.fromkeys(source.faults), *([left_out] if left_out else [])],
    )  # fmt: skip


def head_lines(source: Source) -> Iterator[str]:
    """What the run is, and how its last driver left it."""
    state, config = source.state, source.config
    yield f"{state.learned} of {len(state.tasks)} tasks are learned."
    if config:
        yield f"Base {config.model.name}, method {config.adapter.method}."
        yield from (f"Earlier tasks are protected: {each}." for each in config.adapter.protects)
    if state.driving.told:
        yield f"{state.driving.told[0].upper()}{state.driving.told[1:]}"
    if state.driving.heard:
        yield f"Its driver was last heard of at {second(state.driving.heard.time)} UTC."


def tiles(state: RunState) -> Iterator[Tile]:
    """The figures that people ask for first."""
    halves = state.half_widths("test")
    for kind, _ in kinds_of(state) if state.learned else ():
        measured = state.metrics("test") if kind is ACCURACIES else state.loss_metrics("test")
        for key, title in kind.metrics.items():
            if key in HEAD and measured[key] is not None:
                half = half_shown(kind, measured[key], halves[key])
                name = title.partition(" (")[0] if kind is LOSSES else title
                yield Tile(name, kind.form(measured[key]), f"{half} {kind.unit}".strip())
    yield Tile("tasks learned", f"{state.learned}", f"of {len(state.tasks)}")
    if state.commits and state.active_parameters is not None:
        yield Tile("active parameters", f"{state.active_parameters:,}", "of all tasks")
    if taken := spent(state):
        yield Tile("training", duration(taken.train_s), f"and {duration(taken.evaluate_s)} of evaluation")
        if taken.money is not None:
            yield Tile("cost", f"{taken.money:,.2f}", f"{taken.currency}, {taken.gpu_hours:,.2f} GPU-hours")
