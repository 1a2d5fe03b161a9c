"""The names of tracks and versions in commands: `team/track`, `team/track@v3`, `team/track@production`."""

import re
from dataclasses import dataclass

from cluster.errors import ConfigError
from cluster.storage import Store
from cluster.words import did_you_mean
from orchestrator.log.chain import Log, log_start
from orchestrator.log.entry import NAME, Entry
from orchestrator.track.events import Committed
from orchestrator.track.layout import TRACKS, list_tracks, sweep_root
from orchestrator.track.moves import aliases, at
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track

VERSION = re.compile(r"v[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One committed version: its track, the log read, the run's state and the commit."""

    track: Track
    entries: list[Entry]
    state: RunState
    commit: Committed

    @property
    def reference(self) -> str:
        """team/track@vN."""
        return self.state.reference(self.commit)

    @property
    def stream(self) -> tuple[Committed, ...]:
        """The commits that it builds on, and itself, in order."""
        return self.state.upto(self.commit.version).commits


@dataclass(frozen=True)
class Reference:
    """A parsed reference: the track's name, with or without its team, and `vN` or an alias."""

    track: str
    which: str

    @property
    def number(self) -> int | None:
        """N of vN; None if it is an alias; −1 if N cannot be the number of a version, as 007."""
        if not VERSION.fullmatch(self.which):
            return None
        digits = self.which[1:]
        return int(digits) if digits == str(int(digits)) else -1


def parse_reference(reference: str) -> Reference:
    """The parts of `team/track@vN` or `team/track@ALIAS`. Raises ConfigError if the string is malformed."""
    name, _, which = reference.rpartition("@")
    if not name or not NAME.fullmatch(which):
        raise ConfigError(
            f"ADAPTER {reference!r}: expected RUN@vN or RUN@ALIAS, as in quickstart@v1; see `orthoplex adapters list`"
        )
    return Reference(name, which)


def find_track(store: Store, name: str) -> Track:
    """The track named `name` or `team/name`. Raises ConfigError if no track has the name, or several teams have one."""
    team, _, track = name.rpartition("/")
    if NAME.fullmatch(team) and NAME.fullmatch(track):
        exact = Track(store, team, track)
        if store.list(log_start(exact.root), limit=1):
            return exact
    from trainers.data.sources import listed

    known = list_tracks(store)
    found = [(team, track) for team, track in known if name in (track, f"{team}/{track}")]
    if len(found) == 1:
        return Track(store, *found[0])
    if found:
        shown = ", ".join(f"{team}/{track}" for team, track in found)
        raise ConfigError(f"RUN {name!r}: several teams have one; give one of {shown}")
    check_no_sweep(store, name)
    names = [f"{team}/{track}" for team, track in known]
    hint = did_you_mean(name, [*names, *(track for _, track in known)])
    hint = hint or (f"which holds {listed(names)}" if names else "which holds no runs")
    raise ConfigError(f"RUN {name!r}: not in the store {store.uri}, {hint} (--store names another store)")


class NamesSweep(ConfigError):
    """A name is that of a sweep, and a run is meant. `having` are the sweeps, as team/sweep."""

    def __init__(self, having: list[str], message: str) -> None:
        super().__init__(message)
        self.having = having


def find_log(store: Store, name: str) -> Log:
    """The log of the run named `name` or `team/name`, or else of the sweep. Raises ConfigError as `find_track`."""
    try:
        return find_track(store, name)
    except NamesSweep as error:
        if len(error.having) != 1 or ("/" in name and error.having != [name]):
            raise
        return Log(store, sweep_root(*error.having[0].split("/")), error.having[0])


def check_no_sweep(store: Store, name: str) -> None:
    """Raises NamesSweep if the name is that of a sweep, of whichever team."""
    having = sweeps_named(store, name)
    if not having:
        return
    found = f"{having[0]} is a sweep" if len(having) == 1 else f"{' and '.join(having)} are sweeps"
    raise NamesSweep(
        having,
        f"RUN {name!r}: {found}; `orthoplex sweep CONFIG --show` shows it, and its trials are the runs "
        f"{having[0]}-00001, {having[0]}-00002, …",
    )


def sweeps_named(store: Store, name: str) -> list[str]:
    """team/sweep of every sweep with the name, of the one alone if `name` has its team."""
    sweep = name.rpartition("/")[2]
    teams = [each for each in store.list_folders(TRACKS) if NAME.fullmatch(each)] if NAME.fullmatch(sweep) else []
    having = [f"{each}/{sweep}" for each in teams if store.list(log_start(sweep_root(each, sweep)), limit=1)]
    return [name] if name in having else having


def resolve(store: Store, reference: str, moment: str | None = None) -> Version:
    """The version that `team/track@vN`, `team/track@ALIAS` or, if only one team has the track, `track@…` names. With
    `moment`, the version that an alias named then.

    Raises:
        ConfigError: the reference is malformed, or there is no such run, version or alias.
    """
    asked = parse_reference(reference)
    track = find_track(store, asked.track)
    entries = track.entries()
    state = replay(track.team, track.name, entries)
    number = _number(track, entries, asked, moment)
    try:
        commit = state.version(number)
    except ConfigError as error:
        raise ConfigError(f"ADAPTER {reference!r}: {str(error).partition(': ')[2]}") from None
    return Version(track=track, entries=entries, state=state, commit=commit)


def _number(track: Track, entries: list[Entry], asked: Reference, moment: str | None) -> int:
    if (number := asked.number) is not None:
        if moment is not None:
            raise ConfigError(
                f"--at: {asked.which} always names the same version; give an alias, as in {track.label}@production"
            )
        return number
    known = aliases(entries)
    if asked.which not in known:
        raise ConfigError(
            f"ADAPTER '{track.name}@{asked.which}': no such alias; {track.label} has {', '.join(known) or 'none'}"
        )
    then = at(entries, asked.which, moment) if moment is not None else known[asked.which]
    if then is None:
        raise ConfigError(f"--at {moment!r}: {track.label}@{asked.which} named nothing yet")
    return then.version
