"""Families of models: losses and scores against Hugging Face's own, one row at a time and without padding."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.errors import ConfigError
from tests.support.tiny_models import save_tiny, tiny, tokenizer
from trainers.config import ModelConfig
from trainers.data.collate import Padded
from trainers.data.prompts import Prompt
from trainers.messages import Score
from trainers.models.base import Backbone
from trainers.models.causal import Causal
from trainers.models.encoder import LabelEmbedding
from trainers.models.loading import check_model, load_backbone, weights_digest
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText
from trainers.models.tokens import TokenIds
from trainers.objectives.classification import ClassifiedSplit
from trainers.training.evaluate import evaluate

FAMILIES: dict[str, type[TextToText]] = {
    "t5": Seq2Seq, "flan-t5": Seq2Seq, "llama": Causal, "qwen2": Causal, "gpt2": Causal,
}  # fmt: skip
TASK_TYPES = {Seq2Seq: "SEQ_2_SEQ_LM", Causal: "CAUSAL_LM"}
WORDS = ["yes", "certainly not", "perhaps", "a matter of taste"]  # 1, 2, 1 and 4 tokens, and the end
TEXTS = [f"sample {'word ' * repeats}number {repeats}" for repeats in (0, 9, 3, 17, 1, 5, 12)]
TARGETS = np.array([0, 1, 2, 3, 3, 1, 0])
ANSWER = Prompt("question : ", " . answer :")

# Answers that begin alike, one within another, one of the end alone, and padding (0) inside; 102 is the end.
ALIKE = [[7, 9, 9, 102], [7, 102], [7, 9, 102], [5, 0, 6, 8, 102], [0, 102], [102]]

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, and much faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def backbone(family: str) -> TextToText:
    """Weights enlarged, since those at initialisation answer everything alike."""
    model = tiny(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 and "t5" not in family else 1.0)
    return FAMILIES[family](model, tokenizer(), 64, "digest")


@cache
def minilm() -> Backbone:
    return load_backbone(ModelConfig(max_length=16))


def reference(bone: TextToText, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Σ −log p over the answers' tokens: the model's own mean loss times their number, padded on the right."""

    def padded(parts: list[list[int]], value: int) -> Tensor:
        tensors = [torch.tensor(part) for part in parts]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    inputs = [list(row) for row in rows]
    labels = [list(answer) for answer in answers]
    if isinstance(bone, Causal):
        labels = [[-100] * len(row) + answer for row, answer in zip(inputs, labels, strict=True)]
        inputs = [[*row, *answer] for row, answer in zip(inputs, answers, strict=True)]
    mask = padded([[1] * len(row) for row in inputs], 0)
    ids = padded(inputs, bone.tokenizer.pad_token_id)
    loss: Tensor = bone.model(input_ids=ids, attention_mask=mask, labels=padded(labels, -100)).loss
    return loss * sum(map(len, answers))


def each_alone(bone: TextToText, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """(B, C) log p of every answer to every row."""
    with torch.no_grad():
        return -torch.stack([torch.stack([reference(bone, [row], [answer]) for answer in answers]) for row in rows])


def split_of(bone: Backbone, rows: Sequence[list[int]], targets: np.ndarray, labels: Any) -> ClassifiedSplit:
    return ClassifiedSplit(
        base=bone, token_ids=TokenIds.of(rows), targets=targets, terms=bone.units(labels)[targets], labels=labels
    )


@every_family
def test_row_losses_are_the_models_own(family: str) -> None:
    bone = backbone(family)
    labels = bone.encode_labels(WORDS)
    rows = bone.tokenize(TEXTS, ANSWER)
    losses = bone.losses(bone.batch(rows, TARGETS, labels), labels)
    answers = [labels[target] for target in TARGETS]
    alone = [reference(bone, [row], [answer]) for row, answer in zip(rows, answers, strict=True)]
    assert losses.shape == (len(TEXTS),) and losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.sum(), reference(bone, rows, answers), rtol=1e-5, atol=0)
    assert bone.units(labels).tolist() == [2, 3, 2, 5]


