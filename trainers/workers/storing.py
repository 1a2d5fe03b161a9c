"""Puts what a task leaves into the store: its files, its training log, what was decided, answers and row scores."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cluster.storage import FileRecord, open_store, upload_files
from cluster.temporary import temporary
from trainers.failures import during
from trainers.messages import Job
from trainers.methods.base import Shares
from trainers.training.decisions import DECISIONS, Facts, ModuleDecision, write_decisions
from trainers.training.stage import Trained
from trainers.workers.scoring import Scoring


def decided(
    job: Job, task: str, trained: Trained, *, before: Shares, after: Shares, earlier: int
) -> list[ModuleDecision]:
    """What was decided per module of a task that was just trained after `earlier` others, now. `before` and `after` are
    what was filled before it was trained, and with it."""
    summary = trained.artifact.summary
    assert summary is not None
    return Facts(
        when=datetime.now(UTC).isoformat(timespec="seconds"), run=job.run, task=task, settings=job.adapter,
        log=trained.log.with_course(trained.course), budget=summary.budget, before=before, after=after, earlier=earlier,
        overlaps=summary.overlaps, functional=trained.log.last.get("functional"),
    ).decisions()  # fmt: skip


def store_task(store_uri: str, prefix: str, trained: Trained, decisions: Sequence[ModuleDecision]) -> list[FileRecord]:
    """Stores the task's files below `prefix`. There is no file of decisions if the method takes none per module."""
    with during("upload"), temporary("task") as folder:
        trained.artifact.write(Path(folder))
        trained.log.write(Path(folder) / "training.parquet")
        if decisions:
            write_decisions(Path(folder) / DECISIONS, decisions)
        return upload_files(open_store(store_uri, stands=True), prefix, Path(folder))


def store_scored(store_uri: str, prefix: str, scored: Scoring) -> list[FileRecord]:
    """Stores answers and row scores beside the task's files; no file of what there is none of."""
    if not (scored.kept or scored.rows):
        return []
    with during("upload answers"), temporary("answers") as folder:
        scored.write(Path(folder))
        return upload_files(open_store(store_uri, stands=True), prefix, Path(folder))
