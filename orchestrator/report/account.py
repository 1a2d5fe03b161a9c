"""Who decided what, when and why: decisions, guards, changes, lineage, environment, and the whole log."""

from collections.abc import Iterable, Iterator, Sequence

import yaml

from cluster.schema import WHOLE, Frozen
from orchestrator.console.explained.layer import sentences
from orchestrator.console.story import Story, Told, in_words, second
from orchestrator.followed.changed import Changed, config_changes, figure_shown, rule_changes, value_shown
from orchestrator.gates.noise import too_few_rows
from orchestrator.log.decision import Decision
from orchestrator.log.entry import Entry
from orchestrator.log.event import Decided, Index, Json, well_formed
from orchestrator.registry.gating import GUARDS
from orchestrator.registry.lineage import tree
from orchestrator.report.blocks import Block, Grid, Section, Verbatim, Words, facts
from orchestrator.report.source import Source
from orchestrator.track.driving import counted
from orchestrator.track.events import DRIVEN, Fork, Import, Renew, Start

SILENT = {Index.op, *(kind.op for kind in DRIVEN)} - {Fork.op, Import.op}  # nobody's change
MOST_LINES = 1_000  # layers of tasks


def account_sections(source: Source) -> Iterator[Section]:
    """Guards, decisions, changes, lineage, environment, the configuration and the log."""
    decisions = source.state.decisions
    yield Section("guards", "Guards", [*guards(source)])
    yield Section(
        "decisions", "Decisions", [*decided(each for each in decisions if not each.decision.rule.startswith(GUARDS))],
        "Nothing was decided automatically so far.",
    )  # fmt: skip
    yield Section(
        "modules", "Decisions per layer", [*per_layer(source)],
        "The method decides nothing per layer, or no task is committed yet.",
    )  # fmt: skip
    yield Section("changes", "Changes", [*changes(source)], "Nobody has changed a key, a rule or an alias.")
    yield Section("lineage", "Lineage", [*lineage(source)])
    yield Section("environment", "Environment", [*environment(source)], "No driver has told what it ran with.")
    yield Section(
        "configuration", "Configuration", [*configuration(source.config, source.state.config)], "The log holds none."
    )
    yield Section("log", "Log", [log(source.entries)])


def guards(source: Source) -> Iterator[Block]:
    """The bounds that are set, and each time that one was judged."""
    section = source.config.guards.model_dump(mode="json") if source.config else {}
    bounds = [(key, value_shown(value)) for key, value in section.items() if value is not None]
    if bounds:
        yield facts("Bounds of this run, on the validation splits", bounds)
    else:
        yield Words(["No guard is set: nothing bounds forgetting, accuracy or size."])
    rows = [task.rows.validation for task in source.state.tasks]
    if source.config and (few := too_few_rows(source.config, rows)):
        yield Words(few)
    if held := source.state.quarantined:
        yield Words([f"Quarantined: {held.task}, which would be v{held.version}, since {second(held.time)} UTC."])
    yield from decided(each for each in source.state.decisions if each.decision.rule.startswith(GUARDS))


def decided(decisions: Iterable[Decided]) -> Iterator[Block]:
    """A row per decision."""
    rows = [
        [
            second(each.entry.time), each.decision.subject, each.decision.rule, figure_shown(each.decision.measured),
            figure_shown(each.decision.bound), verdict(each.decision), each.decision.reason,
        ]
        for each in decisions
    ]  # fmt: skip
    if rows:
        heads = ["when (UTC)", "about", "rule", "measured", "bound", "verdict", "why"]
        yield Grid("Decisions, in order", heads, rows, frozenset({3, 4}))


def verdict(decision: Decision) -> str:
    """The verdict, and whether the rows leave it open."""
    return f"{decision.verdict.replace('_', ' ')}{' (unresolved)' * decision.open}"


def per_layer(source: Source) -> Iterator[Block]:
    """What was decided of each layer in each task, in the sentences of `orthoplex explain`."""
    rows = [
        [found.commit.task, layer, " ".join(sentences(found.of(layer)))]
        for found in source.decisions.values()
        for layer in dict.fromkeys(each.module for each in found.lines)
    ]
    if rows:
        all_ = f", the first {MOST_LINES:,} of {len(rows):,}; `orthoplex explain` has all" * (len(rows) > MOST_LINES)
        heads = ["task", "layer", "what was decided, and why"]
        yield Grid(f"Decisions per layer and task{all_}", heads, rows[:MOST_LINES], folded=True)


