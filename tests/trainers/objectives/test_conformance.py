"""Objectives: each passes the same tests, free answers too, which exist only here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from cluster.errors import ConfigError
from tests.support.tiny_models import tiny, tokenizer
from trainers.config import ModelConfig
from trainers.data.answers import Asked
from trainers.data.collate import Batch
from trainers.data.generative.config import AnyTask
from trainers.data.prompts import Prompt
from trainers.data.sources import FilesTask
from trainers.data.tasks import DataConfig, TaskData, load_task
from trainers.messages import Score, TaskRows
from trainers.models.base import Answers, Backbone
from trainers.models.causal import Causal
from trainers.models.loading import load_backbone
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import Rows, TokenIds, Tokenized, TokenizedTask, tokenize_task
from trainers.objectives.base import EncodedSplit, Judged, Objective
from trainers.objectives.known import OBJECTIVES
from trainers.training.evaluate import evaluate

PROMPT = Prompt("question : ", " . answer :")
Prepared = tuple[AnyTask, TaskData]

pytestmark = pytest.mark.usefixtures("one_process")


@dataclass(frozen=True, eq=False, kw_only=True)
class AnsweredSplit:
    """Texts with an answer each."""

    base: TextToText
    token_ids: TokenIds
    answers: Answers

    @property
    def lengths(self) -> np.ndarray:
        return self.token_ids.lengths

    @property
    def terms(self) -> np.ndarray:
        return np.array(list(map(len, self.answers)))

    def batch(self, rows: np.ndarray) -> Batch:
        return self.base.answer_batch([self.token_ids[i] for i in rows], [self.answers[i] for i in rows])

    def losses(self, batch: Batch) -> Tensor:
        return self.base.answer_losses(batch)

    def judge(self, rows: np.ndarray, at_once: int) -> Judged:
        """(B, 2): whether the answer is the right one, and the words of the right one."""
        said = self.base.generate([self.token_ids[i] for i in rows], int(self.terms.max()))
        right = self.base.text([self.answers[i] for i in rows])
        return Judged(torch.tensor([[float(a == b), len(b.split())] for a, b in zip(said, right, strict=True)]), said)

    def score(self, totals: np.ndarray, rows: int) -> Score:
        return Score(int(totals[0]), rows)

    def in_words(self, row: int) -> Asked:
        prompt, answer = self.base.text([self.token_ids[row], self.answers[row]])
        return Asked(prompt=prompt, references=(answer,))


class FreeAnswers:
    """Any text answers a text; what a task's file has as its label is the answer."""

    def prepare(self, task: AnyTask, data: DataConfig, data_dir: Path | None, seed: int) -> TaskData:
        assert isinstance(task, FilesTask)
        return load_task(task, data, data_dir, seed)

    def rows(self, task: AnyTask, data: TaskData, prompt: Prompt) -> TaskRows:
        return TaskRows(
            data.name, data.labels,
            {key: (list(getattr(data, key)["text"]), list(getattr(data, key)["label"])) for key in ("train", "test")},
            prompt, "free",
        )  # fmt: skip

    def check(self, base: Backbone, task: Rows) -> Rows:
        assert isinstance(task, TaskRows)
        if isinstance(base, TextToText):
            base.encode_answers(task.labels, task.prompt)
        return task

    def encode(self, base: Backbone, task: Tokenized) -> Mapping[str, EncodedSplit]:
        assert isinstance(task, TokenizedTask)
        if not isinstance(base, TextToText):
            raise ConfigError("model.task_type: free answers need a language model; use CAUSAL_LM or SEQ_2_SEQ_LM")
        answers = base.encode_answers(task.labels, task.prompt)
        return {
            key: AnsweredSplit(base=base, token_ids=split.token_ids, answers=[answers[i] for i in split.targets])
            for key, split in task.splits.items()
        }


ALL: dict[str, Objective] = {**OBJECTIVES, "free": FreeAnswers()}


@cache
def base(family: str) -> Backbone:
    if family == "minilm":
        return load_backbone(ModelConfig(max_length=32))
    return {"llama": Causal, "t5": Seq2Seq}[family](tiny(family), tokenizer(), 32, "digest")