@every_family
def test_gradients_are_the_models_own(family: str) -> None:
    bone = backbone(family)
    labels = bone.encode_labels(WORDS)
    rows, answers = bone.tokenize(TEXTS, ANSWER), [labels[target] for target in TARGETS]
    parameters = list(bone.model.parameters())
    found = torch.autograd.grad(bone.losses(bone.batch(rows, TARGETS, labels), labels).sum(), parameters)
    expected = torch.autograd.grad(reference(bone, rows, answers), parameters)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@every_family
@pytest.mark.parametrize("words", [WORDS, ["yes", "perhaps"]], ids=["unequal", "one token"])
def test_likelihood_is_a_naive_loop(family: str, words: list[str]) -> None:
    bone = backbone(family)
    labels, rows = bone.encode_labels(words), bone.tokenize(TEXTS, ANSWER)
    naive = each_alone(bone, rows, labels)
    torch.testing.assert_close(bone.log_likelihoods(rows, labels), naive, rtol=1e-4, atol=1e-4)
    for batch_size in (1, 7, 64):
        assert bone.predict(rows, labels, batch_size).tolist() == naive.argmax(1).tolist()


@every_family
def test_answers_that_are_alike(family: str) -> None:
    """Shared beginnings, padding or the end inside an answer, and one token for both confuse neither loss nor score."""
    bone, words = backbone(family), tokenizer()
    rows, targets = bone.tokenize(TEXTS, ANSWER)[:6], np.arange(6)
    naive = each_alone(bone, rows, ALIKE)
    words.pad_token = words.eos_token
    for padded in (bone, replace(bone, tokenizer=words)):
        with torch.no_grad():
            losses = padded.losses(padded.batch(rows, targets, ALIKE), ALIKE)
        torch.testing.assert_close(losses, -naive.diagonal(), rtol=1e-5, atol=0)
        torch.testing.assert_close(padded.log_likelihoods(rows, ALIKE), naive, rtol=1e-5, atol=0)
        for batch_size in (1, 6, 13, 99):
            assert padded.predict(rows, ALIKE, batch_size).tolist() == naive.argmax(1).tolist()


@pytest.mark.parametrize("family", ["t5", "flan-t5"])
def test_the_decoders_start_is_the_models(family: str) -> None:
    """Which need not be the padding token."""
    model = deepcopy(backbone(family).model)
    model.config.decoder_start_token_id = 33
    bone = replace(backbone(family), model=model)
    rows = bone.tokenize(TEXTS, ANSWER)[:6]
    naive = each_alone(bone, rows, ALIKE)
    with torch.no_grad():
        losses = bone.losses(bone.batch(rows, np.arange(6), ALIKE), ALIKE)
    torch.testing.assert_close(losses, -naive.diagonal(), rtol=1e-5, atol=0)
    torch.testing.assert_close(bone.log_likelihoods(rows, ALIKE), naive, rtol=1e-5, atol=0)


@every_family
def test_padding_changes_nothing(family: str) -> None:
    bone = backbone(family)
    rounded = replace(bone, collate=Padded(32))
    labels, rows = bone.encode_labels(WORDS), bone.tokenize(TEXTS, ANSWER)
    assert rounded.pad(rows).ids.shape == (len(TEXTS), 32)
    with torch.no_grad():
        torch.testing.assert_close(
            rounded.losses(rounded.batch(rows, TARGETS, labels), labels),
            bone.losses(bone.batch(rows, TARGETS, labels), labels),
        )
    torch.testing.assert_close(rounded.log_likelihoods(rows, labels), bone.log_likelihoods(rows, labels))
    for row, score in zip(rows, bone.log_likelihoods(rows, labels), strict=True):
        torch.testing.assert_close(bone.log_likelihoods([row], labels)[0], score, rtol=1e-4, atol=1e-4)
    generates = replace(bone, scoring="generation")
    alone = [int(generates.predict([row], labels, 1)) for row in rows]
    assert generates.predict(rows, labels, 4).tolist() == alone


