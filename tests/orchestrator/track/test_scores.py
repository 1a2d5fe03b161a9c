"""Scores as commits hold them."""

import pytest

from orchestrator.log.entry import UNSCORED, canonical
from orchestrator.track.events import Learned
from orchestrator.track.intervals import of_share
from orchestrator.track.scores import Score, scores_tested


def test_a_generative_task_s_score_is_a_mean_and_one_judged_by_its_loss_has_none() -> None:
    """The sum of the primary metric is no integer; other metrics stand beside it."""
    told = [{"correct": 3.5, "rows": 10, "metrics": {"rouge_l": 0.35, "nll": 1.25}},
            {"correct": None, "rows": 4, "metrics": {"nll": 2.5}}, {"correct": 1, "rows": 2}]  # fmt: skip
    commit = Learned.model_validate({"task": "a", "test": told})
    assert [score.accuracy() for score in commit.test] == [0.35, None, 0.5]
    assert commit.body() == {"task": "a", "test": told}
    scores = [(0.35, None), (None, 2.5), (0.5, None)]
    assert scores_tested(canonical({"task": "a", "test": told})) == scores


def test_bounds() -> None:
    """Stored ones of a generative task, those of the counts of classification, none if there are none."""
    metrics = {"rouge_l": 0.5}
    assert Score(correct=5.0, rows=10, metrics=metrics, interval=(0.25, 0.75)).bounds() == (0.25, 0.75)
    assert Score(correct=5.0, rows=10, metrics=metrics).bounds() is None  # of an older log
    assert Score(correct=5, rows=10).bounds() == of_share(5, 10)
    assert Score(correct=None, rows=0).bounds() is None and Score(correct=0, rows=0).bounds() is None


def test_the_nll_of_a_task_that_is_asked_for_its_perplexity() -> None:
    assert Score(correct=None, rows=4, metrics={"perplexity": 1.0}).nll() == 0
    assert Score(correct=2.0, rows=4, metrics={"rouge_l": 0.5, "nll": 1.0}).nll() is None


def test_what_is_read_of_a_score() -> None:
    judged = Score(correct=None, rows=4, metrics={"nll": 0.5}, interval=(0.25, 1.0))
    assert (judged.accuracy(), judged.half(), judged.counted()) == (None, 0.375, 4)
    assert judged.likelihood() == pytest.approx(0.60653, abs=1e-5) and Score(correct=1, rows=4).likelihood() is None


def test_scores_of_what_was_not_scored_are_one_object() -> None:
    """In commits that were read, whose JSON is one object too; and each is stored as it was."""
    (first, second), (third,) = (
        Learned.model_validate({"task": "a", "test": row}).test for row in ([UNSCORED] * 2, [UNSCORED])
    )
    assert first is second is third and first.body() == UNSCORED and first.accuracy() is None
    assert Learned.model_validate({"task": "a", "test": [{**UNSCORED}]}).test == (first,)
