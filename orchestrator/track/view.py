"""The output of `status RUN --json`."""

from collections.abc import Sequence

from orchestrator.log.entry import JsonLike
from orchestrator.log.event import Part
from orchestrator.track.spending import spent
from orchestrator.track.state import RunState, Split
from orchestrator.track.union import union_view

OF_A_TASK = ("name", "labels", "rows")
OF_A_COMMIT = ("version", "active_parameters", "stored_bytes", "overlap", "occupancy", "budget", "cost")


def status_view(state: RunState) -> dict[str, JsonLike]:
    """The output of `status RUN --json`. Values are fractions; null if they were not measured.

    `matrix` and `metrics` are of the test split, for reporting alone; decisions read `validation_matrix`. A split that
    was not scored is null in a matrix. `metrics_after` and `validation_metrics_after` are there if the metrics are
    those after fewer tasks than are done, since not all were scored after the last one. `intervals` has the bounds of
    the 95% interval of each score on the test split, `half_widths` half the width of each metric's. `losses` has
    matrices and metrics of the tasks that are judged by their loss, in nats per token; null without them. `union` is
    there if labels were also chosen among those of all tasks learned, see `orchestrator.track.union`; `macro_f1`, of
    the test split, if `evaluate.macro_f1` asks for it. `spent` is what the tasks took, see `spending`. `quarantined` is
    there if a guard stopped a task before it was committed: the number that it would have, its task and its place.
    """
    now = state.driving
    driver = None
    if now.driver and now.heard:
        taken = {"actor": now.driver.actor, "time": now.driver.time, "lease_s": now.driver.start.lease_s}
        driver = {**taken, "heard": now.heard.time}
    return {
        "name": state.name,
        "team": state.team,
        "state": state.status,
        "reason": now.reason,
        "driver": driver,
        "progress": now.progress.body() if now.progress else None,
        "time_left_s": state.time_left_s,
        "spent": used.shown() if (used := spent(state)) else None,
        "tasks": [_task_view(state, index) for index in range(len(state.tasks))],
        "matrix": state.matrix("test"),
        "validation_matrix": state.matrix("validation"),
        "zero_shot": state.zero_shot,
        "metrics": {
            **state.metrics("test"),
            "active_parameters": state.active_parameters,
            "stored_bytes": state.stored_bytes,
        },
        "validation_metrics": state.metrics("validation"),
        "intervals": [[each and [*each] for each in row] for row in state.bounds("test")],
        "half_widths": state.half_widths("test"),
        "losses": _losses_view(state),
        "decisions": [each.shown() for each in state.decisions],
        **_metrics_after(state),
        **union_view(state.commits, [task.rows.test for task in state.tasks]),
        **_f1_view(state),
        **_quarantined_view(state),
    }


def _metrics_after(state: RunState) -> dict[str, JsonLike]:
    splits: dict[str, Split] = {"metrics_after": "test", "validation_metrics_after": "validation"}
    whole = {key: state.whole(split) for key, split in splits.items()}
    return {key: tasks for key, tasks in whole.items() if tasks < state.learned}


def _losses_view(state: RunState) -> dict[str, JsonLike] | None:
    if not state.of_loss:
        return None
    return {
        "matrix": state.losses("test"),
        "validation_matrix": state.losses("validation"),
        "zero_shot": state.zero_shot_losses,
        "metrics": state.loss_metrics("test"),
        "validation_metrics": state.loss_metrics("validation"),
    }


def _task_view(state: RunState, index: int) -> dict[str, JsonLike]:
    floors = state.tasks[index].floors
    common = {**_view(state.tasks[index], OF_A_TASK), **({"floors": floors.body()} if floors else {})}
    commit = next((each for each in state.commits if each.version > index), None)
    if commit is None and state.quarantined and state.quarantined.index == index:
        return {**common, "state": "quarantined"}
    if commit is None:
        running = state.status == "running" and (state.joint or index == state.learned)
        return {**common, "state": "running" if running else "pending"}
    kept: dict[str, JsonLike] = {"kept": commit.kept.body()} if commit.kept else {}
    kept |= {"functional": commit.functional} if commit.functional is not None else {}
    return {**common, "state": "done", "ref": state.reference(commit), **_view(commit, OF_A_COMMIT), **kept}


def _view(part: Part, keys: Sequence[str]) -> dict[str, JsonLike]:
    """The keys as they are stored, null if they are not."""
    stored = part.body()
    return {key: stored.get(key) for key in keys}


def _f1_view(state: RunState) -> dict[str, JsonLike]:
    matrix = state.f1("test")
    return {"macro_f1": matrix} if any(value is not None for row in matrix for value in row) else {}


def _quarantined_view(state: RunState) -> dict[str, JsonLike]:
    if (held := state.quarantined) is None:
        return {}
    told: dict[str, JsonLike] = {"version": held.version, "task": held.task, "time": held.time}
    return {"quarantined": {**told, "location": held.prefix, "manifest_sha256": held.manifest_sha256}}
