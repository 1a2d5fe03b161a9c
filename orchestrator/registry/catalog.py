"""The contents of tracks, for people and other programs. All but `listed` are pure functions of a log."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, NotRequired, TypedDict

from cluster.storage import Store
from orchestrator.log.entry import Entry
from orchestrator.log.event import Json, events
from orchestrator.log.index import Indexed
from orchestrator.registry.approvals import Word, word_on
from orchestrator.track.aside import Abort, Approval, Delete
from orchestrator.track.events import Committed, skipped
from orchestrator.track.layout import list_tracks
from orchestrator.track.metrics import mean
from orchestrator.track.moves import by_version
from orchestrator.track.scores import Tested, scores_tested
from orchestrator.track.state import check_follows
from orchestrator.track.track import Track


class Listed(NamedTuple):
    """A commit in the form that an index keeps, see `orchestrator.track.track.COLUMNS`. None: not measured.

    `tested` are its scores on the test splits, or the bytes of its entry, which holds them.
    """

    seq: int
    time: str
    version: int
    task: str
    active_parameters: int | None
    stored_bytes: int
    overlap: float | None
    prefix: str
    tested: bytes | Sequence[Tested] = ()

    @property
    def averages(self) -> tuple[float | None, float | None]:
        """Over the test splits of the tasks up to this one: AA, a fraction, and the nll per token of the tasks that are
        judged by their loss, in nats."""
        scores = scores_tested(self.tested) if isinstance(self.tested, bytes) else self.tested
        found = scores[: self.version]
        return mean([each.accuracy for each in found]), mean([each.nll for each in found])


class Row(TypedDict):
    """A version in the form that `adapters list --json` prints. `aliases` are the names that point to it,
    `alias_revisions` the entries that moved them. `average_accuracy` is AA on the test splits of the tasks up to it, a
    fraction, and `average_nll` the mean nll per token of those of them that are judged by it. None: not measured.
    `approval` is the last word on it, if anybody has said one."""

    ref: str
    name: str
    version: int
    aliases: list[str]
    alias_revisions: dict[str, int]
    task: str
    average_accuracy: float | None
    average_nll: float | None
    active_parameters: int | None
    stored_bytes: int
    overlap: float | None
    location: str
    committed_at: str
    approval: NotRequired[Json]


class Shown(Row):
    """A version as `adapters show --json` shows it. `half_widths` are half the 95% intervals of its metrics on the test
    splits, see `orchestrator.track.intervals`."""

    half_widths: dict[str, float | None]
    manifest: Json


def listed(
    store: Store, team: str | None = None, task: str | None = None, note: Callable[[str], None] = lambda _: None
) -> Iterator[Row]:
    """`rows` of every track, or of those of a team; of all adapters, or of those trained on a task. `note` is told
    which entries of a track are left out."""
    for names in list_tracks(store, team):
        track = Track(store, *names)
        below, above = track.brief()
        if left_out := skipped([*below.entries, *above]):
            note(f"{track.label}: {left_out}")
        said = any(entry.op == Approval.op for entry in (*below.entries, *above))
        words = words_on(track.entries()) if said else {}  # an index does not keep what was said
        for row in rows(track.label, below, above, task):
            yield {**row, "approval": words[row["location"]].shown()} if row["location"] in words else row


def words_on(entries: Sequence[Entry]) -> dict[str, Word]:
    """The last word on each version that somebody has said one on, by the place of its files."""
    about = {event.version for _, event in events(entries, Approval)}
    commits = [commit for _, commit in events(entries, Committed) if commit.version in about]
    return {commit.prefix: word for commit in commits if (word := word_on(entries, commit))}


def rows(label: str, below: Indexed, above: Sequence[Entry], task: str | None = None) -> Iterator[Row]:
    """Every committed version that was not deleted (trained on `task`).

    `label` is team/track; `below` and `above` are `Log.brief`. One at a time: 100,000 kept at once take three times as
    long, most of it in Python's garbage collector.
    """
    entries = [*below.entries, *above]
    named = by_version(entries)
    commits = [*map(Listed._make, below.rows), *(_listed(commit) for _, commit in events(above, Committed))]
    before: Listed | None = None
    for commit in standing(commits, entries):
        check_follows(label, before, commit)
        before = commit
        if task is None or commit.task == task:
            pointing = named.get(commit.version, ())
            accuracy, nll = commit.averages
            yield {
                "ref": f"{label}@v{commit.version}",
                "name": label,
                "version": commit.version,
                "aliases": [alias.name for alias in pointing],
                "alias_revisions": {alias.name: alias.seq for alias in pointing},
                "task": commit.task,
                "average_accuracy": accuracy,
                "average_nll": nll,
                "active_parameters": commit.active_parameters,
                "stored_bytes": commit.stored_bytes,
                "overlap": commit.overlap,
                "location": commit.prefix,
                "committed_at": commit.time,
            }


def rows_of(label: str, entries: Sequence[Entry]) -> list[Row]:
    """`rows` of a whole log."""
    return [*rows(label, Indexed(), entries)]


def standing(commits: Iterable[Listed], entries: Sequence[Entry]) -> Iterator[Listed]:
    """The commits that count: no earlier `abort` names their files, and their versions were not deleted."""
    gone = {version for _, delete in events(entries, Delete) for version in delete.versions}
    taken: dict[str, int] = {}
    for entry, abort in events(entries, Abort):
        for prefix in abort.prefixes:
            taken.setdefault(prefix, entry.seq)
    for commit in commits:
        if commit.version not in gone and taken.get(commit.prefix, commit.seq) >= commit.seq:
            yield commit


def _listed(commit: Committed) -> Listed:
    tested = (
        [Tested(score.accuracy(), score.nll()) for score in commit.test]
        if all(score.rows for score in commit.test)
        else []
    )
    return Listed(
        commit.seq, commit.time, commit.version, commit.task, commit.active_parameters, commit.stored_bytes,
        commit.overlap, commit.prefix, tested,
    )  # fmt: skip
