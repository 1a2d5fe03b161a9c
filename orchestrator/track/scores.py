"""The scores in commits: as events hold them, and read off raw bytes where many commits are listed."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NotRequired, Self, cast

from pydantic import BaseModel, Field, ModelWrapValidatorHandler, Strict, TypeAdapter, model_validator
from typing_extensions import TypedDict  # pydantic asks for this one below Python 3.12

from orchestrator.log.entry import UNSCORED
from orchestrator.log.event import Number, Part
from orchestrator.track.intervals import half, of_share
from trainers import messages
from trainers.data.generative.config import OF_LOSS
from trainers.messages import nll_of
from trainers.objectives.intervals import Bounds

ROUNDING, LEAST_LIKELY = 1e-3, 1e6  # of a sum of scores, and of an nll; the largest nll per token, in nats
MOST_ROWS = 10**8  # of a split: an interval is computed in time that grows with the root of their number


_UNSCORED = dict[type, BaseModel]()


class Score(Part):
    """Correct rows among the scored `rows` of one split; of a generative task the sum of its primary metric, None if
    that is not from 0 to 1. `metrics` has the mean of each metric of a generative task, `interval` the bounds of the
    95% interval of its primary metric, or of its nll per token if `correct` is None; classification's follows from the
    counts. A split that was not scored has no rows, and None. `macro_f1` is there if a run asks for it
    (`evaluate.macro_f1`)."""

    correct: Number | None
    rows: Annotated[int, Strict(), Field(ge=0, le=MOST_ROWS)]
    metrics: dict[str, Number] = Field(default_factory=dict)
    interval: tuple[Number, Number] | None = None
    macro_f1: Number | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _is_shared(cls, value: Any, validated: ModelWrapValidatorHandler[Self]) -> Self:
        """The scores of all splits that were not scored are one object, as their JSON is."""
        if value is not UNSCORED:
            return validated(value)
        if cls not in _UNSCORED:
            _UNSCORED[cls] = validated(value)
        return cast(Self, _UNSCORED[cls])

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.correct is not None and not 0 <= self.correct <= self.rows * (1 + ROUNDING):
            raise ValueError(f"{self.correct} correct of {self.rows} rows")
        if (nll := self.nll()) is not None and not -ROUNDING <= nll < LEAST_LIKELY:
            raise ValueError(f"an nll of {nll} per token")
        return self

    def accuracy(self) -> float | None:
        """The share of correct rows, or the mean of the primary metric over the rows."""
        return divided(self.correct, self.rows)

    def nll(self) -> float | None:
        """The nll per token of a task that is judged by its loss, in nats; None of any other."""
        return loss_of(self.correct, self.metrics)

    def likelihood(self) -> float | None:
        """exp(−nll), the geometric mean of a token's probability; None if the task is not judged by its loss."""
        nll = self.nll()
        return None if nll is None else math.exp(-nll)

    def bounds(self) -> Bounds | None:
        """The 95% interval of `accuracy`, or of `nll`; None if it was not measured."""
        if self.metrics or self.correct is None:
            return self.interval
        return of_share(self.correct, self.rows) if self.rows else None

    def half(self) -> float | None:
        """Half the width of `bounds`."""
        return half(self.bounds())

    def f1(self) -> float | None:
        """The macro F1 of a classification task; None if it was not asked for."""
        return self.macro_f1

    def counted(self) -> int:
        """The rows that were scored."""
        return self.rows


def scores(row: Sequence[messages.Score]) -> tuple[Score, ...]:
    """A metrics row as the log keeps it: sums, from which fractions are computed when read."""
    return tuple(score_of(score) for score in row)


def score_of(score: messages.Score) -> Score:
    """One split's score as the log keeps it; `metrics`, `interval` and `macro_f1` only if there are some."""
    metrics = {"metrics": dict(score.metrics)} if score.metrics else {}
    interval = {"interval": score.interval} if score.interval else {}
    macro_f1 = {} if score.macro_f1 is None else {"macro_f1": score.macro_f1}
    return Score.model_validate({"correct": score.correct, "rows": score.rows, **metrics, **interval, **macro_f1})


class _Counts(TypedDict):
    correct: float | None
    rows: int
    metrics: NotRequired[dict[str, float]]


class _Tested(TypedDict, total=False):
    test: list[_Counts]


_TESTED = TypeAdapter(_Tested)  # a model takes three times as long, and 100,000 commits are listed at once


class Tested(NamedTuple):
    """A task's score on its test split: its accuracy, or, if its loss judges it, its nll per token. None: not
    measured."""

    accuracy: float | None
    nll: float | None = None


def scores_tested(raw: bytes) -> list[Tested]:
    """The scores on the test splits in the bytes of a commit; none if they are malformed, or if the commit does not
    have all of them."""
    try:
        scores = _TESTED.validate_json(raw).get("test", [])
    except ValueError:
        try:
            scores = _TESTED.validate_python(json.loads(raw)).get("test", [])  # a lone surrogate is no error here
        except ValueError:
            return []
    found = []
    for score in scores:
        correct, rows = score["correct"], score["rows"]
        if not rows:
            return []
        found.append(
            Tested(None, loss_of(None, score.get("metrics", {}))) if correct is None else Tested(correct / rows)
        )
    return found


def loss_of(correct: float | None, metrics: Mapping[str, float]) -> float | None:
    """The nll per token among a score's metrics, None unless its loss judges the task."""
    return nll_of(metrics) if correct is None and not metrics.keys().isdisjoint(OF_LOSS) else None


def divided(correct: float | None, rows: int) -> float | None:
    """correct / rows, None if `correct` is, or if there are no rows."""
    return None if correct is None or not rows else correct / rows
