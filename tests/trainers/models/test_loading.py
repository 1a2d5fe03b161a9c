"""Bases from a folder: what arrives, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cluster.errors import ConfigError
from tests.support import zoo
from tests.support.families import FAMILIES, TARGETS, TASK_TYPES, TEXTS, WORDS, every_family
from tests.support.tiny_models import save_tiny, tiny, tokenizer
from trainers.config import ModelConfig
from trainers.models.checks import UNFIT
from trainers.models.loading import check_model, load_backbone, weights_digest


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


@pytest.mark.parametrize(("dtype", "value", "shown"), [("float32", "nan", "nan"), ("bfloat16", "-inf", "-inf")])
def test_weights_that_are_not_finite(dtype: str, value: str, shown: str, tmp_path: Path) -> None:
    """The tensor and the place are named; nothing is trained first."""
    save_tiny("llama", tmp_path)
    assert load_backbone(config(tmp_path, "llama", dtype=dtype)).digest
    damaged = tiny("llama")
    weight = damaged.model.layers[1].mlp.up_proj.weight
    weight.data[2, 3] = weight.data[4, 0] = float(value)
    for old in tmp_path.glob("model*"):
        old.unlink()
    damaged.save_pretrained(tmp_path)
    told = rf"holds {shown} in model\.layers\.1\.mlp\.up_proj\.weight at \[2, 3\] and 1 more values; restore"
    with pytest.raises(ConfigError, match=told) as caught:
        load_backbone(config(tmp_path, "llama", dtype=dtype))
    assert str(tmp_path) in str(caught.value)


def test_buffers_may_be_infinite() -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    model.register_buffer("places", torch.arange(3))
    assert weights_digest(model)
    model.mask[0] = float("nan")
    with pytest.raises(ConfigError, match=r"checkpoint of 'Linear' holds nan in mask at \[0\]; restore its files"):
        weights_digest(model)


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


@pytest.mark.parametrize(("kind", "task_type"), [*UNFIT])
def test_kinds_that_cannot_be_used(kind: str, task_type: str, tmp_path: Path) -> None:
    zoo.tiny_config(CONFIG_MAPPING[kind]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"model\.name: .* \(a {kind}\) cannot be used"):
        check_model(ModelConfig.model_validate({"name": str(tmp_path), "task_type": task_type, "max_length": 16}))