@pytest.mark.parametrize("family", ["flan-t5", "llama"])
def test_half_precision_is_near(family: str) -> None:
    """log p is computed in float32 whatever the weights are in."""
    bone = backbone(family)
    labels, rows = bone.encode_labels(WORDS), bone.tokenize(TEXTS, ANSWER)
    model = tiny(family)
    model.load_state_dict(bone.model.state_dict())
    half = replace(bone, model=model.bfloat16())
    with torch.no_grad():
        losses, expected = (one.losses(one.batch(rows, TARGETS, labels), labels) for one in (half, bone))
    scores = half.log_likelihoods(rows, labels)
    assert losses.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0.2)
    torch.testing.assert_close(scores, bone.log_likelihoods(rows, labels), rtol=0.05, atol=0.2)


COLOURS = ["blue", "very green", "red"]
THINGS = ["sky", "sea", "grass", "leaf", "blood", "rose"]
SENTENCES = [f"{before} {thing}" for thing in THINGS for before in ("the", "a", "of what colour is the")]
COLOUR = np.repeat([0, 1, 2], 6)


@cache
def learned(family: str) -> TextToText:
    """All weights trained on the colours of things; flan-t5 with a word for the decoder's start."""
    bone = FAMILIES[family](tiny(family, seed=1), tokenizer(), 32, "digest")
    if family == "flan-t5":
        for settings in (bone.model.config, bone.model.generation_config):
            settings.decoder_start_token_id = 2773
    labels, rows = bone.encode_labels(COLOURS), bone.tokenize(SENTENCES, ANSWER)
    rate = 2e-2 if family == "t5" else 5e-3  # its tied output weights are divided by √D
    optimizer = torch.optim.AdamW(bone.model.parameters(), lr=rate, fused=True)
    for _ in range(80):
        loss = bone.losses(bone.batch(rows, COLOUR, labels), labels).sum() / bone.units(labels)[COLOUR].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return bone


learners = pytest.mark.parametrize("family", ["t5", "flan-t5", "llama", "gpt2"])


@learners
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scorings_agree_on_a_task_learned(family: str, dtype: str, one_process: None) -> None:
    """Before it neither knows: what is generated is no label. After it both know all."""
    bone = learned(family)
    labels, rows = bone.encode_labels(COLOURS), bone.tokenize(SENTENCES, ANSWER)
    bone = replace(bone, model=deepcopy(bone.model).to(getattr(torch, dtype)))
    for scoring in ("likelihood", "generation"):
        scored = replace(bone, scoring=scoring)
        assert scored.predict(rows, labels, 8).tolist() == COLOUR.tolist(), scoring
        assert evaluate(split_of(scored, rows, COLOUR, labels), 5).score == Score(18, 18), scoring
    assert bone.losses(bone.batch(rows, COLOUR, labels), labels).max() < 0.5  # more than half of the probability
    untrained = replace(bone, model=tiny(family, seed=1), scoring="generation")
    assert (untrained.predict(rows, labels, 8) == -1).sum() > 9


@learners
@pytest.mark.parametrize("others", [["rouge", "blue", "very green"], ["pink", "blue", "very"]])
def test_an_answer_that_is_no_label_is_wrong(family: str, others: list[str], one_process: None) -> None:
    """Neither another word nor one that only begins as a label does. By likelihood one of the labels is chosen."""
    bone = learned(family)
    labels, rows = bone.encode_labels(others), bone.tokenize(SENTENCES, ANSWER)
    targets = (COLOUR + 1) % 3  # where the labels stand now
    expected = [target if others[target] in COLOURS else -1 for target in targets]
    generates = replace(bone, scoring="generation")
    assert generates.predict(rows, labels, 7).tolist() == expected
    known = sum(target >= 0 for target in expected)
    assert evaluate(split_of(generates, rows, targets, labels), 7).score == Score(known, 18)
    assert bone.predict(rows, labels, 7).min() >= 0


