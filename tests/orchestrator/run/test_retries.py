"""The policy for broken worker groups, on plain values."""

import pytest

from orchestrator.run.retries import Attempt, decide_retry
from trainers.config import TrainConfig
from trainers.messages import Lost

DIED, FULL = Lost("workers", "rank 1: died"), Lost("out_of_memory", "CUDA out of memory")


@pytest.mark.parametrize(("in_a_row", "again"), [(1, True), (2, True), (3, False)])
def test_dead_workers_are_replaced_so_many_times_in_a_row(in_a_row: int, again: bool) -> None:
    retry = decide_retry(DIED, Attempt(in_a_row, 2, 4), TrainConfig(), max_failures=2)
    assert retry.again is again and retry.accumulation == 2
    assert "rank 1: died" in retry.reason
    made = retry.decision("a")
    assert (made.rule, made.measured, made.bound, made.subject) == ("cluster.max_failures", in_a_row, 2, "a")
    assert made.verdict == ("retry" if again else "give_up") and made.reason == retry.reason
    assert ("attempt" in retry.reason) is again and ("cluster.max_failures 2" in retry.reason) is not again


@pytest.mark.parametrize(
    ("batch", "accumulation", "workers", "rows"), [(32, 1, 2, 16), (32, 4, 2, 4), (33, 1, 2, 17), (32, 8, 2, 2)]
)
def test_without_memory_micro_batches_are_halved_where_that_is_asked_for(
    batch: int, accumulation: int, workers: int, rows: int
) -> None:
    attempt = Attempt(9, accumulation, workers)  # however often: each needs less than the one before
    retry = decide_retry(FULL, attempt, TrainConfig(batch_size=batch, on_out_of_memory="halve"), max_failures=0)
    assert retry.again and retry.accumulation == 2 * accumulation and f"at {rows} rows" in retry.reason
    made = retry.decision("a")
    assert (made.rule, made.verdict, made.measured, made.bound) == ("train.on_out_of_memory", "halve", rows, "halve")
    stopped = decide_retry(FULL, attempt, TrainConfig(batch_size=batch), max_failures=5)
    assert not stopped.again and stopped.decision("a").verdict == "give_up"
    assert f"gradient_accumulation_steps (now {accumulation})" in stopped.reason


def test_a_single_row_cannot_be_halved() -> None:
    train = TrainConfig(batch_size=8, on_out_of_memory="halve")
    retry = decide_retry(FULL, Attempt(1, 4, 2), train, max_failures=5)
    assert not retry.again and "zero_stage 3" in retry.reason and "CUDA out of memory" in retry.reason
