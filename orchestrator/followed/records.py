"""Scores of a version that were recorded after training: `orthoplex eval … --record`. They are a log of their own:

    t/<team>/.records/<track>/log/…                       entries of op `record`, see `orchestrator.log.chain`
    t/<team>/.records/<track>/v/<sha256>/rows.parquet     row scores, see `trainers.data.row_scores`

The log of the track is not written to, so that whoever drives it is not disturbed, and a key that may do nothing but
record can do no harm to it. If the team's rules ask for signatures, any key that they list may sign a record.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from cluster.errors import IntegrityError, KeyAbsentError, StoreError
from cluster.storage import Store
from cluster.temporary import temporary
from orchestrator.log.chain import Log
from orchestrator.log.entry import Entry, digest
from orchestrator.log.event import Anything, Count, Event, Index, Number, events
from orchestrator.log.signing import Trust
from orchestrator.registry.references import Version
from orchestrator.registry.verify import Report, index_faults
from orchestrator.track import layout
from orchestrator.track.events import skipped
from orchestrator.track.layout import VersionNumber
from orchestrator.track.provenance import code_version
from orchestrator.track.rules import TeamLog, forget_trust, team_trust
from trainers.data.row_scores import ROWS, RowScores, read_row_scores, write_row_scores

if TYPE_CHECKING:
    import numpy as np

ROUNDED = 1e-6  # of scores in float32
MOST_ROWS_BYTES = 1 << 30  # a million rows are 4 MB


class Record(Event):
    """A score of a version on rows. `asked` is the name that it was asked by: an alias, vN, or "" for the newest.
    `metric` is the primary one of `metrics`, `interval` its 95% interval. `files` are the sha256 of what was read, by
    what messages call them; `rows_sha256` is that of the rows as they were scored, in order, so that the same rows in
    another form are the same. `settings` are those options that change answers. `scores_sha256` is that of the row
    scores at `prefix`. `packages` are versions of what computed it."""

    op = "record"
    reference: str
    version: VersionNumber
    manifest_sha256: str
    asked: str = ""
    task: str
    metric: str
    metrics: dict[str, Number] = Field(min_length=1)
    interval: tuple[Number, Number] | None = None
    rows: Count
    rows_sha256: str
    files: dict[str, str]
    settings: dict[str, Number | str] = Field(default_factory=dict)
    prefix: str
    scores_sha256: str
    packages: dict[str, str] = Field(default_factory=dict)
    seconds: Number | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_its_metric(self) -> "Record":
        if self.metric not in self.metrics:
            raise ValueError(f"metric: {self.metric!r} is not among the metrics")
        return self

    @property
    def score(self) -> float:
        """Of the primary metric."""
        return float(self.metrics[self.metric])


class RecordLog(TeamLog):
    """The scores that were recorded of the versions of team/name."""

    kinds: Mapping[str, type[Event]] = {Record.op: Record, Index.op: Index}

    def __init__(self, store: Store, team: str, name: str) -> None:
        named = layout.records_label(f"{team}/{name}").partition("/")[2]
        super().__init__(store, layout.records_root(team, name), team, named)

    @property
    def trust(self) -> Trust:
        """See Log. Any key that the team's rules list may record."""
        trust = team_trust(self.store, self.team)
        return Trust(
            required=trust.required, keys=trust.keys, unsigned=trust.unsigned, roles={Record.op: "", Index.op: ""}
        )

    def records(self) -> list[tuple[Entry, Record]]:
        """All of them, oldest first. Errors are those of `entries`, and IntegrityError if one is malformed."""
        return [*events(self.entries(), Record)]

    def add(self, version: Version, scores: RowScores, told: Mapping[str, object]) -> Entry:
        """Records a score: its row scores, then its entry on top of whatever others wrote. `told` has the fields of
        `Record` that follow neither from the version nor from `scores`."""
        with temporary("records") as folder:
            path = Path(folder) / ROWS
            write_row_scores(path, [scores])
            data = path.read_bytes()
        sha256 = digest(data)
        prefix = f"{layout.version_root(self.root)}/{sha256}"
        self.store.put(f"{prefix}/{ROWS}", data)
        made = Record.model_validate(
            {
                "reference": version.reference,
                "version": version.commit.version,
                "manifest_sha256": version.commit.manifest_sha256,
                "task": scores.task,
                "rows": len(scores.values),
                "prefix": prefix,
                "scores_sha256": sha256,
                "packages": code_version()["packages"],
                **told,
            }
        )
        forget_trust(self.store)
        entries = self.entries()
        return self.append(made, after=entries[-1] if entries else None, requires=Anything())

    def values(self, record: Record) -> "np.ndarray":
        """The row scores of a record, (n,). Raises IntegrityError if they are missing, were changed, or are not as
        many from 0 to 1 as the record says."""
        try:
            (scores,) = read_row_scores(self.scores(record))
        except (ArithmeticError, LookupError, TypeError, ValueError):  # pyarrow's are ValueErrors
            raise self._no_scores(record) from None
        if len(scores.values) != record.rows or not ((scores.values >= 0) & (scores.values <= 1 + ROUNDED)).all():
            raise self._no_scores(record)
        return scores.values

    def _no_scores(self, record: Record) -> IntegrityError:
        return IntegrityError(
            f"{self.label}: {record.prefix}/{ROWS}: does not hold {record.rows} scores from 0 to 1, as the record of "
            f"{record.reference} says; a faulty program recorded it"
        )

    def scores(self, record: Record) -> bytes:
        """Their file. Errors are those of `values`."""
        prefix = f"{layout.version_root(self.root)}/{record.scores_sha256}"
        key = f"{prefix}/{ROWS}"
        if record.prefix != prefix:
            raise IntegrityError(f"{self.label}: a record names row scores at {record.prefix!r}, which is not in it")
        try:
            data = self.store.get(key, MOST_ROWS_BYTES)
        except KeyAbsentError:
            raise IntegrityError(f"store {self.store.uri}: {key} is missing; restore it from a backup") from None
        if digest(data) != record.scores_sha256:
            raise IntegrityError(f"{key}: was changed; its sha256 is {digest(data)}, not {record.scores_sha256}")
        return data


def verify_records(log: RecordLog) -> Report:
    """Reads all recorded scores again, each file of row scores once."""
    faults, size, seen = list[str](), 0, set[str]()
    try:
        entries = log.raw_entries()
        faults += index_faults(log, entries)
        recorded = [record for _, record in events(entries, Record)]
    except StoreError as error:
        return Report(track=log.label, faults=[str(error)])
    for record in recorded:
        if record.scores_sha256 in seen:
            continue
        seen.add(record.scores_sha256)
        try:
            size += len(log.scores(record))
        except StoreError as error:
            faults.append(str(error))
    left_out = skipped(entries, log.kinds)
    return Report(
        track=log.label, entries=len(entries), files=len(seen), bytes=size, faults=faults,
        notes=[f"{log.label}: {left_out}"] if left_out else [],
    )  # fmt: skip


def records_of(log: Log) -> "RecordLog":
    """The recorded scores beside a track."""
    team, _, name = log.label.partition("/")
    return RecordLog(log.store, team, name)
