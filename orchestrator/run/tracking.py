"""A run as its sinks see it: a reporter that also tells them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cluster.errors import ConflictError, GuardStop, Interrupted
from orchestrator.config.run import RunConfig
from orchestrator.log.entry import JsonLike
from orchestrator.run.changes import going_on
from orchestrator.run.watch import Reporter
from orchestrator.sinks.base import Following, Sinks, Status, Tracked, Value
from orchestrator.sinks.opening import open_sinks
from orchestrator.track.state import SPLITS, RunState
from trainers.messages import Progress

SHOWN = ("model", "adapter", "train", "data", "deepspeed")  # the sections that become parameters


class TrackedReporter:
    """Passes on what it is told, and tells the sinks. They begin once this driver has the run, so that
    they hear of its end even if nothing is left to train."""

    def __init__(self, reporter: Reporter, sinks: Sinks, config: RunConfig) -> None:
        self.reporter, self.sinks, self.config = reporter, sinks, config
        self.begun: Following | None = None
        self.summary: Mapping[str, float | None] = {}

    @property
    def following(self) -> Following:
        """The run's sinks."""
        self.begun = self.begun or self.sinks.start(described(self.config))
        return self.begun

    def say(self, message: str) -> None:
        """See Reporter."""
        self.reporter.say(message)

    def taken(self, state: RunState) -> None:
        """See Reporter. An earlier driver may have been killed after the last commit, before it could end anything."""
        self.reporter.taken(state)
        self.config = going_on(self.config, state.config)
        if state.commits:
            self.summary = summary(state)
        self.begun = self.following

    def progress(self, task: str, progress: Progress) -> None:
        """See Reporter. Steps count within the task."""
        self.reporter.progress(task, progress)
        if progress.phase == "train":
            self.following.log(figures(progress), step=progress.step, task=task)

    def committed(self, state: RunState) -> None:
        """See Reporter. Steps count tasks done."""
        self.reporter.committed(state)
        done, self.summary = state.learned, summary(state)
        self.following.log(self.summary, step=done)
        if judged := guards(state):
            self.following.log(judged, step=done)
        for task, scores in accuracies(state).items():
            self.following.log(scores, step=done, task=task)

    def end(self, status: Status) -> None:
        """The driver leaves the run."""
        if self.begun:
            self.begun.end(status, self.summary)


@contextmanager
def tracked(config: RunConfig, reporter: Reporter) -> Iterator[TrackedReporter]:
    """A reporter that tells the configured sinks too, and how the block ended; another driver's run is left to it.

    Raises:
        ConfigError: as `check_tracking`.
    """
    followed = TrackedReporter(reporter, open_sinks(config.tracking, reporter.say), config)
    try:
        yield followed
    except ConflictError:
        raise
    except BaseException as error:
        followed.end(status_of(error))
        raise
    followed.end("finished")


def described(config: RunConfig) -> Tracked:
    """A run as sinks know it."""
    content = config.model_dump(mode="json", include={*SHOWN})
    return Tracked(store=config.store, team=config.team, name=config.name, parameters=leaves(content))


def leaves(content: Mapping[str, JsonLike], above: str = "") -> dict[str, Value]:
    """A configuration by dotted key; a list is written as JSON."""
    found: dict[str, Value] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{above}{key}.")
        elif value is None or isinstance(value, bool | int | float | str):
            found[f"{above}{key}"] = value
        else:
            found[f"{above}{key}"] = json.dumps(value)
    return found


def figures(progress: Progress) -> dict[str, float]:
    """What a logging step measured."""
    return {
        "loss": progress.loss,
        "orthogonality": progress.orthogonality,
        "overlap": progress.overlap,
        "mean_rank": progress.mean_rank,
        "functional": progress.functional,
        "tokens_per_s": progress.tokens_per_s,
        "gpu_bytes": progress.gpu_bytes,
        "progress": progress.step / progress.total_steps if progress.total_steps else 1.0,
    }


def summary(state: RunState) -> dict[str, float | None]:
    """The run after the task committed last: fractions per split, None if not all tasks were scored after it;
    parameters of the stream, seconds of that task."""
    cost = state.commits[-1].cost
    keys = ("aa", "bwt", "forgetting", *(("nll", "nll_increase") if state.of_loss else ()))
    measured: dict[str, float | None] = {}
    for split in SPLITS:
        whole = state.whole(split) == state.learned
        known = {**state.metrics(split), **state.loss_metrics(split)} if whole else {}
        measured |= {f"{key}/{split}": known.get(key) for key in keys}
    return {
        **measured,
        "parameters": state.active_parameters,
        "train_s": cost.train_s if cost else None,
        "evaluate_s": cost.evaluate_s if cost else None,
    }


def guards(state: RunState) -> dict[str, float | None]:
    """How the newest task was judged, by rule: what was measured, the bound, and 1 if it is broken."""
    judged = (each.decision for each in state.decisions)
    newest = {each.rule: each for each in judged if each.subject == f"v{state.learned}"}
    found: dict[str, float | None] = {}
    for name, made in newest.items():
        if name.startswith("guards."):
            rule = name.removeprefix("guards.")
            found[f"guard_broken/{rule}"] = float(made.verdict == "stop")
            figures = {"measured": made.measured, "bound": made.bound}
            found |= {f"guard_{key}/{rule}": value for key, value in figures.items() if isinstance(value, int | float)}
    return found


def accuracies(state: RunState) -> dict[str, dict[str, float | None]]:
    """The last rows of the matrices of both splits, by task: `accuracy`, or `nll` of a task that is judged by it."""
    last, of_loss = state.learned - 1, state.of_loss
    rows = {
        False: {f"accuracy/{split}": state.matrix(split)[last] for split in SPLITS},
        True: {f"nll/{split}": state.losses(split)[last] for split in SPLITS},
    }
    return {task.name: {key: row[j] for key, row in rows[j in of_loss].items()} for j, task in enumerate(state.tasks)}


def status_of(error: BaseException) -> Status:
    """How a run stands that ends with this."""
    if isinstance(error, GuardStop):
        return "stopped"
    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
