"""`orthoplex adapters verify | gc | index | rules | policy`: upkeep of a registry, and rights in it."""

import dataclasses
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cluster.errors import ConfigError, IntegrityError
from orchestrator.cli.adapters import Team, Why, adapters
from orchestrator.cli.common import DEFAULT_STORE, AsJson, StoreUri, echo, print_json, tell

if TYPE_CHECKING:
    from orchestrator.track.track import Track

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
TrackName = Annotated[str | None, typer.Argument(metavar="[TRACK]", help="a run's name, or team/name; default: all")]


@adapters.command("verify")
def verify_tracks(
    track: TrackName = None, store: StoreUri = DEFAULT_STORE, team: Team = None, as_json: AsJson = False
) -> None:
    """Read everything again. Chain, signatures, manifests, the digest of every file."""
    from orchestrator.console.story import of
    from orchestrator.followed.records import records_of, verify_records
    from orchestrator.registry.verify import verify

    tracks = open_tracks(track, store, team)
    reports = [verify(each) for each in tracks]
    recorded = [verify_records(records_of(each)) for each in tracks]
    reports += [each for each in recorded if each.entries or each.faults]
    if as_json:
        print_json(
            [{key: value for key, value in dataclasses.asdict(report).items() if key != "notes"} for report in reports]
        )
    for note in (note for report in reports for note in report.notes):
        tell(note)
    for report in reports if not as_json else ():
        held = f"{of(report.entries, 'entry', 'entries')}, {of(report.versions, 'version')}, {of(report.files, 'file')}"
        whole = "whole" if not report.faults else of(len(report.faults), "fault")
        echo(f"{report.track}: {held}, {report.bytes:,} bytes: {whole}")
    if faults := [fault for report in reports for fault in report.faults]:
        raise IntegrityError("\n  ".join([f"{of(len(faults), 'fault')} found", *faults]))


@adapters.command("gc")
def collect_garbage(
    track: TrackName = None,
    *,
    store: StoreUri = DEFAULT_STORE,
    team: Team = None,
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="remove; by default only say what would be")] = False,
    grace: Annotated[
        str, typer.Option("--grace", help="how long files that no commit names are kept: 30m, 24h, 7d")
    ] = "24h",
    delete: Annotated[
        int | None, typer.Option("--delete", metavar="N", help="delete version N of TRACK too, and all after it")
    ] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="give up what guards stopped, too, so that it is trained anew")
    ] = False,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Remove files that no commit names. A grace period passes after they were first seen here."""
    from orchestrator.registry.gc import sweep_temporary

    period, tracks = duration(grace), open_tracks(track, store, team)
    if delete is not None and track is None:
        raise ConfigError(f"--delete {delete}: needs TRACK; name the run whose versions are to be deleted")
    say = (lambda _: None) if as_json else echo
    temporary = sweep_temporary(tracks[0].store, remove=yes) if tracks else 0  # first, since it needs no room
    found = list[Collected]()
    for each in tracks:
        given_up = give_up(each, yes) if quarantined else []
        found.append(dataclasses.replace(collected(each, period, delete, why, yes), given_up=given_up))
        say("\n".join(collected_lines(found[-1], yes, grace)))
    if temporary:
        say(f"{'removed' if yes else 'would remove'} {temporary} temporary files of writers that were killed")
    if as_json:
        print_json({"done": yes, "tracks": [dataclasses.asdict(each) for each in found], "temporary_files": temporary})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collected:
    """What `gc` did to a track, or would do, as `--json` prints it. Versions are numbers, indices the seq up to which
    they go, all else are prefixes in the store. `given_up` was quarantined."""

    track: str
    deleted_versions: list[int]
    removed: list[str]
    removed_indices: list[int]
    waiting: list[str]
    given_up: list[str] = dataclasses.field(default_factory=list)


def give_up(track: "Track", yes: bool) -> list[str]:
    """Gives up what is quarantined in a track, or looks what that is unless `yes`."""
    from orchestrator.registry.quarantine import discard
    from orchestrator.track.state import replay

    held = replay(track.team, track.name, track.entries()).quarantined
    found = discard(track) if yes else held and held.prefix
    return [found] if found else []


def collected(track: "Track", grace: timedelta, delete: int | None, why: str, yes: bool) -> Collected:
    """Collects a track's garbage, or looks what there is unless `yes`."""
    from orchestrator.log.event import parse
    from orchestrator.registry.gc import Collector
    from orchestrator.track.aside import Delete

    collector = Collector(track, grace)
    doomed = list[int]()
    if delete is not None:
        doomed = [*parse(collector.delete(delete, why), Delete).versions] if yes else collector.doomed(delete)
    work = collector.collect() if yes else collector.look()
    return Collected(
        track=track.label, deleted_versions=doomed, removed=[*work.remove], removed_indices=[*work.indices],
        waiting=[*work.waiting],
    )  # fmt: skip


