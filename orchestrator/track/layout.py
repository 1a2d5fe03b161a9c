"""The layout of a store: every key, prefix and pattern of keys, and the tracks that it holds.

    t/<team>/<track>/log/…                     a track's log, see `orchestrator.log.chain`
    t/<team>/<track>/ckpt/…                    its indices
    t/<team>/<track>/v/<uuid>/…                files of one version, and manifest.json
    t/<team>/<track>/checkpoint.safetensors    the task in training, replaced as a whole; no entry names it
    t/<team>/.policy/log/…                     the team's rules, see `orchestrator.track.rules`
    t/<team>/.sweeps/<name>/log/…  v/<uuid>/…  a sweep, see `orchestrator.sweeps`
    t/<team>/.records/<track>/log/…            scores recorded after training, see `orchestrator.followed.records`
    t/<team>/.records/<track>/v/<sha256>/…     their row scores
    serve/<base>/<team>-<track>-v00000012/…    what servers load, see `orchestrator.delivery.serving`

No track is named so that its keys could be those of rules, sweeps or records: a NAME begins with a letter or digit.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field, Strict

from cluster.storage import Store
from orchestrator.log.chain import INDICES, LOG, READERS, log_start
from orchestrator.log.entry import NAME

TRACKS, VERSIONS = "t", "v"
CHECKPOINT, MANIFEST = "checkpoint.safetensors", "manifest.json"
RULES, SWEEPS, RECORDS = ".policy", ".sweeps", ".records"
SERVE_ROOT = "serve"
VersionNumber = Annotated[int, Strict(), Field(ge=1, lt=10**8)]  # in eight digits, see `served_prefix`


def team_root(team: str) -> str:
    """The prefix of everything that a team has."""
    return f"{TRACKS}/{team}"


def track_root(team: str, name: str) -> str:
    """The prefix of everything that a track has."""
    return f"{team_root(team)}/{name}"


def rules_root(team: str) -> str:
    """The prefix of the log of the team's rules."""
    return f"{team_root(team)}/{RULES}"


def sweep_root(team: str, name: str) -> str:
    """The prefix of a sweep's log and of its results."""
    return f"{team_root(team)}/{SWEEPS}/{name}"


def records_root(team: str, name: str) -> str:
    """The prefix of the scores that were recorded of a track's versions."""
    return f"{team_root(team)}/{RECORDS}/{name}"


def records_label(label: str) -> str:
    """What messages, rules and signatures call the log of recorded scores of team/track. No track is named so."""
    return f"{label} {RECORDS[1:]}"


def version_root(root: str) -> str:
    """The prefix of one folder per version, finished or in the making."""
    return f"{root}/{VERSIONS}"


def checkpoint_key(root: str) -> str:
    """The key of the task in training."""
    return f"{root}/{CHECKPOINT}"


def manifest_key(prefix: str) -> str:
    """The manifest of the version at `prefix`."""
    return f"{prefix}/{MANIFEST}"


def served_prefix(root: str, base: str, version_name: str) -> str:
    """The folder that servers load, below `root`."""
    return f"{root}/{base}/{version_name}"


def list_tracks(store: Store, team: str | None = None) -> list[tuple[str, str]]:
    """(team, name) of every track, or every one of a team, with at least one entry, sorted. Lists folders, and one key
    per track."""
    with ThreadPoolExecutor(READERS) as pool:
        teams = [each for each in ([team] if team else store.list_folders(TRACKS)) if NAME.fullmatch(each)]
        below = pool.map(lambda team: store.list_folders(team_root(team)), teams)
        named = [
            (team, name) for team, names in zip(teams, below, strict=True) for name in names if NAME.fullmatch(name)
        ]
        begun = pool.map(lambda each: bool(store.list(log_start(track_root(*each)), limit=1)), named)
        return sorted(each for each, any_entry in zip(named, begun, strict=True) if any_entry)


def recorded_tracks(store: Store, team: str) -> list[str]:
    """The names of a team's tracks of which scores were recorded, sorted."""
    return [name for name in store.list_folders(f"{team_root(team)}/{RECORDS}") if NAME.fullmatch(name)]


# Patterns of keys in S3 policies; {t} stands for the team's root.
EVERYTHING = "{t}/*"
ANY_LOG, ANY_INDEX = f"{{t}}/*/{LOG}/*", f"{{t}}/*/{INDICES}/*"
ANY_VERSION, ANY_CHECKPOINT = f"{{t}}/*/{VERSIONS}/*", f"{{t}}/*/{CHECKPOINT}"
ANY_RULES = f"{{t}}/{RULES}/*"
ANY_RECORD = f"{{t}}/{RECORDS}/*"
RULES_LOG, RULES_INDEX = f"{{t}}/{RULES}/{LOG}/*", f"{{t}}/{RULES}/{INDICES}/*"
