"""Decides whether to retry after the worker group breaks. Pure functions; the controller acts and logs the reason."""

from dataclasses import dataclass

from orchestrator.log.decision import Decision
from trainers.config import TrainConfig
from trainers.messages import Lost

FAILURES, MEMORY = "cluster.max_failures", "train.on_out_of_memory"


@dataclass(frozen=True, kw_only=True)
class NextAttempt:
    """Whether to try the task again, with how many accumulated micro-batches, and why: `measured` against the `bound`
    of `rule`."""

    again: bool
    accumulation: int
    reason: str
    rule: str
    measured: int
    bound: int | str

    def decision(self, task: str) -> Decision:
        """The form that a log keeps."""
        verdict = ("halve" if self.rule == MEMORY else "retry") if self.again else "give_up"
        return Decision(
            rule=self.rule, subject=task, measured=self.measured, bound=self.bound, verdict=verdict, reason=self.reason
        )


@dataclass(frozen=True)
class Attempt:
    """The attempt that failed: its number since the task last advanced, counted from 1, its accumulated micro-batches,
    and its workers."""

    in_a_row: int
    accumulation: int
    workers: int


def decide_retry(lost: Lost, attempt: Attempt, train: TrainConfig, max_failures: int) -> NextAttempt:
    """A broken group is replaced, `max_failures` times in a row. After running out of memory, a group is replaced only
    by one that needs less."""
    if lost.kind == "out_of_memory":
        return _without_memory(lost, attempt, train)
    if attempt.in_a_row > max_failures:
        times = f"workers failed {attempt.in_a_row} times in a row (cluster.max_failures {max_failures})"
        reason, again = f"{times}, last: {lost.reason}", False
    else:
        reason, again = f"workers failed ({lost.reason}); attempt {attempt.in_a_row} of {max_failures} to go on", True
    return NextAttempt(
        again=again, accumulation=attempt.accumulation, reason=reason, rule=FAILURES, measured=attempt.in_a_row,
        bound=max_failures,
    )  # fmt: skip


def _without_memory(lost: Lost, attempt: Attempt, train: TrainConfig) -> NextAttempt:
    rows = -(-train.batch_size // (attempt.workers * attempt.accumulation))
    if train.on_out_of_memory == "halve" and rows > 1:
        reason = f"out of memory at {rows} rows per micro-batch; train.on_out_of_memory halves them"
        return _by_memory(True, 2 * attempt.accumulation, reason, rows, train)
    advice = "use deepspeed.zero_stage 3, adapter.history concatenated or a shorter model.max_length"
    if rows > 1:
        advice = (
            f"raise train.gradient_accumulation_steps (now {attempt.accumulation}) or set train.on_out_of_memory to "
            "halve; train.gradient_checkpointing keeps fewer activations"
        )
    out = f"a worker ran out of memory at {rows} rows per micro-batch: {advice} ({lost.reason})"
    return _by_memory(False, attempt.accumulation, out, rows, train)


def _by_memory(again: bool, accumulation: int, reason: str, rows: int, train: TrainConfig) -> NextAttempt:
    """`rows` of a micro-batch were too many."""
    return NextAttempt(
        again=again, accumulation=accumulation, reason=reason, rule=MEMORY, measured=rows, bound=train.on_out_of_memory
    )