def collected_lines(found: Collected, done: bool, grace: str) -> Iterator[str]:
    """The same for people."""
    if doomed := found.deleted_versions:
        yield f"{found.track}: {'deleted' if done else 'would delete'} {', '.join(f'v{n}' for n in doomed)}"
    if found.given_up:
        yield f"{found.track}: {'gave up' if done else 'would give up'} what is quarantined: {found.given_up[0]}"
    counts = f"{len(found.removed)} versions that no commit names, {len(found.removed_indices)} old indices"
    later = f"; {len(found.waiting)} more in {grace}" if found.waiting else ""
    yield f"{found.track}: {'removed' if done else 'would remove'} {counts}{later}"


@adapters.command("index")
def write_indices(track: TrackName = None, store: StoreUri = DEFAULT_STORE, team: Team = None) -> None:
    """Write an index of each log. It makes listing fast; publishing writes one every 200 entries by itself."""
    for each in open_tracks(track, store, team):
        echo(f"{each.label}: {each.write_index()} entries")


@adapters.command("rules")
def change_rules(
    team: Annotated[str, typer.Argument(metavar="TEAM")],
    *,
    store: StoreUri = DEFAULT_STORE,
    path: Annotated[
        Path | None, typer.Option("--set", metavar="FILE", help="a YAML file to put in their place")
    ] = None,
    expect: Annotated[int | None, typer.Option("--expect", metavar="REVISION", help="the one that you changed")] = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Show a team's rules, or change them. Bounds for promotion, keys that may sign. As YAML that --set takes."""
    from cluster.storage import open_store
    from orchestrator.config.file import read_mapping
    from orchestrator.track.rules import RulesLog, parse_rules
    from orchestrator.track.track import trusting_what_is_there

    log = RulesLog(open_store(store), team)
    if path is None:
        revision, rules = log.current()
        print_rules(team, revision, rules.model_dump(mode="json"), as_json)
        return
    revision, before = log.current()
    rules = trusting_what_is_there(log.store, team, before, parse_rules(read_mapping(path), str(path)))
    entry = log.change(rules, expect=revision if expect is None else expect, why=why)
    echo(f"{team}: revision {entry.seq} of the rules holds now")


def print_rules(team: str, revision: int, rules: dict[str, Any], as_json: bool) -> None:
    """A team's rules with their revision: as JSON, or as the YAML that `--set` takes."""
    import yaml

    if as_json:
        print_json({"revision": revision, "rules": rules})
        return
    echo(f"# rules of {team}, revision {revision}")
    echo(yaml.safe_dump(rules, sort_keys=False, allow_unicode=True, width=120), nl=False)


@adapters.command("policy")
def print_policy(
    team: Annotated[str, typer.Option("--team")],
    role: Annotated[Literal["reader", "publisher", "promoter", "gc", "admin", "evaluator"], typer.Option("--role")],
    *,
    bucket: Annotated[str, typer.Option("--bucket")] = "BUCKET",
    prefix: Annotated[str, typer.Option("--prefix", help="what follows the bucket in `store`")] = "",
    principal: Annotated[
        str | None, typer.Option("--principal", metavar="ARN", help="make it a bucket policy for this principal")
    ] = None,
    append_only: Annotated[
        bool, typer.Option("--append-only", help="refuse overwriting the log, on AWS; Ceph does not know how")
    ] = False,
) -> None:
    """Print the S3 policy of a role. It gives the least rights that the role needs for this team."""
    from orchestrator.registry.iam import policy

    print_json(policy(team, role, bucket=bucket, prefix=prefix, principal=principal, append_only=append_only))


def open_tracks(name: str | None, store: str, team: str | None) -> list["Track"]:
    """The track of that name, or all of a team or store."""
    from cluster.storage import open_store
    from orchestrator.registry.references import find_track
    from orchestrator.track.layout import list_tracks
    from orchestrator.track.track import Track

    opened = open_store(store)
    if name is not None:
        return [find_track(opened, name)]
    return [Track(opened, *names) for names in list_tracks(opened, team)]


def duration(text: str) -> timedelta:
    """30s, 15m, 24h or 7d. Raises ConfigError if it is none."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not match:
        raise ConfigError(f"--grace {text!r}: no duration; write it as 30m, 24h or 7d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