def test_generated_text_that_is_no_label() -> None:
    bone = replace(backbone("llama"), scoring="generation")
    labels = bone.encode_labels(WORDS)
    assert bone.predict(bone.tokenize(TEXTS), labels, 64).tolist() == [-1] * len(TEXTS)


# --- prompts and tokens


@pytest.mark.parametrize("max_length", range(9, 30, 3))
def test_truncation_keeps_the_prompt(max_length: int) -> None:
    """Long texts lose their end, nothing else, and no more than must go."""
    bone = replace(backbone("llama"), max_length=max_length)
    before, after = (bone.tokenizer(part)["input_ids"] for part in (ANSWER.before, ANSWER.after))
    for text, ids in zip(TEXTS, bone.tokenize(TEXTS, ANSWER), strict=True):
        middle = bone.tokenizer(text)["input_ids"]
        assert ids == before + middle[: max_length - len(before) - len(after)] + after


def test_truncation_keeps_special_tokens() -> None:
    bone = minilm()
    cls, sep = bone.tokenizer.cls_token_id, bone.tokenizer.sep_token_id
    long = bone.tokenize(["word " * 40], ANSWER)[0]
    assert len(long) == 16 and (long[0], long[-1]) == (cls, sep)
    assert bone.tokenizer.decode(long, skip_special_tokens=True).endswith("word. answer :")


def test_prompt_without_room_for_a_text() -> None:
    with pytest.raises(ConfigError, match=r"model\.max_length: 7 tokens .* prompt alone takes 8; raise it"):
        replace(backbone("llama"), max_length=7).tokenize(["x"], Prompt("a b c d e f g h", ""))


def test_without_a_prompt_tokens_are_the_tokenizers() -> None:
    bone = minilm()
    expected = bone.tokenizer(TEXTS, truncation=True, max_length=16)["input_ids"]
    assert bone.tokenize(TEXTS) == bone.tokenize(TEXTS, Prompt("", "")) == expected


def test_a_text_is_never_without_tokens() -> None:
    bone = backbone("gpt2")
    for prompt in (Prompt(), Prompt("\n", " ")):
        assert bone.tokenize(["\x00", "word"], prompt)[0] == [bone.tokenizer.eos_token_id]


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def metaspace() -> Any:
    """As Llama 2 has it: spaces are ▁, one is put in front of every text, and words are not split before merging."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    made = Tokenizer(models.BPE(byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    return made


def trained(kind: Callable[[], Any], lines: Sequence[str], end: bool = False) -> Any:
    """A tokenizer of that kind with merges from the lines; with `end`, it ends every text as T5's does."""
    from tokenizers import pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = kind()
    trainer = trainers.BpeTrainer(
        vocab_size=800, min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if kind is byte_level else [],
        special_tokens=["<s>", "</s>", *([f"<0x{byte:02X}>" for byte in range(256)] if kind is metaspace else [])],
    )  # fmt: skip
    made.train_from_iterator(lines, trainer)
    if end:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


kinds = pytest.mark.parametrize("kind", [byte_level, metaspace])


