"""Which cases are drawn, and which tests share a process."""

import pytest

from tests.conftest import GROUP_OF, RAY, group_of
from tests.support import sample as drawn
from tests.support.sample import sample, some


def test_a_sample_is_the_same_each_time_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "ALL_CASES", False)
    cases, found = [*range(100)], set[tuple[int, ...]]()
    for seed in range(5):
        monkeypatch.setattr(drawn, "SEED", seed)
        few = sample(cases, 7)
        assert few == sample(cases, 7) == sorted(few) and len({*few}) == 7 and {*few} <= {*cases}
        found.add(tuple(few))
    assert len(found) == 5 and sample([1, 2], 7) == [1, 2] and some(500, 150) == 150


def test_all_cases_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "ALL_CASES", True)
    assert sample("abc", 1) == ["a", "b", "c"] and some(500, 150) == 500


def test_what_shares_a_fixture_is_in_one_group(request: pytest.FixtureRequest) -> None:
    """And Ray is in no other."""
    for item in request.session.items:
        for name in {*GROUP_OF} & {*getattr(item, "fixturenames", ())}:
            assert group_of(item.nodeid) == GROUP_OF[name], item.nodeid
        if group_of(item.nodeid) in RAY and item.path.parent.name == "e2e":
            assert item.get_closest_marker("slow")
    assert (
        group_of("tests/e2e/test_run.py::test_a")
        == group_of("tests/trainers/workers/test_pool.py::test_b[1]")
        == "here"
    )
    assert group_of("tests/e2e/test_cluster.py::test_c") == "nodes"
    assert group_of("tests/trainers/workers/test_group.py::test_c") == "trainers/workers/test_group.py"
