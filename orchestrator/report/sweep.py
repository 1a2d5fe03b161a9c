"""The report of a sweep: the front, its trials, what mattered, and what is recommended."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from pydantic import ValidationError

from cluster.errors import ConfigError, StoreError
from cluster.storage import Store
from orchestrator.console.sweep import trials_table
from orchestrator.log.chain import Log
from orchestrator.log.entry import Entry
from orchestrator.report.account import configuration, decided, drivers, log
from orchestrator.report.blocks import Block, Grid, Page, Picture, Section, Tile, Verbatim, Words, facts, grid_of
from orchestrator.report.pictures import WIDE
from orchestrator.report.rows import dropped_from
from orchestrator.report.svg import svg_of
from orchestrator.sweeps.choice import Choice
from orchestrator.sweeps.config import SweepConfig
from orchestrator.sweeps.events import KNOWN
from orchestrator.sweeps.results import RECOMMENDED, counts_of, drawn, how_it_stands, settings_of
from orchestrator.sweeps.space import shown_values
from orchestrator.sweeps.sweep_state import SweepState, replay_sweep
from orchestrator.track.events import skipped


def sweep_page(store: Store, sweep: Log) -> Page:
    """The report of a sweep. `sweep` is its log.

    Raises:
        ConfigError: this version cannot read the sweep's configuration.
    """
    entries = sweep.entries()
    state = replay_sweep(entries)
    config = stored_config(sweep.label, state)
    counts = counts_of([how_it_stands(trial, state.status)[0] for trial in state.trials])
    lines = [f"Trials: {counts or 'none ended'}.", *settings_of(config).splitlines()]
    lines += [f"{state.driving.told[0].upper()}{state.driving.told[1:]}"] if state.driving.told else []
    return Page(
        title=sweep.label, status=state.status, lines=lines, tiles=[*tiles(state)],
        sections=[*sections(store, config, state, entries)],
        notes=[left_out] if (left_out := skipped(entries, KNOWN)) else [],
    )  # fmt: skip


def stored_config(label: str, state: SweepState) -> SweepConfig:
    """The sweep's configuration. Raises ConfigError if there is none, or this version cannot read it."""
    try:
        return SweepConfig.stored(state.config)
    except ValidationError as error:
        raise ConfigError(f"{label}: its configuration cannot be read by this Orthoplex: {error}") from None


def tiles(state: SweepState) -> Iterator[Tile]:
    """The recommended trial, and how many there are."""
    choice = state.choice
    if choice and choice.recommended is not None:
        last = next((trial.last for trial in state.trials if trial.number == choice.recommended), None)
        yield Tile("recommended", f"trial {choice.recommended}")
        if last:
            yield Tile("its AA", f"{100 * last.aa:.1f}", "points on validation rows")
            yield Tile("its parameters", f"{last.parameters:,}", f"after {last.tasks} tasks")
    yield Tile("trials", f"{len(state.trials)}", f"{len(state.ended('finished'))} finished")


def sections(store: Store, config: SweepConfig, state: SweepState, entries: Sequence[Entry]) -> Iterator[Section]:
    """All sections in order."""
    none = "No trial has begun."
    yield Section("front", "The front", [*front(config, state)], "No trial has measured anything yet.")
    yield Section("trials", "Trials", [*trials(config, state)], none)
    yield Section("importance", "What mattered", [*importance(state)], "Too few trials finished to say what mattered.")
    yield Section(
        "recommended", "What is recommended", [*recommended(store, state)], "Nothing is recommended so far."
    )  # fmt: skip
    yield Section("decisions", "Decisions", [*decided(state.decisions)], "Nothing was decided automatically so far.")
    yield Section("data", "Data", [*data(state)], "The log describes no task.")
    yield Section("lineage", "Lineage", [*lineage(config, state)], none)
    yield Section("environment", "Environment", [*drivers(entries)], "No driver has told what it ran with.")
    yield Section("configuration", "Configuration", [*configuration(config, state.config)], "The log holds none.")
    yield Section("log", "Log", [log(entries)])


def front(config: SweepConfig, state: SweepState) -> Iterator[Block]:
    """The picture that `front.png` is."""
    if not any(trial.last for trial in state.trials):
        return
    made = state.choice
    choice = Choice(made.pareto, made.recommended, made.reason) if made else Choice((), None, "")
    figure = drawn(config, state.trials, choice)
    figure.set_size_inches(WIDE, 5.6)
    named = ", ".join(f"trial {number}" for number in choice.pareto) or "no trial"
    says = (
        "AA on the validation splits against active parameters, BWT as colour. Dots are finished trials, crosses those "
        f"that stopped earlier. On the front: {named}."
    )
    yield Picture("Accuracy against size", says, svg_of(figure, "front"))


def trials(config: SweepConfig, state: SweepState) -> Iterator[Block]:
    """The table that `sweep --show` prints, and why trials ended."""
    if not state.trials:
        return
    yield grid_of(trials_table(config, state, state.choice.pareto if state.choice else ()))
    told = [(trial.number, *how_it_stands(trial, state.status)) for trial in state.trials]
    if why := [[f"{number}", status, reason] for number, status, reason in told if reason]:
        yield Grid("Why trials ended", ["trial", "status", "why"], why)


def importance(state: SweepState) -> Iterator[Block]:
    """Shares of the variance of each objective by searched key."""
    for objective, shares in (state.choice.importance if state.choice else {}).items():
        rows = [[key, f"{share:.0%}"] for key, share in shares.items()]
        yield Grid(f"Share of the variance of {objective} (fANOVA)", ["key", "share"], rows, frozenset({1}))


def recommended(store: Store, state: SweepState) -> Iterator[Block]:
    """The chosen point, why, and the configuration to run."""
    choice = state.choice
    if choice is None:
        return
    point = next((trial for trial in state.trials if trial.number == choice.recommended), None)
    if point is None:
        yield Words([f"No trial is recommended: {choice.reason}."])
        return
    yield Words([f"Trial {point.number} ({shown_values(point.values)}): {choice.reason}."])
    for file in choice.files:
        if file.path == RECOMMENDED:
            with suppress(StoreError, UnicodeDecodeError):
                yield Verbatim(
                    "The configuration to run", store.get(f"{choice.prefix}/{file.path}", file.size).decode()
                )


def data(state: SweepState) -> Iterator[Block]:
    """Rows and fingerprints."""
    rows = [
        [task.name, f"{task.rows.train:,}", f"{task.rows.validation:,}", task.fingerprint or "·"]
        for task in state.tasks
    ]  # fmt: skip
    if rows:
        yield Grid("Tasks", ["task", "train", "validation", "sha256 of its rows"], rows, frozenset({1, 2}))
    yield from dropped_from(state.tasks)


def lineage(config: SweepConfig, state: SweepState) -> Iterator[Block]:
    """Each trial's run, whose own report has the rest."""
    if state.trials:
        start = [("every trial begins as", config.start_from)] if config.start_from else []
        runs = [(f"trial {trial.number}", f"the run {config.run.team}/{trial.run}") for trial in state.trials]
        yield facts("The runs of the trials", [("base", config.run.model.name), *start, *runs])