@kinds
@pytest.mark.parametrize("end", [False, True])
def test_texts_are_cut_as_late_as_they_can_be(kind: Callable[[], Any], end: bool) -> None:
    """Whatever characters are made of: the tokens are those of before + a head of the text + after, and with one more
    token of the text they would be too many."""
    words = trained(kind, ["What is it?\nAnswer: yes", "a lovely film 🙂 and so on\nreally"] * 3, end)
    asked, joined = Prompt("What is it?\n", "\nAnswer:"), Prompt("What is it?\n", " on\nreally")
    for prompt, text in (
        (asked, "a lovely film 🙂👩‍👩‍👧 and 🎉🎉 so\n\n{labels} 日本 🏴‍☠️ zz"),
        (asked, "🎉🎉🎉🎉"),
        (asked, "\n\n 🙂"),
        (asked, "  lovely   film  " * 3),
        (joined, " o filreal so fil o\n\n"),  # whose end takes more tokens beside the prompt's than alone
    ):
        spans = words(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        heads = [words(prompt.before + text[:cut] + prompt.after)["input_ids"] for cut in (0, *(e for _, e in spans))]
        for max_length in range(len(heads[0]) + 1, len(heads[-1]) + 2):
            found = replace(backbone("llama"), tokenizer=words, max_length=max_length).tokenize([text], prompt)[0]
            assert len(found) <= max_length and found in heads
            last = max(index for index, head in enumerate(heads) if head == found)
            assert last + 1 == len(heads) or len(heads[last + 1]) > max_length, (text, max_length)


@kinds
def test_labels_are_tokens_as_after_a_prompt(kind: Callable[[], Any]) -> None:
    """Prompt and answer put together are the tokens of the whole sentence, whatever marks the beginning of words."""
    words = ["yes", "certainly not", "5 stars", "Ärger"]
    fast = trained(kind, ["What is it?", *(f" {word}" for word in words)] * 3)
    bone = replace(backbone("llama"), tokenizer=fast)
    prompt, text = Prompt("", "\nAnswer:"), "What is it?"
    for word, answer in zip(words, bone.encode_labels(words), strict=True):
        assert bone.tokenize([text], prompt)[0] + answer[:-1] == fast(f"{text}\nAnswer: {word}")["input_ids"]
        assert answer[-1] == fast.eos_token_id


def test_labels_are_tokens_as_a_decoders_targets() -> None:
    fast = trained(metaspace, ["yes", "certainly not"] * 3, end=True)
    bone = replace(backbone("t5"), tokenizer=fast)
    assert bone.encode_labels(["yes", "certainly not"]) == fast(["yes", "certainly not"])["input_ids"]


def test_labels_of_the_same_tokens() -> None:
    with pytest.raises(ConfigError, match=r"'Yes' and 'yes' are the same tokens"):
        backbone("t5").encode_labels(["Yes", "no", "yes"])


def test_answers_beyond_the_positions() -> None:
    with pytest.raises(ConfigError, match=r"model\.max_length: 125 .* and 5 .* 128 positions; use at most 123"):
        replace(backbone("gpt2"), max_length=125).encode_labels(WORDS)
    replace(backbone("gpt2"), max_length=123).encode_labels(WORDS)


# --- the encoder


def test_label_embedding_one_text_at_a_time() -> None:
    """20 · cos of mean token vectors, computed without a batch and without padding, in float64."""
    bone = minilm()
    assert isinstance(bone, LabelEmbedding)
    labels, rows = bone.encode_labels(WORDS), bone.tokenize(TEXTS)

    def unit(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            mean = bone.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().mean(0).numpy()
        return mean / np.linalg.norm(mean)

    logits = 20 * np.array([[unit(row) @ unit(word) for word in bone.tokenize(WORDS)] for row in rows])
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(rows)), TARGETS]
    with torch.no_grad():
        losses = bone.losses(bone.batch(rows, TARGETS, labels), labels)
        assert bone.predict(rows, labels, 3).tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(losses.numpy(), expected, atol=2e-4)
    assert bone.units(labels).tolist() == [1] * len(WORDS)


# --- loading


