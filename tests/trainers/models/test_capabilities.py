"""Scores and generated answers of models of many kinds, against loops over rows with neither padding nor a cache."""

from functools import cache

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.support import zoo
from trainers.models.capabilities import NoCacheError, check_repeatable, taken, takes
from trainers.models.causal import Causal
from trainers.models.loading import FAMILIES
from trainers.models.text_to_text import TextToText

TEXTS = ["a film that was good", "bad", "the first film that was not a good film", "red word1 word2"]
WORDS = ["red", "certainly not", "a bad film"]
DECODERS = {"gpt2": True, "llama": True, "opt": True, "bloom": False, "bart": False, "mbart": False, "mamba": False,
            "lfm2": False, "qwen3_next": False, "rwkv": False, "openai-gpt": False, "jamba": False,
            "granitemoehybrid": False}  # fmt: skip
RECURRENT = ("jamba", "granitemoehybrid")  # here in every layer: their cache has no length, and generates nothing
ENCODER_DECODERS = {"bart": True, "mbart": True, "t5": True, "switch_transformers": False}
CASES = [(name, "CAUSAL_LM", reuses) for name, reuses in DECODERS.items()]
CASES += [(name, "SEQ_2_SEQ_LM", reuses) for name, reuses in ENCODER_DECODERS.items()]
models = pytest.mark.parametrize(("kind", "task_type", "reuses"), CASES, ids=str)


@cache
def base(kind: str, task_type: str) -> TextToText:
    family, auto_class = FAMILIES[task_type]
    model = zoo.tiny_model(zoo.tiny_config(CONFIG_MAPPING[kind]), auto_class, seed=3)
    made = family(model, zoo.tokenizer(), 16, "digest")
    assert isinstance(made, TextToText)
    return made


@torch.no_grad()
def log_p(bone: TextToText, row: list[int], answer: list[int]) -> torch.Tensor:
    """(A, V) log p of every token after the text and each beginning of the answer."""
    if isinstance(bone, Causal):
        ids = torch.tensor([[*row, *answer]])
        logits = bone.model(input_ids=ids, **taken(bone.model, use_cache=False)).logits[0, len(row) - 1 :]
    else:
        start = bone.model.config.decoder_start_token_id
        logits = bone.model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[start, *answer]])).logits[0]
    return logits.float().log_softmax(-1)


def greedy(bone: TextToText, row: list[int], most: int) -> str:
    answer: list[int] = []
    while len(answer) < most and answer[-1:] != [bone.tokenizer.eos_token_id]:
        answer.append(int(log_p(bone, row, answer)[-1].argmax()))
    return bone.text([answer])[0]


@models
def test_scores_and_losses_are_those_of_each_row_alone(kind: str, task_type: str, reuses: bool) -> None:
    bone = base(kind, task_type)
    labels, rows = bone.encode_labels(WORDS), bone.tokenize(TEXTS)
    expected = torch.stack([
        torch.stack([log_p(bone, row, answer)[range(len(answer)), answer].sum() for answer in labels]) for row in rows
    ])  # fmt: skip
    assert bone.reuses is reuses
    torch.testing.assert_close(bone.log_likelihoods(rows, labels), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        losses = bone.answer_losses(bone.answer_batch([*rows, *rows], [*labels, labels[0], *labels, labels[1]]))
    torch.testing.assert_close(losses[:3], -expected.diagonal(), rtol=1e-4, atol=1e-4)
    assert [float(losses[3]), float(losses[7])] == pytest.approx([-float(expected[3, 0]), -float(expected[3, 1])], 1e-4)


@models
def test_generated_answers_are_those_of_each_row_alone(kind: str, task_type: str, reuses: bool) -> None:
    bone = base(kind, task_type)
    rows = bone.tokenize(TEXTS)
    expected = [greedy(bone, row, 5) for row in rows]
    assert bone.generate(rows, 5) == expected and len({*expected}) > 1
    assert bone.caches is (kind not in RECURRENT)


def test_a_cache_with_a_state_cannot_be_repeated() -> None:
    from transformers import DynamicCache
    from transformers.cache_utils import EncoderDecoderCache

    config = zoo.tiny_config(CONFIG_MAPPING["lfm2"])
    plain, mixed = DynamicCache(config=zoo.tiny_config(CONFIG_MAPPING["llama"])), DynamicCache(config=config)
    check_repeatable(plain)
    check_repeatable(EncoderDecoderCache(plain, plain))
    for cache_of_a_text in (mixed, EncoderDecoderCache(plain, mixed), None, (torch.zeros(1),)):
        with pytest.raises(NoCacheError):
            check_repeatable(cache_of_a_text)


def test_what_a_forward_pass_takes() -> None:
    mamba = base("mamba", "CAUSAL_LM").model
    assert takes(mamba, "input_ids") and not takes(mamba, "input_ids", "position_ids")
    assert taken(mamba, input_ids=1, position_ids=2) == {"input_ids": 1}