PAIRS = [("classification", "minilm"), *((name, family) for name in ALL for family in ("llama", "t5"))]
every_pair = pytest.mark.parametrize(("name", "family"), PAIRS)


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, AnyTask]:
    """One task per objective, of the same texts."""
    words = ["red", "very green", "blue"]
    for file, count in (("train", 15), ("test", 7)):
        lines = [f"{file} a thing {'that is ' * (i % 4)}{i},{words[i % 3]}" for i in range(count)]
        (tmp_path / f"{file}.csv").write_text("\n".join(["text,label", *lines]))
    entry = {"name": "t", "source": "files", "train": f"{tmp_path}/train.csv", "test": f"{tmp_path}/test.csv"}
    answered = {**entry, "format": "prompt_completion", "columns": {"prompt": "text", "completion": "label"}}
    read: TypeAdapter[AnyTask] = TypeAdapter(AnyTask)
    answered["metrics"] = ["rouge_l", "nll"]
    return {name: read.validate_python(answered if name == "generation" else entry) for name in ALL}


@pytest.fixture
def data(tasks: dict[str, AnyTask]) -> dict[str, Prepared]:
    """Each as its objective prepares it."""
    return {name: (task, ALL[name].prepare(task, DataConfig(), None, 0)) for name, task in tasks.items()}


def encoded(name: str, family: str, prepared: Prepared) -> EncodedSplit:
    rows = ALL[name].rows(*prepared, PROMPT)
    task = tokenize_task(base(family), rows)
    assert rows.objective == task.objective == name
    return ALL[name].encode(base(family), task)["test"]


@every_pair
def test_a_row_weighs_the_same_in_any_batch(name: str, family: str, data: dict[str, Prepared]) -> None:
    split = encoded(name, family, data[name])
    count = len(data[name][1].test)
    assert split.lengths.shape == split.terms.shape == (count,) and split.terms.min() >= 1
    with torch.no_grad():
        together = split.losses(split.batch(np.arange(count)))
        alone = torch.cat([split.losses(split.batch(np.array([row]))) for row in reversed(range(count))])
    assert together.shape == (count,) and together.dtype == torch.float32 and bool((together > 0).all())
    torch.testing.assert_close(together, alone.flip(0), rtol=1e-4, atol=1e-4)


@every_pair
def test_the_loss_has_a_gradient(name: str, family: str, data: dict[str, Prepared]) -> None:
    split, parameter = encoded(name, family, data[name]), max(base(family).model.parameters(), key=torch.numel)
    parameter.requires_grad_(True)
    (gradient,) = torch.autograd.grad(split.losses(split.batch(np.arange(3))).sum(), [parameter])
    parameter.requires_grad_(False)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.slow
@every_pair
def test_scores_add_up_over_rows(name: str, family: str, data: dict[str, Prepared]) -> None:
    split, count = encoded(name, family, data[name]), len(data[name][1].test)
    with torch.no_grad():
        starts = range(0, count, 2)
        judged = torch.cat([split.judge(np.arange(n, min(n + 2, count)), 2).statistics for n in starts])
    assert judged.ndim == 2 and len(judged) == count
    scored = evaluate(split, 4)
    expected = split.score(judged.double().sum(0).cpu().numpy(), count)
    found = replace(scored.score, interval=None)
    for key, value in (expected.metrics or {}).items():  # batches of other widths: sums of float32 in another order
        assert found.metrics and found.metrics[key] == pytest.approx(value, rel=1e-6), key
    assert replace(found, metrics=expected.metrics) == expected and found.rows == count
    low, high = scored.score.interval or (expected.value, expected.value)
    assert low <= expected.value <= high and (scored.score.interval is None) == (not expected.metrics)
    np.testing.assert_array_equal(scored.values, judged[:, 0].double().numpy())
    assert scored.values.min() >= 0 and scored.values.max() <= 1


def test_a_base_that_cannot_serve_an_objective(data: dict[str, Prepared]) -> None:
    with pytest.raises(ConfigError, match=r"free answers need a language model; use"):
        encoded("free", "minilm", data["free"])


def test_every_kind_of_source_names_a_known_objective() -> None:
    from trainers.data import sources

    kinds = [kind for kind in vars(sources).values() if isinstance(kind, type) and issubclass(kind, sources.TaskBase)]
    assert len(kinds) >= 5 and {kind.objective for kind in kinds} <= set(OBJECTIVES)
