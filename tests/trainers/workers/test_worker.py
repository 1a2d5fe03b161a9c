"""Two real processes that serve several jobs in turn leave the same bits as fresh ones."""

import json
from typing import Any

import pytest

from tests.support.launching import launch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("jobs")
    launch(folder, 2, "tests.support.jobs_pair")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_job_taken_after_others_is_bit_equal_with_a_fresh_one(results: dict[str, Any], stage: str) -> None:
    """Adapters and bases of two tasks: jobs taken in turn, after a task that nobody committed and one that diverged,
    with base and tokens from the object store, under folded and concatenated histories."""
    found = results[stage]
    assert {name: found["served"][name] for name in found["fresh"]} == found["fresh"]
    assert [len(digests) for digests in found["served"].values()] == [2, 2]
    assert found["fresh"]["plain"][0] != found["served"]["other"][0]
    assert "is not finite" in found["diverged"] or "the loss is" in found["diverged"]
    assert found["base"]


@pytest.mark.parametrize("stage", ["2", "3"])
def test_a_job_for_other_workers_is_refused(results: dict[str, Any], stage: str) -> None:
    assert results[stage]["unfit"].startswith("deepspeed.zero_stage: 1, but these workers were started with")


@pytest.mark.parametrize("stage", ["2", "3"])
def test_an_order_of_the_same_job_reads_nothing_again(results: dict[str, Any], stage: str) -> None:
    """Nothing is fetched where the worker holds what was committed; both tasks are where it holds another."""
    assert results[stage]["held"] == [0, 2]
