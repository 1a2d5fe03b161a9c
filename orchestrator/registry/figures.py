"""The scores of a version as its log has them, for the model card of what is made of it."""

from collections.abc import Collection

from orchestrator.registry.references import Version
from orchestrator.track.events import TaskDescription
from orchestrator.track.scores import Score
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.sources import HubData
from trainers.methods.card_figures import OF_STREAM, Figures, TaskFigures


def figures_of(version: Version, names: Collection[str]) -> Figures | None:
    """The scores of these tasks on their test rows, as they were after the version was learned; metrics over all tasks
    if these are all that it has learned. None if none was scored."""
    state = version.state.upto(version.commit.version)
    config = state.readable_config()
    configured = {task.name: task for task in config.tasks} if config else {}
    tasks = [
        of_task(described, score, configured.get(described.name))
        for described, score in zip(state.tasks, version.commit.test, strict=False)
        if described.name in names and score.rows
    ]
    if not tasks:
        return None
    values, halves = state.metrics("test"), state.half_widths("test")
    whole = state.whole("test") == version.commit.version == len(names)
    return Figures(
        reference=version.reference, seq=version.commit.seq, time=version.commit.time,
        manifest_sha256=version.commit.manifest_sha256, tasks=tasks,
        stream={
            name: (value, halves.get(name)) for name in OF_STREAM if whole and (value := values.get(name)) is not None
        },
    )  # fmt: skip


def of_task(described: TaskDescription, score: Score, task: AnyTask | None) -> TaskFigures:
    """The scores of one task; `task` is its configuration, if the log has it."""
    accuracy = score.accuracy()
    metrics = {name: float(value) for name, value in score.metrics.items()}
    if not metrics and accuracy is not None:
        metrics = {"accuracy": accuracy}
    if score.macro_f1 is not None:
        metrics["macro_f1"] = float(score.macro_f1)
    primary = task.scored_by[0] if isinstance(task, GenerativeTask) else next(iter(metrics))
    bounds = score.bounds()
    hub = task if isinstance(task, HubData) and not task.is_folder else None
    return TaskFigures(
        task=described.name,
        classification=not isinstance(task, GenerativeTask),
        metrics={primary: metrics[primary], **metrics},
        interval=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        rows=score.rows,
        data=hub.dataset if hub else task.source if task else "published",
        fingerprint=described.fingerprint,
        hub=hub is not None,
        config=hub.config_name if hub else None,
        split=hub.test_split or hub.train_split if hub else None,
        floor=described.floors.best if described.floors else None,
    )
