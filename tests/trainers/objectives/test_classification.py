"""Label words as answers: rows per split, loss terms, and what counts as right."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import ConfigError
from tests.support.families import backbone, minilm
from tests.support.task_files import load_rows, many, rows_of
from trainers.config import ModelConfig
from trainers.data.prompts import Prompt
from trainers.data.sources import FilesTask
from trainers.data.tasks import TaskData
from trainers.messages import Score
from trainers.models.capabilities import most_positions
from trainers.models.loading import check_model, load_reader
from trainers.models.tokens import TokenizedTask, tokenize_task
from trainers.objectives.classification import Classification, ClassifiedSplit

OBJECTIVE = Classification()
TASK = FilesTask(name="t", source="files", train="train.csv", test="test.csv")  # type: ignore[arg-type]
WORDS = ["certainly not", "yes"]  # 2 tokens and 1, and the end


@pytest.fixture
def data(tmp_path: Any) -> TaskData:
    """Labels in turn: index 0, 1, 0, …"""
    train, test = ([(text, WORDS[i % 2]) for i, (text, _) in enumerate(many(n, p))] for n, p in ((20, "x"), (5, "y")))
    return load_rows(tmp_path, train, test)


def encoded(base: Any, data: TaskData) -> dict[str, ClassifiedSplit]:
    return OBJECTIVE.encode(base, tokenize_task(base, OBJECTIVE.rows(TASK, data, Prompt())))


def test_rows_are_texts_and_label_indices_of_every_split(data: TaskData) -> None:
    rows = OBJECTIVE.rows(TASK, data, Prompt("a", "b"))
    assert (rows.labels, rows.prompt, rows.objective) == (("certainly not", "yes"), Prompt("a", "b"), "classification")
    for key in ("train", "validation", "test"):
        assert list(zip(*rows.splits[key], strict=True)) == rows_of(getattr(data, key))
    assert rows.splits["test"][1] == [0, 1, 0, 1, 0]


def test_loss_terms_are_the_tokens_of_each_rows_label(data: TaskData) -> None:
    """With its end; one term a row where labels are compared as vectors."""
    assert encoded(backbone("llama"), data)["test"].terms.tolist() == [3, 2, 3, 2, 3]
    assert encoded(minilm(), data)["test"].terms.tolist() == [1] * 5


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_right_is_the_label_of_least_loss(family: str, data: TaskData) -> None:
    """The losses of all rows under either label are the reference; whose label is the smaller one is right."""
    split = encoded(backbone(family), data)["test"]
    rows = np.arange(5)
    texts = [split.token_ids[i] for i in rows]
    with torch.no_grad():
        losses = [
            split.base.losses(split.base.batch(texts, np.full(5, label), split.labels), split.labels)
            for label in (0, 1)
        ]
        found = split.judge(rows, 2).statistics
        own = split.losses(split.batch(rows))
    likeliest = torch.stack(losses).argmin(0).numpy()
    assert found.shape == (5, 1) and found[:, 0].tolist() == (likeliest == split.targets).tolist()
    torch.testing.assert_close(own, torch.stack(losses)[split.targets, rows], rtol=1e-4, atol=1e-4)


def test_the_score_counts_right_rows(data: TaskData) -> None:
    assert encoded(minilm(), data)["test"].score(np.array([3.0]), 5) == Score(3, 5)


def test_a_task_is_cut_at_its_own_length(data: TaskData) -> None:
    """As a base with that length reads it; the base itself is as it was."""
    base, prompt = minilm(), Prompt("it says: ")
    rows = OBJECTIVE.rows(TASK.model_copy(update={"max_length": 6}), data, prompt)
    found, whole = tokenize_task(base, rows), tokenize_task(base, OBJECTIVE.rows(TASK, data, prompt))
    short = tokenize_task(base.cut_at(6), OBJECTIVE.rows(TASK, data, prompt))
    assert isinstance(found, TokenizedTask) and isinstance(short, TokenizedTask) and isinstance(whole, TokenizedTask)
    for split in ("train", "validation", "test"):
        assert [*found.splits[split].token_ids] == [*short.splits[split].token_ids]
        assert found.splits[split].token_ids.lengths.max() == 6 < whole.splits[split].token_ids.lengths.max()
    assert base.max_length == 16
    assert all(split.base is base for split in OBJECTIVE.encode(base, found).values())


@pytest.mark.parametrize(
    ("length", "prompt", "said"),
    [
        (600, "", "task t: max_length: 600 is beyond the model's 512 positions; use at most that"),
        (5, "it says that: ", "task t: max_length: 5 tokens leave no room for a text, the prompt alone takes 6"),
        (4, "", "or raise max_length, which cuts them after 4 tokens"),
    ],
)
def test_a_length_of_its_own_that_does_not_do(tmp_path: Any, length: int, prompt: str, said: str) -> None:
    """Of the model's it says the same with the model's key."""
    words = ["certainly not so", "certainly not this"]
    train, test = ([(text, words[i % 2]) for i, (text, _) in enumerate(many(n, p))] for n, p in ((20, "x"), (5, "y")))
    config = ModelConfig(max_length=16)
    reader = load_reader(config, check_model(config))
    task = TASK.model_copy(update={"max_length": length})
    with pytest.raises(ConfigError, match=re.escape(said)):
        OBJECTIVE.check(reader, OBJECTIVE.rows(task, load_rows(tmp_path, train, test), Prompt(prompt)))


def test_a_decoders_answer_counts_beside_a_length_of_its_own(data: TaskData) -> None:
    """Two tokens and the end, or one more than there are positions for."""
    base = backbone("gpt2")
    most = most_positions(base.model)
    assert most is not None
    OBJECTIVE.check(base, OBJECTIVE.rows(TASK.model_copy(update={"max_length": most - 3}), data, Prompt()))
    rows = OBJECTIVE.rows(TASK.model_copy(update={"max_length": most - 2}), data, Prompt())
    with pytest.raises(ConfigError, match=rf"task t: max_length: {most - 2} tokens of text and 3 of an answer are bey"):
        OBJECTIVE.check(base, rows)
