"""`orthoplex gate`: whether a version keeps its bounds, for people and for continuous integration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ConfigError, GuardStop
from cluster.storage.disk import refusal
from orchestrator.cli import completion
from orchestrator.cli.common import DEFAULT_STORE, AsJson, StoreUri, echo, print_json

if TYPE_CHECKING:
    from orchestrator.gates.verdict import Verdict
    from orchestrator.log.decision import Decision
    from orchestrator.track.rules import PromotionRule

ABSENT = 'no such file; docs/operations.md, "Guards, gates and approvals", shows a rules file'


def gate(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ADAPTER", help="team/run, team/run@vN or @ and an alias", autocompletion=completion.adapters
        ),
    ],
    store: StoreUri = DEFAULT_STORE,
    *,
    rules: Annotated[
        Path | None, typer.Option("--rules", metavar="FILE", help="bounds in YAML; default: the run's own guards")
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", metavar="ALIAS", help="instead what a promotion to it asks for")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="write a JUnit report, a test case per bound")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a version by bounds, on validation rows. Exit code 3 if one is broken; of a run, what it learned last."""
    from cluster.storage import open_store
    from orchestrator.registry.gating import gate as judge

    if rules and alias:
        raise ConfigError("--rules and --alias: both say which bounds hold; leave one of them out")
    verdict = judge(open_store(store), name, read_rules(rules) if rules else None, alias, str(rules))
    if junit:
        write_report(junit, verdict)
    if as_json:
        print_json(verdict.shown())
    else:
        echo("\n".join(lines(verdict)))
    if verdict.broken:
        raise GuardStop(f"{verdict.ref} does not pass: {broken_of(verdict)}")


def read_rules(path: Path) -> "PromotionRule":
    """The bounds in a file: what may stand below `guards` of a run, or `promotion.ALIAS` of a team's rules."""
    from orchestrator.config.file import read_mapping
    from orchestrator.track.rules import parse_rule

    return parse_rule(read_mapping(path, ABSENT), str(path))


def write_report(path: Path, verdict: "Verdict") -> None:
    """Writes the JUnit report. Raises ConfigError if it cannot be written."""
    from orchestrator.gates.junit import junit

    try:
        path.write_text(junit(verdict), "utf-8")
    except OSError as error:
        raise ConfigError(str(refusal(f"--junit {path}: cannot be written", error, "choose another path"))) from None


def lines(verdict: "Verdict") -> list[str]:
    """A verdict for people."""
    held = ", quarantined" if verdict.quarantined else ""
    said = broken_of(verdict) if verdict.broken else "passes"
    head = f"{verdict.ref} ({verdict.task}{held}), by {verdict.origin}, on {verdict.split} rows: {said}"
    decided = [f"  {mark(each)}  {each.reason} [{each.rule}]" for each in verdict.decisions]
    return [head, *decided, *(f"  note: {note}" for note in verdict.notes)]


def broken_of(verdict: "Verdict") -> str:
    """How many bounds are broken."""
    return f"{len(verdict.broken)} of {len(verdict.decisions)} bounds are broken"


def mark(decision: "Decision") -> str:
    """What became of a bound, in a word."""
    if decision.verdict == "stop":
        return "broken"
    return "open  " if decision.open else "holds "
