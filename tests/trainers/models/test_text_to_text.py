"""Losses and gradients of language models against their own, scores against a loop over rows and answers, and what is
generated against what was learned."""

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from cluster.errors import ConfigError
from tests.support.families import (
    ALIKE,
    ANSWER,
    FAMILIES,
    TARGETS,
    TEXTS,
    WORDS,
    backbone,
    each_alone,
    every_family,
    reference,
    split_of,
)
from tests.support.tiny_models import tiny, tokenizer
from trainers.data.collate import Padded
from trainers.messages import Score
from trainers.models.text_to_text import TextToText
from trainers.training.evaluate import evaluate


@every_family
def test_row_losses_are_the_models_own(family: str) -> None:
    """Each row's loss is the model's own on that row alone, and their sum the model's own on the batch."""
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
    """Of every weight, as the model's own loss gives it."""
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_labels_of_the_same_tokens() -> None:
    with pytest.raises(ConfigError, match=r"'Yes' and 'yes' are the same tokens"):
        backbone("t5").encode_labels(["Yes", "no", "yes"])


def test_labels_that_the_model_cannot_say() -> None:
    """A model may read more tokens than its output has."""
    model = deepcopy(backbone("flan-t5").model)
    model.lm_head = torch.nn.Linear(32, 2000, bias=False)
    bone = replace(backbone("flan-t5"), model=model)
    assert bone.answerable == 2000 < (bone.embeddings or 0)
    with pytest.raises(ConfigError, match=r"label 'certainly not' has the token '.+', whose id \d+ is beyond .* 2000"):
        bone.encode_labels(["certainly not", "the"])
