"""The second moment of what adapters read is that of the real tokens, however rows are put together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.support.tiny_models import save_tiny
from trainers.config import ModelConfig
from trainers.data.batching import sorted_batches
from trainers.data.prompts import Prompt
from trainers.methods.oa.layers import Moment, attach
from trainers.methods.targets import match_modules
from trainers.models.loading import compile_blocks, load_backbone
from trainers.models.tokens import TokenIds, TokenizedSplit, tokenize
from trainers.training.second_moments import second_moments

TEXTS = ["a", "a short one", "somewhat longer than the one before it", "?", "two words", "one more of middling length"]
FAMILIES = {
    "minilm": ("LABEL_EMBEDDING", "all-linear"), "llama": ("CAUSAL_LM", ["o_proj", "down_proj"]),
    "gpt2": ("CAUSAL_LM", ["c_proj"]), "t5": ("SEQ_2_SEQ_LM", ["o", "wo"]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> object:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_count(tmp_path: Path, family: str) -> None:
    kind, targets = FAMILIES[family]
    name = "minilm" if family == "minilm" else str(save_tiny(family, tmp_path / family))
    backbone = load_backbone(ModelConfig.model_validate({"name": name, "task_type": kind, "max_length": 32}))
    modules = match_modules(backbone.model, targets)
    attach(modules)
    labels = backbone.encode_labels(["yes", "certainly not, whatever anybody says of it", "maybe"])
    split = tokenize(backbone, TEXTS, [0, 1, 2, 1, 0, 2], Prompt())
    alone, padded = (second_moments(backbone, modules, split, labels, size) for size in (1, 4))
    for name, moment_DD in alone.items():
        torch.testing.assert_close(padded[name], moment_DD, rtol=1e-4, atol=1e-4 * float(moment_DD.abs().max()))
        assert moment_DD.trace() > 0
    assert not any("moment" in vars(module) for module in modules.values()) and backbone.real is None


def test_rows_that_a_model_flattens_are_masked_too() -> None:
    backbone = replace(load_backbone(ModelConfig(max_length=16)), real={})
    _, mask_BS = backbone.pad([[1, 2, 3], [1]])
    h_BSD, expected = torch.randn(2, 3, 4), torch.zeros(4, 4)
    for h_D, counts in zip(h_BSD.reshape(-1, 4), mask_BS.flatten(), strict=True):
        expected += counts * torch.outer(h_D, h_D)
    for h in (h_BSD, h_BSD.reshape(-1, 4)):
        moment = Moment(torch.zeros(4, 4), backbone.real or {})
        moment.add(h)
        torch.testing.assert_close(moment.sum_DD, expected)


def test_texts_as_long_as_answers_are_told_apart(tmp_path: Path) -> None:
    backbone = load_backbone(ModelConfig(name=str(save_tiny("t5", tmp_path)), task_type="SEQ_2_SEQ_LM", max_length=32))
    modules = match_modules(backbone.model, ["o", "wo"])
    attach(modules)
    labels = backbone.encode_labels(["yes", "no not so"])
    longest = max(map(len, labels))
    texts = [TokenIds.of([[5] * longest, [6] * (longest - 2), [7] * (longest - 1)]), np.array([1, 0, 0])]
    split = TokenizedSplit(*texts)
    alone, padded = (second_moments(backbone, modules, split, labels, size) for size in (1, 3))
    for name, moment_DD in alone.items():
        torch.testing.assert_close(padded[name], moment_DD, rtol=1e-4, atol=1e-4 * float(moment_DD.abs().max()))


def test_compiled_blocks_are_read_as_others(tmp_path: Path) -> None:
    backbone = load_backbone(ModelConfig(name=str(save_tiny("llama", tmp_path)), task_type="CAUSAL_LM", max_length=32))
    modules = match_modules(backbone.model, ["o_proj"])
    attach(modules)
    labels = backbone.encode_labels(["yes", "no"])
    split = tokenize(backbone, TEXTS, [0, 1, 0, 1, 0, 1], Prompt())
    expected = second_moments(backbone, modules, split, labels, 4)
    compile_blocks(backbone.model)
    found = second_moments(backbone, modules, split, labels, 4)
    assert all(torch.equal(found[name], moment_DD) for name, moment_DD in expected.items())


def test_batches_hold_every_row_once_the_shortest_first() -> None:
    lengths = np.array([3, 1, 2, 1, 9])
    assert [batch.tolist() for batch in sorted_batches(lengths, 2)] == [[1, 3], [2, 0], [4]]