@every_family
def test_load_from_a_folder(family: str, tmp_path: Path) -> None:
    """Sharded weights arrive whole. Greedy decoding stays greedy whatever the checkpoint recommends; the end of text
    pads where nothing else does."""
    save_tiny(family, tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    changed = tokenizer()
    changed.pad_token = None
    changed.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(
        '{"num_beams": 3, "do_sample": true, "repetition_penalty": 1.3, "min_length": 9}'
    )
    bone = load_backbone(config(tmp_path, family))
    assert type(bone) is FAMILIES[family]
    assert bone.tokenizer.pad_token_id == bone.tokenizer.eos_token_id
    chosen = bone.model.generation_config
    assert (chosen.num_beams, chosen.do_sample, chosen.repetition_penalty, chosen.min_length) == (None,) * 4
    assert bone.digest == weights_digest(bone.model) == weights_digest(tiny(family)) and len(bone.digest) == 64
    assert not any(parameter.requires_grad for parameter in bone.model.parameters())
    labels = bone.encode_labels(WORDS)
    rows, made = bone.tokenize(TEXTS), replace(bone, model=tiny(family))
    torch.testing.assert_close(
        bone.losses(bone.batch(rows, TARGETS, labels), labels), made.losses(made.batch(rows, TARGETS, labels), labels)
    )
    assert replace(bone, scoring="generation").predict(bone.tokenize(TEXTS), labels, 4).shape == (len(TEXTS),)


def config(folder: Path, family: str, **keys: Any) -> ModelConfig:
    fixed = {"name": str(folder), "task_type": TASK_TYPES[FAMILIES[family]], "max_length": 64}
    return ModelConfig.model_validate(fixed | keys)


def test_a_tokenizer_without_an_end(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    changed = tokenizer()
    changed.eos_token = None
    changed.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.name: the tokenizer of .* has no eos_token"):
        load_backbone(config(tmp_path, "llama"))


@pytest.mark.parametrize(
    ("family", "wrong", "fitting"),
    [
        ("t5", "CAUSAL_LM", "SEQ_2_SEQ_LM"),
        ("t5", "LABEL_EMBEDDING", "SEQ_2_SEQ_LM"),
        ("llama", "SEQ_2_SEQ_LM", "CAUSAL_LM"),
        ("minilm", "CAUSAL_LM", "LABEL_EMBEDDING"),
        ("minilm", "SEQ_2_SEQ_LM", "LABEL_EMBEDDING"),
    ],
)
def test_task_type_that_does_not_fit(family: str, wrong: str, fitting: str, tmp_path: Path) -> None:
    name = family
    if family != "minilm":
        name = str(tmp_path)
        tiny(family).config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"model\.task_type: {wrong} does not fit .*; use {fitting}$"):
        check_model(ModelConfig.model_validate({"name": name, "task_type": wrong}))
    model = check_model(ModelConfig.model_validate({"name": name, "task_type": fitting}))
    assert all(parameter.is_meta for parameter in model.parameters())


def test_generation_needs_a_language_model() -> None:
    with pytest.raises(ValueError, match="a LABEL_EMBEDDING model generates no text"):
        ModelConfig(scoring="generation")


# --- evaluation


class Oracle(LabelEmbedding):
    """Knows every answer but that of row 5, whose number is its only token; keeps the rows of each call."""

    calls: list[list[int]] = []  # noqa: RUF012

    def predict(self, token_ids: Sequence[Sequence[int]], labels: Any, batch_size: int) -> Tensor:
        rows = [row[0] for row in token_ids]
        self.calls.append(rows)
        return torch.tensor([-1 if row == 5 else row % 3 for row in rows])


@pytest.mark.parametrize("rows", [1, 2, 3, 11, 12, 13, 24])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_counts_each_row_once(rows: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks one after the other: together they count all rows, in equally many passes of equally many rows."""
    oracle, texts = Oracle(torch.nn.Linear(1, 1), None, 16, ""), [[row] * (1 + row % 4) for row in range(rows)]
    split = split_of(oracle, texts, np.arange(rows) % 3, torch.zeros(3, 1))
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    correct, passes = 0, []
    for rank in range(ranks):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        Oracle.calls = []
        scored = evaluate(split, 4)
        assert scored.score.rows == rows and scored.values.sum() == scored.score.correct
        correct += scored.score.correct
        passes.append([len(call) for call in Oracle.calls])
    assert correct == rows - (rows > 5)
    assert all(made == passes[0] for made in passes) and max(passes[0]) <= 4
