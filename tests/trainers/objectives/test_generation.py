"""Free answers: what is trained, generated and scored, against one row at a time in plain transformers."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.nn.functional import cross_entropy
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cluster.errors import ConfigError, DataError
from tests.support import zoo
from tests.support.tiny_models import tiny, tokenizer
from trainers.config import ModelConfig
from trainers.data.cleaning import DataConfig
from trainers.data.generative.config import AnyTask, GenerativeTask
from trainers.data.lines import Lines
from trainers.data.prompts import Prompt
from trainers.messages import GenerativeRows
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone
from trainers.models.seq2seq import Seq2Seq
from trainers.models.tokens import tokenize_task
from trainers.objectives.generation import AnsweredSplit, Generation
from trainers.objectives.metrics import METRICS
from trainers.training.evaluate import evaluate

OBJECTIVE = Generation()
PAIRS = [
    {"prompt": f"def {verb}_{thing}({arguments}):\nSummary:", "completion": f" {verb.title()} the {thing}{more}."}
    for verb in ("get", "set", "remove", "count")
    for thing, arguments, more in (("item", "self", ""), ("names", "path, sep", " of a path"), ("x", "", " at once"))
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"What does {each['prompt'].split('(')[0][4:]} do?"},
            {"role": "assistant", "content": each["completion"].strip()},
            {"role": "user", "content": "Thanks."},
            {"role": "assistant", "content": "You are welcome."},
        ]
    }
    for each in PAIRS
]

pytestmark = pytest.mark.usefixtures("one_process")


@cache
def docs_lm() -> Backbone:
    return load_backbone(ModelConfig(name="docs-lm", task_type="CAUSAL_LM", max_length=96))


@cache
def t5() -> Backbone:
    return Seq2Seq(tiny("t5"), tokenizer(), 48, "digest")


def rows_of(folder: Path, rows: Sequence[dict[str, Any]], **keys: Any) -> GenerativeRows:
    """The rows of a task whose last four rows are for the test."""
    for name, part in (("train", rows[:-4]), ("test", rows[-4:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    entry = {"name": "t", "source": "files", "train": f"{folder}/train.jsonl", "test": f"{folder}/test.jsonl", **keys}
    task: AnyTask = TypeAdapter(AnyTask).validate_python(entry)
    assert isinstance(task, GenerativeTask)
    return OBJECTIVE.rows(task, OBJECTIVE.prepare(task, DataConfig(), None, 0), Prompt())


def split_of(base: Backbone, rows: GenerativeRows, key: str = "test") -> AnsweredSplit:
    OBJECTIVE.check(base, rows)
    return OBJECTIVE.encode(base, tokenize_task(base, rows))[key]


def test_losses_are_those_of_the_trained_tokens_of_each_row_alone(tmp_path: Path) -> None:
    base = docs_lm()
    longer = [
        {**each, "prompt": "# Many more tokens, to make lines long.\n" * 4 + each["prompt"]} for each in PAIRS[:3]
    ]
    split = split_of(base, rows_of(tmp_path, [*longer, *PAIRS], format="prompt_completion"), "train")
    rows = np.arange(len(split.examples))
    batch = split.batch(rows)
    assert isinstance(batch, Lines) and batch.packed and batch.ids.shape[0] < len(rows), "short rows share lines"
    with torch.no_grad():
        found = split.losses(batch)
        for index, example in enumerate(split.examples):
            ids, trained = torch.from_numpy(example.ids).long(), torch.from_numpy(example.trained)
            losses = cross_entropy(base.model(ids.unsqueeze(0)).logits[0, :-1], ids[1:], reduction="none")
            assert float(found[index]) == pytest.approx(float(losses[trained[1:]].sum()), rel=1e-4)
            assert int(trained[1:].sum()) == split.terms[index]
            assert base.text([ids[trained].tolist()]) == [json.loads(split_row(split, index))["completion"].strip()]


def split_row(split: AnsweredSplit, index: int) -> str:
    """The completion of a row as JSON, from its references."""
    return json.dumps({"completion": split.examples[index].references[0]})


@pytest.mark.parametrize("base", [docs_lm, t5], ids=["docs-lm", "t5"])
def test_answers_are_those_of_transformers_row_by_row(base: Any, tmp_path: Path) -> None:
    backbone = base()
    split = split_of(backbone, rows_of(tmp_path, PAIRS, format="prompt_completion"))
    found = [each.text for each in split.answers(np.arange(4), at_once=3)]
    for index, answer in enumerate(found):
        asked = split.examples[index].ids[: split.examples[index].prompt_length]
        output = backbone.model.generate(
            torch.from_numpy(asked).long().unsqueeze(0), max_new_tokens=split.most, do_sample=False,
            pad_token_id=backbone.pad_id, eos_token_id=backbone.tokenizer.eos_token_id,
        )  # fmt: skip
        said = output[0, 1 if backbone.closes_text else len(asked) :]
        assert answer == backbone.tokenizer.decode(said, skip_special_tokens=True)
    assert len({*found}) > 1 or backbone.closes_text


def test_decoding_of_a_task(tmp_path: Path) -> None:
    keys = {"format": "prompt_completion", "decoding": {"max_new_tokens": 5, "stop": ["."]}}
    base, rows = docs_lm(), rows_of(tmp_path, PAIRS, **keys)
    split = split_of(base, rows)
    assert split.most == 5 and split.decoding.stop == (".",)
    asked = [split.asked(i) for i in range(4)]
    expected = base.generate(asked, 5, split.examples.counts.ends)  # type: ignore[attr-defined]
    assert [each.text for each in split.answers(np.arange(4), at_once=3)] == [
        text.partition(".")[0] for text in expected
    ]
    most = {"format": "prompt_completion", "decoding": {"max_new_tokens": 1020}}
    with pytest.raises(ConfigError, match=r"beyond the model's 1024 positions; lower .* or decoding.max_new_tokens"):
        OBJECTIVE.check(base, rows_of(tmp_path, PAIRS, **most))


@pytest.mark.parametrize("base", [docs_lm, t5], ids=["docs-lm", "t5"])
def test_a_plain_row_in_words_is_its_prompt(base: Any, tmp_path: Path) -> None:
    split = split_of(base(), rows_of(tmp_path, PAIRS, format="prompt_completion"))
    for row in range(4):
        (as_scored,) = base().text([split.asked(row)])
        assert split.in_words(row).prompt == as_scored
        assert base is t5 or as_scored == PAIRS[row - 4]["prompt"].strip()


def test_a_conversation_in_words_shows_who_says_what(tmp_path: Path) -> None:
    split = split_of(docs_lm(), rows_of(tmp_path, CHATS, format="messages", chat_template="chatml"))
    asked = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in CHATS[-4]["messages"][:3])
    assert split.in_words(0).prompt == f"{asked}<|im_start|>assistant"
    assert split.in_words(0).references == ("You are welcome.",)


def test_a_score_is_the_mean_of_the_first_metric_and_tells_the_others(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, PAIRS, format="prompt_completion", metrics=["rouge_l", "exact_match", "perplexity"])
    split = split_of(docs_lm(), rows)
    scored = evaluate(split, 3)
    answers = [each.text for each in split.answers(np.arange(4), 4)]
    expected = [
        METRICS["rouge_l"](said, each.references, "") for said, each in zip(answers, split.examples, strict=True)
    ]
    np.testing.assert_allclose(scored.values, expected)
    assert scored.score.correct == pytest.approx(sum(expected)) and scored.score.rows == 4
    assert [*scored.score.metrics] == ["rouge_l", "exact_match", "perplexity"]
    with torch.no_grad():
        nll = float(split.losses(split.batch(np.arange(4))).sum()) / split.terms.sum()
    assert scored.score.metrics["perplexity"] == pytest.approx(np.exp(nll), rel=1e-4)
    assert scored.score.metrics["rouge_l"] == pytest.approx(np.mean(expected))


def test_a_task_that_is_judged_by_loss_alone_has_no_accuracy(tmp_path: Path) -> None:
    split = split_of(docs_lm(), rows_of(tmp_path, PAIRS, format="prompt_completion", metrics=["nll"]))
    scored = evaluate(split, 2)
    assert scored.score.correct is None and scored.score.metrics["nll"] > 0
    assert ((scored.values > 0) & (scored.values < 1)).all()


@pytest.mark.parametrize(("train_on", "said"), [("all_assistant", 2), ("last_assistant", 1)])
def test_turns_of_a_conversation(train_on: str, said: int, tmp_path: Path) -> None:
    base = docs_lm()
    split = split_of(base, rows_of(tmp_path, CHATS, format="messages", train_on=train_on), "train")
    end = base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for example in split.examples:
        ended = int((example.ids[example.trained] == end).sum())
        assert ended == said, "each trained turn with its end"
        assert "welcome" in base.tokenizer.decode(example.ids[example.trained])
        assert base.tokenizer.decode(example.ids[: example.prompt_length]).endswith("<|im_start|>assistant\n")
    assert split.examples.counts.ends == (end,)


def test_plain_text_is_trained_on_whole(tmp_path: Path) -> None:
    texts = [{"text": each["prompt"] + each["completion"]} for each in PAIRS]
    split = split_of(docs_lm(), rows_of(tmp_path, texts, format="text"), "train")
    assert (split.terms == split.lengths - 1).all(), "all but the first, which has nothing before it"
    assert split.metrics == ("nll",)


def test_rows_beyond_the_models_positions_are_refused_before_anything_starts(tmp_path: Path) -> None:
    long = [{**each, "prompt": each["prompt"] + " word" * 1100} for each in PAIRS]
    rows = rows_of(tmp_path, long, format="prompt_completion", max_length=4000)
    with pytest.raises(
        ConfigError, match=r"task t: rows and answers take up to 11\d\d tokens, beyond the model's 1024"
    ):
        OBJECTIVE.check(docs_lm(), rows)


def test_answers_beyond_the_decoders_positions_are_refused_before_anything_starts(tmp_path: Path) -> None:
    """An encoder-decoder has positions for prompts and others for answers."""
    config = zoo.tiny_config(CONFIG_MAPPING["led"], max_decoder_position_embeddings=20)
    base = Seq2Seq(zoo.tiny_model(config, "AutoModelForSeq2SeqLM"), zoo.tokenizer(), 16, "digest")

    def check(prompt: int, completion: int) -> None:
        pairs = [{"prompt": f"word{i} a" + " bad" * prompt, "completion": "red " * completion} for i in range(12)]
        OBJECTIVE.check(base, rows_of(tmp_path, pairs, format="prompt_completion", max_length=4000))

    check(46, 19)
    with pytest.raises(ConfigError, match="prompts take up to 49 tokens, beyond the model's 48 positions; lower the t"):
        check(47, 19)
    with pytest.raises(ConfigError, match="answers take up to 21 tokens, beyond the model's 20 positions for answers;"):
        check(9, 20)


def test_an_encoder_decoder_reads_and_answers_max_length_tokens_each(tmp_path: Path) -> None:
    long = [{"prompt": f"row {i} " + "word " * 40 * (i in (1, 11)), "completion": "an answer"} for i in range(12)]
    keys: dict[str, Any] = {"format": "prompt_completion", "max_length": 20}
    with pytest.raises(DataError, match=r"row 2: its prompt has 4\d tokens, more than max_length 20; .*drop or cut"):
        OBJECTIVE.check(t5(), rows_of(tmp_path, long, **keys))
    dropped = split_of(t5(), rows_of(tmp_path, long, too_long="drop", **keys))
    assert (len(dropped.examples), dropped.examples.counts.dropped) == (3, 1)
    cut = split_of(t5(), rows_of(tmp_path, long, too_long="cut", **keys))
    assert cut.lengths.max() == 20 and cut.examples.counts.shortened == 1


@pytest.mark.parametrize("ranks", [2, 3])
def test_more_workers_give_the_same_score(ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other; what they add up is the score of one. Samples too."""
    decoding = {"temperature": 1.0, "max_new_tokens": 8}
    rows = rows_of(tmp_path, PAIRS, format="prompt_completion", metrics=["chrf", "nll"], decoding=decoding)
    split = split_of(docs_lm(), rows)
    alone, parts = evaluate(split, 4), list[np.ndarray]()
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, **_: None)
    for rank in range(ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        parts.append(evaluate(split, 2).values)
    np.testing.assert_allclose(sum(parts), alone.values, atol=1e-9)
    assert alone.values.min() < alone.values.max()


def test_a_refused_row_is_named_before_anything_starts(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, [*PAIRS[:-5], {"prompt": "", "completion": "x"}, *PAIRS[-4:]], format="prompt_completion")
    with pytest.raises(DataError, match=r"task t: .*train.jsonl.* row 8: its prompt is empty.*fill it"):
        OBJECTIVE.check(docs_lm(), rows)


@pytest.mark.parametrize("base", [docs_lm, t5], ids=["docs-lm", "t5"])
def test_rows_of_several_tasks_have_the_losses_of_their_own(base: Any, tmp_path: Path) -> None:
    """In one batch, of tasks with unlike lengths; of the other task some rows."""
    longer = [{**each, "prompt": "# Many more tokens.\n" + each["prompt"]} for each in PAIRS]
    splits = []
    for name, rows in (("a", PAIRS), ("b", longer)):
        (tmp_path / name).mkdir()
        splits.append(split_of(base(), rows_of(tmp_path / name, rows, format="prompt_completion"), "train"))
    own, other = splits
    picked = np.array([5, 0, 2])
    mixed, rows = own.with_rows([(other, picked)]), len(own.examples)
    assert mixed.terms.tolist() == [*own.terms.tolist(), *other.terms[picked].tolist()]
    with torch.no_grad():
        alone = torch.cat([own.losses(own.batch(np.arange(rows))), other.losses(other.batch(picked))])
        order = np.random.default_rng(0).permutation(rows + 3)
        found = mixed.losses(mixed.batch(order))
    torch.testing.assert_close(found, alone[torch.from_numpy(order)], rtol=1e-4, atol=1e-3)
    assert mixed.examples[rows].references == other.examples[5].references and own.among([other]) is own
