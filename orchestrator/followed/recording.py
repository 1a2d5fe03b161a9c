"""From an evaluation of files to a record of it: what `orthoplex eval … --record` appends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ConfigError
from cluster.folders import file_digest
from orchestrator.followed.records import records_of
from orchestrator.log import signing
from orchestrator.log.entry import Entry
from trainers.data.files import named
from trainers.data.row_scores import RowScores

if TYPE_CHECKING:
    from orchestrator.delivery.evaluating import Evaluation
    from orchestrator.registry.references import Version
    from orchestrator.track.track import Track

MOST_NOTE = 1_000  # characters


def digests_of(paths: Sequence[Path], names: Sequence[str]) -> dict[str, str]:
    """The sha256 of files, by what messages call them; `-` is standard input, which was kept in a file."""
    piped = names == ["-"]
    return {"-" if piped else named(path): file_digest(path) for path in paths}


def check_can_record(track: "Track", note: str) -> None:
    """What would refuse a record is found before anything is computed.

    Raises:
        ConfigError: the note is too long, or the team's rules ask for a signature by a key that is not at hand.
        IntegrityError: the log of recorded scores was changed.
    """
    if len(note) > MOST_NOTE:
        raise ConfigError(f"--note: has {len(note):,} characters; {MOST_NOTE:,} at most are kept in the log")
    log = records_of(track)
    log.entries()
    trust, signature = log.trust, signing.sign(log.label, "")
    if trust.required and (signature is None or signature["key"] not in trust.keys):
        raise ConfigError(
            f"{signing.KEY_VARIABLE}: the rules of team {log.team} ask for signatures, and this machine has no key "
            "that they list; name its PEM file there. The role `evaluator` is enough"
        )


def record(
    version: "Version",
    made: "Evaluation",
    *,
    asked: str,
    files: Mapping[str, str],
    settings: Mapping[str, float | str],
    seconds: float,
    note: str = "",
) -> Entry:
    """Appends an evaluation to the recorded scores of the version's track. `asked` is what follows the @ in the name
    that was given, empty if nothing does; `files` are digests by name; `settings` are options that change answers.

    Raises:
        ConfigError: the team's rules ask for a signature that cannot be made. StoreError: the store refuses.
    """
    import numpy as np

    assert made.scored is not None
    values = made.scored.values
    metrics = {name: float(value) for name, value in made.metrics.items()}
    if made.macro_f1 is not None:
        metrics["macro_f1"] = float(made.macro_f1)
    told: dict[str, object] = {
        "asked": asked, "metric": next(iter(made.metrics)), "metrics": metrics,
        "rows_sha256": made.scored.sha256, "files": dict(files), "seconds": round(seconds, 3),
    }  # fmt: skip
    told |= {key: value for key, value in {"settings": dict(settings), "note": note}.items() if value}
    if made.interval is not None:
        told["interval"] = [float(bound) for bound in made.interval]
    scores = RowScores(
        task=made.task, split="recorded", learned=version.commit.version, rows=np.arange(len(values)), values=values
    )
    return records_of(version.track).add(version, scores, told)