def changes(source: Source) -> Iterator[Block]:
    """Every change by a person: keys of the configuration, the team's rules, aliases, forks, deletions."""
    keys = [
        *((each, "") for each in config_changes(source.state.label, source.entries)),
        *((each, "rules of the team: ") for each in rule_changes(source.rules)),
    ]
    rows = [[second(each.time), each.actor, f"{head}{change_told(each)}", each.why or "·"] for each, head in keys]
    rows = sorted([*rows, *acts(source.entries)])
    if rows:
        yield Grid("Changes, in order", ["when (UTC)", "who", "what", "why"], rows)


def change_told(change: Changed) -> str:
    """A key with both values."""
    return f"{change.key}: {value_shown(change.before)} → {value_shown(change.after)}"


def acts(entries: Sequence[Entry]) -> Iterator[list[str]]:
    """A row per entry that no driver's work and no change of the configuration is, in the words of `orthoplex logs`."""
    for told in Story().tell(entries):
        if told.op not in SILENT and not told.void:
            yield [second(told.time), told.actor, told.text, "·"]


def lineage(source: Source) -> Iterator[Block]:
    """The base, where the stream began, and its versions."""
    found = tree(source.state, source.entries)
    tokenizer = source.state.base.tokenizer
    begun = [told.text for told in Story().tell(source.entries) if told.op in (Fork.op, Import.op)]
    yield facts(
        "What it stands on",
        [
            ("base", found["base"] or "not known"),
            ("sha256 of the base's weights", found["base_digest"] or "not known"),
            *((f"sha256 of {name}", value) for name, value in tokenizer.items()),
            *(("stream", text) for text in begun),
        ],
    )
    rows = [
        [
            each["ref"], each["task"], second(each["committed_at"]), ", ".join(each["aliases"]) or "·",
            "deleted" if each["deleted"] else "there", each["manifest_sha256"],
        ]
        for each in found["versions"]
    ]  # fmt: skip
    if rows:
        heads = ["version", "task", "committed (UTC)", "aliases", "files", "sha256 of its manifest"]
        yield Grid("Versions, each on all before it", heads, rows)
    else:
        yield Words(["No version is committed yet."])


def environment(source: Source) -> Iterator[Block]:
    """The drivers with their machines and packages, and the code that trained each version."""
    yield from drivers(source.entries)
    codes: dict[tuple[str, ...], list[str]] = {}
    for version, told in source.manifests.items():
        changed = {True: "with changes", False: "unchanged", None: "not known"}[told.code.git_changed]
        packages = ", ".join(f"{name} {number}" for name, number in told.code.packages.items())
        codes.setdefault((told.code.git_commit or "not known", changed, packages), []).append(f"v{version}")
    if codes:
        rows = [[", ".join(versions), *code] for code, versions in codes.items()]
        yield Grid("Code that trained the versions", ["versions", "commit", "files", "packages"], rows)


def drivers(entries: Sequence[Entry]) -> Iterator[Block]:
    """Who drove, where, with which versions and with which workers."""
    rows = [
        [
            second(entry.time), entry.actor, event.driver.host,
            ", ".join(f"{name} {version}" for name, version in event.versions.items()),
            yaml.safe_dump(dict(event.cluster), default_flow_style=True, width=10_000).strip(),
        ]
        for entry, event in well_formed([*counted(entries)], Start)
    ]  # fmt: skip
    if rows:
        yield Grid("Drivers", ["when (UTC)", "who", "machine", "versions", "workers asked for"], rows)


def configuration(meant: Frozen | None, stored: Json) -> Iterator[Block]:
    """The configuration with all its keys, so that it means the same as that of a new run; as it is stored if this
    version cannot read it."""
    if stored:
        title = "All keys, to be run again as they are" if meant else "As stored; this version cannot read it"
        shown = meant.model_dump(mode="json", context=WHOLE) if meant else dict(stored)
        yield Verbatim(title, yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100))


def log(entries: Sequence[Entry]) -> Block:
    """What `orthoplex logs` tells, without signs of life."""
    told = [each for each in Story().tell(entries) if each.op != Renew.op]
    rows = [[f"{each.seq}", second(each.time), each.actor, sentence(each)] for each in told]
    return Grid(
        f"{len(rows)} entries, without signs of life", ["entry", "when (UTC)", "who", "what"], rows, folded=True
    )


def sentence(told: Told) -> str:
    """An entry, and what it decided."""
    void = " (void: another driver had taken over)" if told.void else ""
    return ". ".join([f"{told.text}{void}", *(f"Decided: {in_words(each)}" for each in told.decisions)])
