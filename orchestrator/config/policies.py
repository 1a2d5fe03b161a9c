"""Which policies for data, scores and bounds go together, and with which tasks and methods: `train.replay`,
`train.joint`, `evaluate.labels`, `guards`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.config.bounds import READS_ACCURACY
from trainers.data.generative.config import GenerativeTask

if TYPE_CHECKING:
    from orchestrator.config.run import RunConfig


def check_policies(config: "RunConfig") -> None:
    """Raises ValueError if a policy excludes something else of the configuration; the message names the keys."""
    train, generative = config.train, [isinstance(task, GenerativeTask) for task in config.tasks]
    if train.replay or train.joint:
        check_mixing(config, "train.joint" if train.joint else "train.replay", generative)
    if train.joint:
        check_joint(config)
    if config.evaluate.labels == "both":
        check_union(config, generative)
    check_guards(config)


def check_mixing(config: "RunConfig", key: str, generative: Sequence[bool]) -> None:
    """What holds if a task is trained on rows of others, too."""
    if config.adapter.needs_task:
        raise ValueError(
            f"{key}: adapter.method {config.adapter.method} answers each task with an adapter of its own, which rows "
            f"of other tasks do not belong to; remove {key}, or take a method that answers all tasks alike"
        )
    if any(generative) and not all(generative):
        names = [config.tasks[generative.index(kind)].name for kind in (True, False)]
        raise ValueError(
            f"{key}: rows of generative tasks ({names[0]}) and of classification ({names[1]}) cannot share a batch; "
            f"remove {key}, or write the labels as answers, in rows with a `format`"
        )


def check_joint(config: "RunConfig") -> None:
    """What holds if all tasks are trained at once."""
    if config.train.replay:
        raise ValueError("train.joint: all rows of all tasks are trained on already; remove train.replay")
    if len(config.tasks) < 2:
        raise ValueError("train.joint: one task has nothing to be joined with; remove train.joint, or add a task")
    for index, task in enumerate(config.tasks):
        for key in ("training", "resources"):
            own = getattr(task, key)
            if own is not None and own.model_dump(exclude_none=True):
                section = "train" if key == "training" else "cluster"
                raise ValueError(
                    f"tasks.{index}.{key}: with train.joint all tasks are trained at once, as {section} says; remove it"
                )
    for key in ("max_forgetting", "max_task_forgetting", "max_nll_increase"):
        if getattr(config.guards, key) is not None:
            raise ValueError(f"guards.{key}: with train.joint nothing is learned after a task; remove it")


def check_union(config: "RunConfig", generative: Sequence[bool]) -> None:
    """What holds if tasks are scored among the labels of all of them."""
    if config.adapter.needs_task:
        raise ValueError(
            f"evaluate.labels both: adapter.method {config.adapter.method} answers each task with an adapter of its "
            "own, so the task of a text is known, and with it the labels; use evaluate.labels: own, or a method that "
            "answers all tasks alike"
        )
    if all(generative):
        raise ValueError(
            "evaluate.labels both: generative tasks are answered with any text, and have no labels; use "
            "evaluate.labels: own"
        )
    if config.model.scoring == "generation":
        raise ValueError(
            "evaluate.labels both: with model.scoring generation an answer is any text, so that scores are among all "
            "labels already; use evaluate.labels: own, or model.scoring: likelihood"
        )


def check_guards(config: "RunConfig") -> None:
    """What bounds need to be measured."""
    guards, protection = config.guards, config.adapter.protection
    if guards.confidence is not None and not config.evaluate.keep_rows:
        raise ValueError(
            f"guards.confidence {guards.confidence}: noise is computed from the scores of single rows, which "
            "evaluate.keep_rows: true keeps; set it, or remove guards.confidence"
        )
    if guards.confidence is not None and not guards.asks(READS_ACCURACY):
        raise ValueError(
            f"guards.confidence {guards.confidence}: no bound on accuracies is set; set one of "
            f"{', '.join(READS_ACCURACY)}, or remove it"
        )
    if guards.max_cost is not None and (config.cost is None or config.cost.gpu_hour is None):
        raise ValueError(f"guards.max_cost {guards.max_cost}: nothing says what an hour costs; set cost.gpu_hour")
    fills = protection and (protection.protects_output or protection.projects_input)
    if guards.min_capacity_left is not None and not fills:
        raise ValueError(
            f"guards.min_capacity_left {guards.min_capacity_left}: with these adapter settings nothing fills up (only "
            "bases of method oa that adapters are kept out of do, see adapter.orthogonality); remove it"
        )
