"""What rows leave open: limits against a bootstrap that is drawn here row by row, verdicts, bounds beyond all rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config.run import GuardConfig
from orchestrator.gates.bounds import judge
from orchestrator.gates.figures import measured
from orchestrator.gates.noise import least_of, most_of, noise, of_mean, too_few_rows, unresolvable
from orchestrator.log.decision import Decision
from orchestrator.track.events import Commit
from orchestrator.track.state import RunState
from tests.support.fake_workers import run_config
from trainers.data.row_scores import RowScores


def bits(right: int, rows: int) -> np.ndarray:
    return (np.arange(rows) < right).astype(float)


def plainly(rows: Sequence[np.ndarray], level: float) -> tuple[float, float]:
    rng = np.random.default_rng(9)
    drawn = np.mean([each[rng.integers(len(each), size=(20_000, len(each)))].mean(1) for each in rows], axis=0)
    low, high = np.quantile(drawn, [1 - level, level])
    return float(low), float(high)


def test_limits_of_a_mean_over_tasks() -> None:
    rows = [bits(60, 100), bits(150, 200)]
    found = of_mean(rows, 0.95, 0)
    assert found and (found.low, found.high) == pytest.approx(plainly(rows, 0.95), abs=0.006)
    assert of_mean([], 0.95, 0) is None and of_mean(None, 0.95, 0) is None


def test_one_by_one_each_task_has_its_share_of_the_doubt() -> None:
    rows = [bits(60, 100) - bits(50, 100), bits(30, 100) - bits(10, 100)]
    found, single = most_of(rows, 0.9), of_mean(rows[1:], 0.95, -1)
    assert found and single and found.low == pytest.approx(single.low, abs=0.011)
    least = least_of([bits(60, 100), bits(30, 100)], 0.9)
    assert least and 0.2 < least.low < 0.3 < least.high < 0.4


def kept(**by_task: Sequence[Sequence[int]]) -> Callable[[Commit], Mapping[str, RowScores]]:
    """By task, after each version from its own on, whether each validation row is right."""

    def read(commit: Commit) -> Mapping[str, RowScores]:
        return {
            task: RowScores(
                task=task, split="validation", learned=commit.version, rows=np.arange(len(rows)),
                values=np.array(rows, float),
            )
            for task, versions in by_task.items()
            for rows in versions[commit.version - 1 : commit.version]
        }  # fmt: skip

    return read


@pytest.fixture
def lost(fake_run: Callable[..., Any]) -> RunState:
    """Of 10 rows a has 9, then 7: forgetting 0.2. b has 6."""
    run = fake_run("a", "b")
    run.commit([0.9, 0.0])
    run.commit([0.7, 0.6])
    state: RunState = run.state
    return state


NINE, SEVEN = [1] * 9 + [0], [1] * 7 + [0] * 3
OTHERS = [0, 0] + [1] * 7 + [0]  # seven right, of which all were right before


def verdicts(state: RunState, rows: Any, **bounds: float) -> list[Decision]:
    guards = GuardConfig.model_validate({"confidence": 0.95, **bounds})
    return judge(guards, measured(state), "v2", "guards.", noise=noise(guards, state, rows))


def test_a_breach_inside_the_noise_does_not_stop(lost: RunState) -> None:
    rows = kept(a=[NINE, OTHERS], b=[[], [1] * 6 + [0] * 4])
    (open_,) = verdicts(lost, rows, max_forgetting=0.1)
    assert (open_.verdict, open_.open, open_.measured) == ("go_on", True, pytest.approx(0.2))
    assert open_.limits and open_.limits[0] == pytest.approx(0.0, abs=0.01) and open_.limits[1] == pytest.approx(0.4)
    assert "these rows cannot tell on which side it is" in open_.reason
    (plain,) = judge(GuardConfig(max_forgetting=0.1), measured(lost), "v2")
    assert (plain.verdict, plain.limits, "limits" in plain.model_dump()) == ("stop", None, False)


def test_a_breach_outside_of_it_does(lost: RunState) -> None:
    """If all rows are lost that can be, the draws never fall below the bound."""
    state_rows = kept(a=[NINE, [0] * 10])
    (stop,) = verdicts(lost, state_rows, max_forgetting=0.1)
    assert stop.verdict == "stop" and not stop.open and stop.limits and stop.limits[0] > 0.1
    assert Decision.model_validate(stop.model_dump()) == stop


def test_rows_are_paired(lost: RunState) -> None:
    """Two rows that were lost are told from two lost and many that changed places, which unpaired draws could not."""
    same, moved = kept(a=[NINE, OTHERS]), kept(a=[NINE, [1, 1, 1, 1, 1, 1, 0, 0, 0, 1]])
    widths = [d.limits[1] - d.limits[0] for rows in (same, moved) for d in verdicts(lost, rows, max_forgetting=0.1)
              if d.limits]  # fmt: skip
    assert len(widths) == 2 and widths[0] < widths[1]


@pytest.mark.parametrize(
    ("bounds", "verdict", "is_open"),
    [
        ({"min_average_accuracy": 0.6}, "go_on", True), ({"min_average_accuracy": 0.2}, "go_on", False),
        ({"min_average_accuracy": 0.97}, "stop", False), ({"min_new_accuracy": 0.7}, "go_on", True),
        ({"min_new_accuracy": 0.95}, "stop", False), ({"max_task_forgetting": 0.1}, "go_on", True),
    ],
)  # fmt: skip
def test_every_bound_on_accuracies(lost: RunState, bounds: dict[str, float], verdict: str, is_open: bool) -> None:
    rows = kept(a=[NINE, OTHERS], b=[[], [1] * 6 + [0] * 4])
    (found,) = verdicts(lost, rows, **bounds)
    assert (found.verdict, found.open) == (verdict, is_open)


def test_what_has_no_rows_is_compared_plainly(lost: RunState) -> None:
    (found,) = verdicts(lost, kept(), max_forgetting=0.1)
    assert (found.verdict, found.limits) == ("stop", None)
    other = kept(a=[NINE, OTHERS[:-1]])  # evaluate.rows was changed
    assert [each.limits for each in verdicts(lost, other, max_forgetting=0.1)] == [None]
    assert noise(GuardConfig(max_forgetting=0.1), lost, kept(a=[NINE, OTHERS])) == {}
    assert [each.limits for each in verdicts(lost, kept(), max_active_parameters=1)] == [None]


@pytest.mark.parametrize(
    ("bounds", "rows", "said"),
    [
        ({"max_forgetting": 0.01}, [2000, 2000], []),
        ({"max_forgetting": 0.01}, [50, 50], ["guards.max_forgetting 0.01: "]),
        ({"min_average_accuracy": 0.99, "max_task_forgetting": 0.3}, [20, 90], ["guards.min_average_accuracy 0.99: "]),
        ({"min_new_accuracy": 0.9}, [9000, 10], ["guards.min_new_accuracy 0.9: "]),
        ({"max_forgetting": 0.0, "min_average_accuracy": 0.3}, [5], []),
        ({"max_forgetting": 0.01}, [], []),
    ],
)  # fmt: skip
def test_bounds_that_no_outcome_could_break(bounds: dict[str, float], rows: list[int], said: list[str]) -> None:
    """Checked by drawing: if twice as much is lost as allowed, the limit is on the other side of the bound or not."""
    guards = GuardConfig.model_validate({"confidence": 0.95, **bounds})
    found = unresolvable(guards, rows, "guards.")
    assert [line.partition("the ")[0] for line in found] == said
    assert unresolvable(guards.model_copy(update={"confidence": None}), rows) == []
    if bounds == {"max_forgetting": 0.01}:
        drawn = of_mean([-bits(2 * each // 100, each) for each in rows], 0.95, -1)
        assert drawn is None or (-drawn.high < 0.01) == bool(said)


def test_guards_that_the_scored_rows_cannot_resolve() -> None:
    """Rows beyond `evaluate.rows` are not scored."""
    guards, evaluate = {"max_forgetting": 0.01, "confidence": 0.95}, {"keep_rows": True}
    assert too_few_rows(run_config(Path("store"), guards=guards, evaluate=evaluate), [2000, 2000]) == []
    fewer = run_config(Path("store"), guards=guards, evaluate={**evaluate, "rows": 40})
    (said,) = too_few_rows(fewer, [2000, 2000])
    assert said.startswith("guards.max_forgetting 0.01: the validation rows cannot resolve it")
