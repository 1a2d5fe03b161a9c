"""The bounds that a version may have to keep, as `guards`, a team's promotion rules and rules files name them."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from cluster.schema import Grown

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
READS_EARLIER = ("min_average_accuracy", "max_forgetting", "max_task_forgetting", "max_nll_increase")
READS_ACCURACY = ("min_average_accuracy", "min_new_accuracy", "max_forgetting", "max_task_forgetting")


class BoundsConfig(Grown):
    """Bounds on a stream up to a version, read on validation splits; null switches one off.

    Accuracies, forgetting and capacity are fractions. `min_average_accuracy` and `max_forgetting` are means over tasks,
    `max_task_forgetting` is for each task, `min_new_accuracy` for the task that was learned last. `max_nll_increase` is
    how much the nll per token of earlier tasks judged by it may rise, on average, in nats. `max_active_parameters`
    counts the whole stream, `max_task_parameters` its last task. `min_capacity_left` is the share of each layer's width
    that no basis may fill, `max_cost` the money that the stream's training and evaluation may take. With `confidence`,
    a share, a bound on accuracies counts as broken only if it is outside the noise of the rows, see
    `orchestrator.gates.noise`; null compares plainly.
    """

    added: ClassVar[tuple[str, ...]] = (
        "max_nll_increase", "min_new_accuracy", "max_task_forgetting", "max_task_parameters", "min_capacity_left",
        "max_cost", "confidence",
    )  # fmt: skip

    min_average_accuracy: Share | None = None
    min_new_accuracy: Share | None = None
    max_forgetting: Share | None = None
    max_task_forgetting: Share | None = None
    max_nll_increase: NotNegative | None = None
    max_active_parameters: Positive | None = None
    max_task_parameters: Positive | None = None
    min_capacity_left: Share | None = None
    max_cost: NotNegative | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = None

    def asks(self, keys: Sequence[str]) -> list[str]:
        """Those of the bounds that are set."""
        return [key for key in keys if getattr(self, key) is not None]
