"""Series of recorded scores, and what of them is flagged."""

from typing import Any

import numpy as np

from orchestrator.followed.records import records_of
from orchestrator.followed.trend import trend
from orchestrator.registry.references import Version

GOOD = [1] * 45 + [0] * 5
SLOWLY = [[1] * (45 - fewer) + [0] * (5 + fewer) for fewer in (0, 4, 8, 12)]


def test_a_slow_drift_shows_against_the_first_score(version: Version, recorder: Any) -> None:
    """No step is outside the noise; the sum of them is."""
    for values in SLOWLY:
        recorder(values)
    (series,) = trend(records_of(version.track), level=0.01)
    first, second, third, last = series.points
    assert first.first is None and first.before is None and first.verdict == "within noise"
    assert second.before is None and second.first is not None and second.first.change.changed == 4
    assert third.verdict == "worse" and last.verdict == "worse" and series.drifted
    assert last.before is not None and last.before.verdict == "within noise" and last.before.seq == 3
    assert series.comparisons == 5
    assert not trend(records_of(version.track), level=1e-6)[0].drifted


def test_series_are_by_task_and_metric(version: Version, recorder: Any) -> None:
    recorder(GOOD), recorder(GOOD, task="b"), recorder([0.5, 0.25], loss=True), recorder(GOOD)
    found = trend(records_of(version.track))
    assert [(each.task, each.metric, len(each.points)) for each in found] == [
        ("a", "accuracy", 2), ("b", "accuracy", 1), ("a", "nll", 1),
    ]  # fmt: skip
    assert [each.task for each in trend(records_of(version.track), task="b")] == ["b"]
    assert found[2].by_loss and not any(each.drifted for each in found)


def test_other_rows_are_no_pairs(version: Version, recorder: Any) -> None:
    recorder(GOOD), recorder(GOOD[5:], rows="two"), recorder([1] * 20 + [0] * 40, rows="three")
    (series,) = trend(records_of(version.track))
    tests = [(point.first.change.test, point.first.verdict) for point in series.points[1:] if point.first]
    assert tests == [("Fisher, exact", "within noise"), ("Fisher, exact", "worse")]


def test_the_newest_alone_are_compared_with_the_first_all_the_same(version: Version, recorder: Any) -> None:
    for values in SLOWLY:
        recorder(values)
    (series,) = trend(records_of(version.track), last=1)
    (point,) = series.points
    assert point.first is not None and point.first.seq == 1 and point.verdict == "worse"


def test_better_is_told_too_and_shown_in_json(version: Version, recorder: Any) -> None:
    recorder(SLOWLY[3]), recorder(GOOD)
    (series,) = trend(records_of(version.track))
    told = series.shown()
    assert series.points[1].verdict == "better" and not series.drifted
    assert told["points"][1]["since_first"]["difference"] == np.float64(0.24).round(2)  # type: ignore[index, call-overload]
    assert told["points"][0]["since_first"] is None and told["comparisons"] == 1  # type: ignore[index, call-overload]
