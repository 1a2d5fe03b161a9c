"""What people call a track and a version: `team/track`, `team/track@v3`, `team/track@production`."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import ConfigError
from cluster.storage import Store
from orchestrator.log.entry import NAME, Entry
from orchestrator.registry.aliases import VERSION, aliases, at, check_version
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track, list_tracks


@dataclass(frozen=True)
class Version:
    """One committed version: its track, the log read, the run's state and the commit."""

    track: Track
    entries: list[Entry]
    state: RunState
    commit: Mapping[str, Any]


def find_track(store: Store, name: str) -> Track:
    """The track named `name` or `team/name`. Raises ConfigError where none has the name, or those of several teams."""
    team, _, track = name.rpartition("/")
    if NAME.fullmatch(team) and NAME.fullmatch(track):
        exact = Track(store, team, track)
        if store.list(f"{exact.root}/log/0", limit=1):
            return exact
    from trainers.data.sources import listed

    known = list_tracks(store)
    found = [(team, track) for team, track in known if name in (track, f"{team}/{track}")]
    if len(found) == 1:
        return Track(store, *found[0])
    if found:
        shown = ", ".join(f"{team}/{track}" for team, track in found)
        raise ConfigError(f"RUN {name!r}: several teams have one; give one of {shown}")
    names = [f"{team}/{track}" for team, track in known]
    near = difflib.get_close_matches(name, [*names, *(track for _, track in known)], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"which holds {listed(names)}" if names else "which holds no runs"
    raise ConfigError(f"RUN {name!r}: not in the store {store.uri}, {hint} (--store names another store)")


def resolve(store: Store, reference: str, moment: str | None = None) -> Version:
    """The version that `team/track@vN`, `team/track@ALIAS` or, where one team has it, `track@…` names; with `moment`,
    which version an alias named then.

    Raises:
        ConfigError: it is malformed, or there is no such run, version or alias.
    """
    name, _, which = reference.rpartition("@")
    if not name or not NAME.fullmatch(which):
        raise ConfigError(
            f"ADAPTER {reference!r}: expected RUN@vN or RUN@ALIAS, as in quickstart@v1; see `orthoplex adapters list`"
        )
    track = find_track(store, name)
    entries = track.entries()
    state = replay(track.team, track.name, entries)
    number = _number(track, entries, which, moment)
    try:
        check_version(state, number)
    except ConfigError as error:
        raise ConfigError(f"ADAPTER {reference!r}: {str(error).partition(': ')[2]}") from None
    return Version(track, entries, state, next(c for c in state.commits if c["version"] == number))


def _number(track: Track, entries: list[Entry], which: str, moment: str | None) -> int:
    if VERSION.fullmatch(which):
        if moment is not None:
            raise ConfigError(
                f"--at: {which} always names the same version; give an alias, as in {track.label}@production"
            )
        return int(which[1:]) if which[1:] == str(int(which[1:])) else -1
    known = aliases(entries)
    if which not in known:
        raise ConfigError(
            f"ADAPTER '{track.name}@{which}': no such alias; {track.label} has {', '.join(known) or 'none'}"
        )
    then = at(entries, which, moment) if moment is not None else known[which]
    if then is None:
        raise ConfigError(f"--at {moment!r}: {track.label}@{which} named nothing yet")
    return then.version
