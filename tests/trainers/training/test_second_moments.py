"""The second moment of what adapters read is that of the real tokens, however rows are put together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_models import save_tiny
from trainers.config import ModelConfig
from trainers.data.batching import sorted_batches
from trainers.data.collate import Padded
from trainers.data.prompts import Prompt
from trainers.methods.base import Moment
from trainers.methods.lowrank.layers import Updated
from trainers.methods.oa.layers import attach
from trainers.methods.targets import input_width, match_modules
from trainers.models.base import Backbone
from trainers.models.loading import compile_blocks, load_backbone
from trainers.models.tokens import TokenIds, TokenizedSplit, TokenizedTask, tokenize
from trainers.objectives.classification import Classification, ClassifiedSplit
from trainers.training.second_moments import second_moments

TEXTS = ["a", "a short one", "somewhat longer than the one before it", "?", "two words", "one more of middling length"]
FAMILIES = {
    "minilm": ("LABEL_EMBEDDING", "all-linear"), "llama": ("CAUSAL_LM", ["o_proj", "down_proj"]),
    "gpt2": ("CAUSAL_LM", ["c_proj"]), "t5": ("SEQ_2_SEQ_LM", ["o", "wo"]),
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_process")


def encoded(backbone: Backbone, words: list[str], split: TokenizedSplit) -> ClassifiedSplit:
    task = TokenizedTask("t", tuple(words), {"train": split})
    return Classification().encode(backbone, task)["train"]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_count(tmp_path: Path, family: str) -> None:
    kind, targets = FAMILIES[family]
    name = "minilm" if family == "minilm" else str(save_tiny(family, tmp_path / family))
    backbone = load_backbone(ModelConfig.model_validate({"name": name, "task_type": kind, "max_length": 32}))
    modules = match_modules(backbone.model, targets)
    attach(modules)
    words = ["yes", "certainly not, whatever anybody says of it", "maybe"]
    split = encoded(backbone, words, tokenize(backbone, TEXTS, [0, 1, 2, 1, 0, 2], Prompt()))
    alone, padded = (second_moments(backbone, modules, split, size) for size in (1, 4))
    for name, moment_DD in alone.items():
        torch.testing.assert_close(padded[name], moment_DD, rtol=1e-4, atol=1e-4 * float(moment_DD.abs().max()))
        assert moment_DD.trace() > 0
    assert not any("moment" in vars(module) for module in modules.values())


def test_inputs_are_read_by_layers_whose_updates_read_them(tmp_path: Path) -> None:
    """Σ x xᵀ of what a hook sees of single rows."""
    config = ModelConfig(name=str(save_tiny("gpt2", tmp_path)), task_type="CAUSAL_LM", max_length=32)
    backbone = load_backbone(config)
    modules = match_modules(backbone.model, ["mlp.c_proj", "c_attn"])
    attach(modules, Updated)
    split = encoded(backbone, ["yes", "no"], tokenize(backbone, TEXTS, [0, 1, 0, 1, 0, 1], Prompt()))
    seen = {name: torch.zeros(input_width(module), input_width(module)) for name, module in modules.items()}

    def look(name: str, given: Tensor) -> None:
        rows_NK = given.detach().flatten(0, -2)
        seen[name] += rows_NK.T @ rows_NK

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
        for name, module in modules.items()
    ]
    second_moments(backbone, modules, split, 1, inputs=True)
    for hook in hooks:
        hook.remove()
    for name, moment_KK in second_moments(backbone, modules, split, 4, inputs=True).items():
        torch.testing.assert_close(moment_KK, seen[name], rtol=1e-4, atol=1e-4 * float(moment_KK.abs().max()))


def test_rows_that_a_model_flattens_are_masked_too() -> None:
    mask_BS = Padded()([[1, 2, 3], [1]], pad_id=0).mask
    h_BSD, expected = torch.randn(2, 3, 4), torch.zeros(4, 4)
    for h_D, counts in zip(h_BSD.reshape(-1, 4), mask_BS.flatten(), strict=True):
        expected += counts * torch.outer(h_D, h_D)
    for h in (h_BSD, h_BSD.reshape(-1, 4)):
        moment = Moment(torch.zeros(4, 4), mask_BS)
        moment.add(h)
        torch.testing.assert_close(moment.sum_DD, expected)


def test_all_rows_count_of_a_layer_that_reads_no_tokens() -> None:
    moment, h_BD = Moment(torch.zeros(4, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])), torch.randn(2, 4)
    moment.add(h_BD)
    torch.testing.assert_close(moment.sum_DD, h_BD.T @ h_BD)


@pytest.mark.parametrize("multiple", [1, 8])
def test_the_decoders_own_layers_read_answers(tmp_path: Path, multiple: int) -> None:
    """Cross-attention takes queries from the answer, keys and values from the text."""
    config = ModelConfig(name=str(save_tiny("t5", tmp_path)), task_type="SEQ_2_SEQ_LM", max_length=32)
    backbone = replace(load_backbone(config), collate=Padded(multiple))
    modules = match_modules(backbone.model, "all-linear")
    of_text = ("encoder.", "EncDecAttention.k", "EncDecAttention.v")
    assert backbone.reads_answers(modules) == {name for name in modules if not any(part in name for part in of_text)}


def test_texts_as_long_as_answers_are_told_apart(tmp_path: Path) -> None:
    backbone = load_backbone(ModelConfig(name=str(save_tiny("t5", tmp_path)), task_type="SEQ_2_SEQ_LM", max_length=32))
    modules = match_modules(backbone.model, ["o", "wo"])
    attach(modules)
    words = ["yes", "no not so"]
    longest = len(backbone.tokenize(words[1:])[0]) + 1
    texts = TokenIds.of([[5] * longest, [6] * (longest - 2), [7] * (longest - 1)])
    split = encoded(backbone, words, TokenizedSplit(texts, np.array([1, 0, 0])))
    assert split.terms.max() == longest
    alone, padded = (second_moments(backbone, modules, split, size) for size in (1, 3))
    for name, moment_DD in alone.items():
        torch.testing.assert_close(padded[name], moment_DD, rtol=1e-4, atol=1e-4 * float(moment_DD.abs().max()))


@pytest.mark.slow
def test_compiled_blocks_are_read_as_others(tmp_path: Path) -> None:
    backbone = load_backbone(ModelConfig(name=str(save_tiny("llama", tmp_path)), task_type="CAUSAL_LM", max_length=32))
    modules = match_modules(backbone.model, ["o_proj"])
    attach(modules)
    split = encoded(backbone, ["yes", "no"], tokenize(backbone, TEXTS, [0, 1, 0, 1, 0, 1], Prompt()))
    expected = second_moments(backbone, modules, split, 4)
    compile_blocks(backbone.model)
    found = second_moments(backbone, modules, split, 4)
    assert all(torch.equal(found[name], moment_DD) for name, moment_DD in expected.items())


def test_batches_hold_every_row_once_the_shortest_first() -> None:
    lengths = np.array([3, 1, 2, 1, 9])
    assert [batch.tolist() for batch in sorted_batches(lengths, 2)] == [[1, 3], [2, 0], [4]]
