"""What is scored after each task of a run, and what that costs. Pure functions of its configuration."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from orchestrator.config.bounds import READS_EARLIER
from orchestrator.config.run import GuardConfig, RunConfig
from trainers.config import TrainConfig


class Size(NamedTuple):
    """A task's rows per split, and the tokens that are generated at most for a row."""

    train: int
    validation: int
    test: int
    generated: int


class Cost(TypedDict):
    """What the evaluation of a whole run takes. `passes` counts splits that are scored, `rows` those of all passes,
    beside all `trained_rows`; `generated_tokens` is an upper bound. `kept_answers` are per generative
    task."""

    passes: int
    rows: int
    trained_rows: int
    generated_tokens: int
    kept_answers: int


class Scored(TypedDict):
    """What is to be scored with a task, see `Order`."""

    zero_shot: bool
    validation: Sequence[int]
    test: Sequence[int]


def scored(config: RunConfig, index: int) -> Scored:
    """After every `evaluate.every`-th task, counted from 1, and after the last, both splits of all tasks or of those
    learned so far; the untrained model before the first task, if all are scored. After any other task its own splits,
    and the validation splits of what was learned if a guard reads them."""
    settings, total = config.evaluate, len(config.tasks)
    done, everything = index + 1, settings.tasks == "all"
    validation = test = range(total if everything else done)
    if done % settings.every and done < total:
        validation, test = range(done) if guarded(config.guards) else range(index, done), range(index, done)
    return {"zero_shot": everything and index == config.stages.start, "validation": validation, "test": test}


def cost(config: RunConfig, sizes: Sequence[Size], since: int = 0) -> Cost:
    """The cost of the run's evaluation if it trains all its tasks from number `since` on, of these sizes."""
    stages = [index for index in config.stages if index >= since]
    orders = [scored(config, index) for index in stages]
    first = range(len(sizes) if orders and orders[0]["zero_shot"] else 0)
    tested = [index for row in (first, *(order["test"] for order in orders)) for index in row]
    validated = [index for order in orders for index in order["validation"]]
    passes = [(sizes[i].validation, sizes[i].generated) for i in validated]
    passes += [(sizes[i].test, sizes[i].generated) for i in tested]
    most, train = config.evaluate.rows, [size.train for size in sizes]
    rows = [size if most is None else min(size, most) for size, _ in passes]
    return {
        "passes": len(passes),
        "rows": sum(rows),
        "trained_rows": sum(trained_rows(config.training_of(i), config.trained_rows(train, i)) for i in stages),
        "generated_tokens": sum(count * tokens for count, (_, tokens) in zip(rows, passes, strict=True)),
        "kept_answers": config.evaluate.keep_answers if any(size.generated for size in sizes) else 0,
    }


def trained_rows(train: TrainConfig, rows: int) -> int:
    """The rows that a task of so many is trained on, each as often as it is read."""
    epochs, steps = divmod(train.steps(rows), -(-rows // train.batch_size))
    return epochs * rows + min(steps * train.batch_size, rows)


def guarded(guards: GuardConfig) -> bool:
    """Whether a guard reads the scores of earlier tasks."""
    return bool(guards.asks(READS_EARLIER))
