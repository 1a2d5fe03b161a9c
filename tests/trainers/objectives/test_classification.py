"""Label words as answers: rows per split, loss terms, and what counts as right."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import ConfigError
from tests.support.families import backbone, minilm
from tests.support.task_files import load_rows, many, rows_of
from tests.support.tiny_tokenizers import real
from trainers.config import ModelConfig
from trainers.data.prompts import Prompt
from trainers.data.sources import FilesTask
from trainers.data.tasks import TaskData
from trainers.messages import Score, TaskRows
from trainers.models.capabilities import most_positions
from trainers.models.causal import Causal
from trainers.models.loading import check_model, load_reader
from trainers.models.tokens import TokenizedTask, tokenize_task
from trainers.objectives.base import macro_f1
from trainers.objectives.classification import Classification, ClassifiedSplit
from trainers.training.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("one_process")
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


# --- rows and labels of several tasks

SETS = {"a": ("red", "very green"), "b": ("cat", "red", "dog"), "c": ("Very Green", "red")}
every_base = pytest.mark.parametrize("family", ["minilm", "llama", "t5"])


def several(family: str) -> dict[str, ClassifiedSplit]:
    """A split of nine rows per task."""
    base = minilm() if family == "minilm" else backbone(family)
    found = {}
    for name, words in SETS.items():
        texts = [f"{name} {'word ' * (i % 4)}{i}" for i in range(9)]
        rows = TaskRows(name, words, {"test": (texts, [i % len(words) for i in range(9)])}, Prompt("it says: ", " ."))
        found[name] = OBJECTIVE.encode(base, tokenize_task(base, rows))["test"]
    return found


@every_base
def test_rows_of_several_tasks_have_the_losses_of_their_own(family: str) -> None:
    """Each over its own task's labels, whatever stands beside it in the batch; and so have their gradients."""
    splits = several(family)
    others = [(splits["b"], np.array([7, 2, 4])), (splits["c"], np.array([0]))]
    mixed = splits["a"].with_rows(others)
    expected = [(splits["a"], np.arange(9)), *others]
    with torch.no_grad():
        alone = torch.cat([split.losses(split.batch(rows)) for split, rows in expected])
        order = np.array([9, 0, 12, 3, 11, 8, 10, 1])
        found = mixed.losses(mixed.batch(order))
    torch.testing.assert_close(found, alone[torch.from_numpy(order)], rtol=1e-4, atol=1e-4)
    assert mixed.terms.tolist() == np.concatenate([split.terms[rows] for split, rows in expected]).tolist()
    assert mixed.lengths.tolist() == np.concatenate([split.lengths[rows] for split, rows in expected]).tolist()
    parameter = max(mixed.base.model.parameters(), key=torch.numel).requires_grad_(True)
    (gradient,) = torch.autograd.grad(mixed.losses(mixed.batch(order)).sum(), [parameter])
    parameter.requires_grad_(False)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@every_base
@pytest.mark.parametrize("name", [*SETS])
def test_right_among_the_labels_of_several_tasks(family: str, name: str) -> None:
    """The likeliest of all words under this task's prompt, by the losses of each; `red` of two tasks is one word, and
    so are words that the tokenizer does not tell apart."""
    splits = several(family)
    own = splits[name]
    split = own.among([each for each in splits.values() if each is not own])
    assert split.union is not None and len(split.union) == 4, "red, very green, cat, dog"
    texts, rows = [own.token_ids[i] for i in range(9)], np.arange(9)
    words = tuple(dict.fromkeys([*SETS[name], *(word.lower() for word in ("red", "very green", "cat", "dog"))]))
    alike = [word for word in words if word.lower() != word]
    words = tuple(word for word in words if word not in [each.lower() for each in alike])
    labels = own.base.encode_labels(words, Prompt("it says: ", " ."))
    with torch.no_grad():
        losses = torch.stack([own.base.losses(own.base.batch(texts, np.full(9, i), labels), labels) for i in range(4)])
        judged = split.judge(rows, 4)
    assert judged.union is not None and judged.union.tolist() == (losses.argmin(0).numpy() == own.targets).tolist()
    assert judged.statistics.tolist() == own.judge(rows, 4).statistics.tolist(), "own scores do not depend on it"
    scored = evaluate(split, 4)
    assert scored.union is not None and scored.union.tolist() == judged.union.double().tolist()
    assert scored.score == evaluate(own, 4).score and evaluate(own, 4).union is None


def test_labels_of_others_that_a_prompt_joins_otherwise_are_refused() -> None:
    """Of this task alone the words begin with the space that ends the prompt; beside a word that does not, they
    would not."""
    base = Causal(None, real("byte-level", ""), 400, "")
    tasks = [
        TaskRows(name, words, {}, Prompt("", "\nAnswer: "))
        for name, words in (("t", ("yes", "no")), ("u", ("1", "\n2")))
    ]
    OBJECTIVE.check_among(base, tasks[0], tasks[:1])
    OBJECTIVE.check_among(minilm(), tasks[1], tasks[:1])
    with pytest.raises(ConfigError, match=r"task u: evaluate\.labels: both"):
        OBJECTIVE.check_among(base, tasks[1], tasks[:1])


def test_macro_f1() -> None:
    right, answered = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, -1, 2])
    # label 0: 2·2/(2 + 3), label 1: 2·1/(2 + 2), label 3: 0; no row has label 2, and −1 is none
    assert macro_f1(answered, right) == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)
    assert macro_f1(right, right) == 1 and macro_f1(answered, right) != macro_f1(right, answered)
