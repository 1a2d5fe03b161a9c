"""What was decided per module of a run's tasks: how many dimensions stay, what is protected, how much room is left."""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster.errors import IntegrityError, KeyAbsentError
from orchestrator.log.chain import READERS
from orchestrator.log.event import Part
from orchestrator.track.events import Committed
from orchestrator.track.state import RunState
from orchestrator.track.track import Track, manifest_files
from trainers.training.decisions import DECISIONS, Columns, Facts, ModuleDecision, read_decisions

LOG = "training.parquet"


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The decisions of a committed task.

    If they were not `recorded`, since an older Orthoplex trained the task, they are told from its training log and from
    what the commits say of budgets and occupancy: `when` is then that of the commit, and the overlap of single modules
    is null. There are none if the method decides nothing per module, or if the version has no training log.
    """

    commit: Committed
    recorded: bool
    lines: Sequence[ModuleDecision]

    @property
    def chosen(self) -> list[ModuleDecision]:
        """Those about budgets."""
        return [each for each in self.lines if each.decision == "budget"]

    def of(self, module: str) -> dict[str, ModuleDecision]:
        """The decisions on a module, by what is decided."""
        return {each.decision: each for each in self.lines if each.module == module}


def decided(track: Track, state: RunState, commits: Sequence[Committed] | None = None) -> list[Decided]:
    """The decisions of a run's committed tasks, or of those of `commits`.

    Raises:
        IntegrityError: a file is missing or was changed.
    """
    with ThreadPoolExecutor(READERS) as pool:
        asked = state.commits if commits is None else commits
        return list(pool.map(lambda commit: of_commit(track, state, commit), asked))


def of_commit(track: Track, state: RunState, commit: Committed) -> Decided:
    """The decisions of one task."""
    manifest = track.manifest_of(commit)
    listed = manifest_files(manifest)
    if commit.decisions_sha256 is None and DECISIONS not in listed:
        log = columns(track.read_file(commit.prefix, manifest, LOG)) if LOG in listed else {}
        return Decided(commit=commit, recorded=False, lines=told(state, commit, log))
    try:
        data = track.read_file(commit.prefix, manifest, DECISIONS)
    except KeyAbsentError as error:
        raise IntegrityError(f"{error}, which its commit names; restore it from a backup") from None
    return Decided(commit=commit, recorded=True, lines=read_decisions(data))


def training_log(track: Track, commit: Committed) -> Columns:
    """The columns of a committed task's training.parquet, its digest checked; none if the version has no such file."""
    try:
        (data,) = track.committed(commit, LOG)
    except KeyAbsentError:
        return {}
    return columns(data)


def columns(data: bytes) -> Columns:
    """The columns of a training log."""
    import pyarrow.parquet as pq

    found: Columns = pq.read_table(io.BytesIO(data)).to_pydict()
    return found


def told(state: RunState, commit: Committed, log: Columns) -> list[ModuleDecision]:
    """The decisions of a task that kept none, as far as its log and the commits tell."""
    config = state.readable_config()
    if config is None:
        return []
    before = [each.occupancy for each in state.commits if each.version < commit.version]
    return Facts(
        when=commit.time, run=state.label, task=commit.task, settings=config.adapter, log=log,
        budget=figures(commit.budget), before=figures(before[-1]) if before else {}, after=figures(commit.occupancy),
        earlier=len(before), overlaps={}, functional=commit.functional,
    ).decisions()  # fmt: skip


def figures(parts: Mapping[str, Part]) -> dict[str, dict[str, float]]:
    """What a commit says of each module, as numbers."""
    return {module: part.model_dump() for module, part in parts.items()}
