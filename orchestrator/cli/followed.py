"""`orthoplex trend`, `review`, `evidence` and `verify`: how streams do after their training, and what shows it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import ConfigError, GuardStop, IntegrityError
from cluster.storage.disk import refusal
from orchestrator.cli import completion
from orchestrator.cli.adapters import Team
from orchestrator.cli.common import DEFAULT_STORE, AsJson, RunName, StoreUri, echo, only_our_output, print_json, tell

if TYPE_CHECKING:
    from orchestrator.followed.checking import Checked
    from orchestrator.followed.review import Review
    from orchestrator.followed.trend import Series
    from orchestrator.track.track import Track

REPORT = "report.html"


def trend(
    name: RunName,
    task: Annotated[str | None, typer.Option("--task", metavar="NAME", help="only this task")] = None,
    *,
    level: Annotated[
        float, typer.Option("--level", min=0, max=1, metavar="P", help="of significance, of each comparison")
    ] = 0.01,
    last: Annotated[int | None, typer.Option("--last", min=1, metavar="N", help="only the newest of each task")] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="exit with 3 if a newest score is worse than noise explains")
    ] = False,
    store: StoreUri = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show recorded scores, and what is drift. Scores are those that `eval --record` keeps."""
    from cluster.storage import open_store
    from orchestrator.followed.records import records_of
    from orchestrator.followed.trend import trend as read_trend
    from orchestrator.registry.references import find_track

    track = find_track(open_store(store), name)
    found = read_trend(records_of(track), task=task, level=level, last=last)
    if not found:
        of = f" of task {task!r}" if task else ""
        raise ConfigError(
            f"RUN {name!r}: no score{of} is recorded; record one: orthoplex eval {track.label}@v1 --data FILE --record"
        )
    if as_json:
        print_json({"track": track.label, "series": [each.shown() for each in found]})
    else:
        from orchestrator.console.followed.trend import print_trend

        print_trend(track.label, found)
    if fail_on_drift:
        refuse_drift(track.label, found)


def refuse_drift(label: str, found: "list[Series]") -> None:
    """Raises GuardStop, which names the tasks, if the newest score of one is worse, outside the noise."""
    worse = [each for each in found if each.drifted]
    if worse:
        told = "; ".join(
            f"{each.task}: {each.metric} {each.points[-1].record.score:.4g} of {each.points[-1].record.reference}"
            for each in worse
        )
        raise GuardStop(f"{label}: drift: {told}; worse than noise explains at p < {worse[0].level:g}")


def review(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="a run's name; default: all", autocompletion=completion.runs)
    ] = None,
    *,
    since: Annotated[str | None, typer.Option("--from", metavar="DAY", help="default: 30 days before")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="DAY", help="that day included; default: now")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="a page that ends in .html or .md")
    ] = None,
    level: Annotated[float, typer.Option("--level", min=0, max=1, metavar="P", help="as of `trend`")] = 0.01,
    team: Team = None,
    store: StoreUri = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show what happened in a period. What was learned, promoted and changed, what drifted, what it cost."""
    from cluster.storage import open_store
    from orchestrator.followed.review import period, tracks_of
    from orchestrator.followed.review import review as read_review
    from orchestrator.registry.references import find_track

    if output is not None and output.suffix not in (".html", ".md"):
        raise ConfigError(f"--output {output}: ends in {output.suffix!r}; a page is .html or .md")
    when, opened = period(since, until), open_store(store)
    tracks = [find_track(opened, name)] if name else tracks_of(opened, team)
    if not tracks:
        raise ConfigError(f"store {opened.uri}: holds no runs{f' of team {team}' if team else ''}")
    scope = tracks[0].label if name else f"team {team}" if team else opened.uri
    made = read_review(tracks, when, scope=scope, level=level)
    if output is not None:
        write_page(output, made)
    if as_json:
        print_json(made.shown())
    elif output is None:
        from orchestrator.console.followed.review import print_review

        print_review(made)


def write_page(output: Path, made: "Review") -> None:
    """Writes a period's page. Raises ConfigError if it cannot be."""
    from orchestrator.console.followed.review import html, markdown

    try:
        output.write_text(html(made) if output.suffix == ".html" else markdown(made), "utf-8")
    except OSError as error:
        raise ConfigError(str(refusal(f"--output {output}: cannot be written", error, "choose another"))) from None
    typer.echo(f"wrote {output}", err=True)


def evidence(
    name: RunName,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="the archive to write, a .tar")],
    *,
    adapters: Annotated[bool, typer.Option("--adapters", help="with the weights of all versions")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="with kept answers, which hold rows of the data")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    store: StoreUri = DEFAULT_STORE,
) -> None:
    """Pack what shows how a run came about. Its log, rules, scores and files, for `orthoplex verify`."""
    from cluster.storage import open_store
    from orchestrator.followed.checking import check
    from orchestrator.followed.evidence import pack, refuse_faulty
    from orchestrator.registry.references import find_track

    if output.exists() and not force:
        raise ConfigError(f"--output {output}: exists already; choose another path, or replace it with --force")
    track = find_track(open_store(store), name)
    pack(track, output, adapters=adapters, answers=answers, beside={REPORT: report_of(track, answers)})
    made = check(output)
    refuse_faulty(output, made.faults)
    echo(f"wrote {output}: {made.run}, {made.files} files, {made.bytes:,} bytes; contents.json sha256 {made.sha256}")


def report_of(track: "Track", answers: bool) -> bytes:
    """The run's report as it was when its log was written to last, without kept answers unless they are asked for."""
    from datetime import datetime

    with only_our_output():
        from orchestrator.report.page import html_of
        from orchestrator.report.run import run_page
        from orchestrator.report.source import Source
        from orchestrator.report.svg import drawing

        source = Source.of(track)
        with drawing():
            page = run_page(source)
            kept = [section for section in page.sections if answers or section.name != "answers"]
            return html_of(
                dataclasses.replace(page, sections=kept), datetime.fromisoformat(source.entries[-1].time)
            ).encode()


def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="an archive that `orthoplex evidence` wrote")],
    keys: Annotated[
        list[Path], typer.Option("--key", metavar="PEM", help="a public key that you trust; repeatable")
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Check an archive of evidence, offline. Every digest, chain and signature in it."""
    from orchestrator.followed.checking import check

    made = check(path, keys)
    if as_json:
        print_json(dataclasses.asdict(made))
    else:
        for line in checked_lines(made):
            echo(line)
        for note in made.notes:
            tell(note)
    if made.faults:
        from orchestrator.console.story import of

        raise IntegrityError("\n  ".join([f"{path}: {of(len(made.faults), 'fault')} found", *made.faults]))


def checked_lines(made: "Checked") -> Iterator[str]:
    """What an archive holds, for people."""
    from orchestrator.console.story import of

    yield f"{made.path}: {made.run}, {of(made.files, 'file')}, {made.bytes:,} bytes"
    yield f"contents.json: sha256 {made.sha256}, " + (f"signed by {made.sealed_by}" if made.sealed_by else "not signed")
    for report in made.reports:
        whole = "whole" if not report.faults else of(len(report.faults), "fault")
        holds = (
            f"{of(report.entries, 'entry', 'entries')}, {of(report.versions, 'version')}, {of(report.files, 'file')}"
        )
        yield f"{report.track}: {holds}: {whole}"
    if not made.faults:
        yield "signatures: " + ("every entry that the rules ask it of is signed" if made.signed else "not asked for")
        are = "file is named by its digest" if made.named == 1 else "files are named by their digests"
        yield f"{made.named:,} more {are}, and not in the archive"
