"""What to do when the worker group breaks. Pure functions; the controller acts on them and logs the reason."""

from dataclasses import dataclass

from trainers.config import TrainConfig
from trainers.messages import Lost


@dataclass(frozen=True)
class Retry:
    """Whether to try the task again, with how many accumulated micro-batches, and why."""

    again: bool
    accumulation: int
    reason: str


@dataclass(frozen=True)
class Attempt:
    """The attempt that failed: the how many-th since the task last got further, its accumulated micro-batches, and its
    workers."""

    in_a_row: int
    accumulation: int
    workers: int


def decide_retry(lost: Lost, attempt: Attempt, train: TrainConfig, max_failures: int) -> Retry:
    """A broken group is replaced, `max_failures` times in a row; one without memory only by one that needs less."""
    if lost.kind == "out_of_memory":
        return _without_memory(lost, attempt, train)
    if attempt.in_a_row > max_failures:
        times = f"workers failed {attempt.in_a_row} times in a row (cluster.max_failures {max_failures})"
        return Retry(False, attempt.accumulation, f"{times}, last: {lost.reason}")
    going = f"workers failed ({lost.reason}); attempt {attempt.in_a_row} of {max_failures} to go on"
    return Retry(True, attempt.accumulation, going)


def _without_memory(lost: Lost, attempt: Attempt, train: TrainConfig) -> Retry:
    rows = -(-train.batch_size // (attempt.workers * attempt.accumulation))
    if train.on_out_of_memory == "halve" and rows > 1:
        reason = f"out of memory at {rows} rows a micro-batch; train.on_out_of_memory halves them"
        return Retry(True, 2 * attempt.accumulation, reason)
    advice = "use deepspeed.zero_stage 3, adapter.history concatenated or a shorter model.max_length"
    if rows > 1:
        advice = (
            f"raise train.gradient_accumulation_steps (now {attempt.accumulation}) or set train.on_out_of_memory to "
            "halve; train.gradient_checkpointing keeps fewer activations"
        )
    out = f"a worker ran out of memory at {rows} rows a micro-batch: {advice} ({lost.reason})"
    return Retry(False, attempt.accumulation, out)
