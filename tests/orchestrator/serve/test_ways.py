"""Versions answer as they are asked, and requests that are alike are one way."""

import pytest

from cluster.errors import ConfigError, DataError
from orchestrator.serve.app import Service
from orchestrator.serve.ways import Labelling, Text, Writing, asked_task, prompted
from trainers.config import GREEDY, DecodingConfig


def test_ways_that_are_alike_are_equal(labels: Service, texts: Service) -> None:
    (held,) = labels.adapters.held
    assert Labelling.of(held.predictor, None, False) == Labelling.of(held.predictor, "a", False)
    assert Labelling.of(held.predictor, None, True) != Labelling.of(held.predictor, "a", False)
    newest, older = (each.predictor for each in texts.adapters.held)
    ways = {
        Writing(each, "qa", how, most)
        for each in (newest, older, newest)
        for how in (GREEDY, DecodingConfig(stop=("x",)))
        for most in (3, 4)
    }
    assert len(ways) == 8


def test_a_task_that_is_the_only_one_of_its_kind_needs_no_name(texts: Service) -> None:
    newest, older = (each.predictor for each in texts.adapters.held)
    assert Labelling.of(newest, None, False).task == "a" and asked_task(older, None).task.name == "qa"
    with pytest.raises(ConfigError, match=r'has learned qa, chat; name one, as in "task": "qa"$'):
        asked_task(newest, None)


def test_a_version_without_texts_says_where_to_ask(labels: Service) -> None:
    with pytest.raises(ConfigError, match=r"team/run@v1 chooses labels \(a\); ask /v1/classify"):
        asked_task(labels.adapters.held[0].predictor, None)


def test_prompts_that_cannot_be_asked_do_not_fail_others(texts: Service) -> None:
    predictor = texts.adapters.held[0].predictor
    known = asked_task(predictor, "qa")
    way = Writing(predictor, "qa", GREEDY, 3)
    prompts = [
        prompted(known, text, "prompt", number) for number, text in enumerate(("new is ", "word " * 200, "old is "), 1)
    ]
    first, second, third = way.answer(prompts)
    assert isinstance(second, DataError) and "row 2" in str(second)
    assert isinstance(first, Text) and isinstance(third, Text)
    assert [first] == way.answer(prompts[:1]) and first.completion_tokens <= 3 and first.prompt_tokens >= 2
