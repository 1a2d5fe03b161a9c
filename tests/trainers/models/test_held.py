"""What a checkpoint does not hold is left out, if no answer reads it, or refused by name."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cluster.errors import ConfigError
from tests.support.tiny_models import save_tiny, tokenizer
from trainers.config import ModelConfig
from trainers.method_config import AdapterConfig
from trainers.methods.registry import check_method
from trainers.models.loading import check_model, load_backbone, weights_digest

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
MORE = {"Albert": {"embedding_size": 8}, "Esm": {"mask_token_id": 2}, "SqueezeBert": {"embedding_size": 16}}
WITHOUT = ("Roberta", "XLMRoberta", "Camembert", "Longformer", "Albert", "Bert", "MPNet", "Esm", "Ernie", "RoFormer")
WITHOUT += ("DebertaV2", "Electra", "SqueezeBert", "DistilBert")


def save_masked(name: str, folder: Path, head: str = "ForMaskedLM", **how: Any) -> Path:
    """A masked language model of that family, and a tokenizer."""
    words = tokenizer()
    ids = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "max_position_embeddings": 80}
    config = getattr(transformers, f"{name}Config")(**SHAPE, **ids, **MORE.get(name, {}))
    torch.manual_seed(0)
    getattr(transformers, name + head)(config).save_pretrained(folder, **how)
    words.save_pretrained(folder)
    return folder


def config_of(folder: Path, task_type: str = "LABEL_EMBEDDING") -> ModelConfig:
    return ModelConfig.model_validate({"name": str(folder), "task_type": task_type, "max_length": 16})


def without(folder: Path, *names: str) -> Path:
    """The checkpoint in one file, without these tensors."""
    files = list(folder.glob("*.safetensors"))
    held = {key: value for file in files for key, value in load_file(file).items()}
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    assert all(held.pop(name) is not None for name in names)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", WITHOUT)
def test_encoders_published_as_masked_language_models(name: str, tmp_path: Path) -> None:
    """Every load has one digest, whatever is drawn, and answers; `plan` sees the layers that workers see."""
    asked = config_of(save_masked(name, tmp_path))
    torch.manual_seed(1)
    first = load_backbone(asked)
    torch.manual_seed(2)
    assert load_backbone(asked).digest == first.digest == weights_digest(first.model)
    assert torch.isfinite(first.encode_labels(["good", "bad"])).all()
    seen = check_model(asked)
    assert seen.state_dict().keys() == first.model.state_dict().keys()
    held = load_file(tmp_path / "model.safetensors")
    stored = any(".pooler." in key for key in held)
    assert stored == any(key.startswith("pooler.") for key in first.model.state_dict())


def test_the_digest_covers_what_is_held(tmp_path: Path) -> None:
    """It is the one that a whole checkpoint always had, and the same for shards, .bin files and a checkpoint of the
    encoder alone; it follows the weights, and nothing else."""
    whole = save_masked("Bert", tmp_path / "whole", "Model")
    plain = weights_digest(transformers.AutoModel.from_pretrained(whole, dtype=torch.float32))
    assert load_backbone(config_of(whole)).digest == plain
    masked = load_backbone(config_of(save_masked("Roberta", tmp_path / "masked"))).digest
    shards = save_masked("Roberta", tmp_path / "shards", max_shard_size="200KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    binary = Path(shutil.copytree(tmp_path / "masked", tmp_path / "binary"))
    torch.save(load_file(binary / "model.safetensors"), binary / "pytorch_model.bin")
    (binary / "model.safetensors").unlink()
    alone = without(save_masked("Roberta", tmp_path / "alone", "Model"), "pooler.dense.weight", "pooler.dense.bias")
    assert {load_backbone(config_of(each)).digest for each in (shards, binary)} == {masked}
    assert load_backbone(config_of(alone)).model.pooler is None
    changed = load_file(tmp_path / "masked/model.safetensors")
    changed["roberta.encoder.layer.0.output.dense.bias"] += 1
    save_file(changed, tmp_path / "masked/model.safetensors", metadata={"format": "pt"})
    assert load_backbone(config_of(tmp_path / "masked")).digest != masked


def test_a_pooler_held_in_part_is_left_out(tmp_path: Path) -> None:
    half = without(save_masked("Bert", tmp_path, "Model"), "pooler.dense.bias")
    assert load_backbone(config_of(half)).model.pooler is None


def test_no_adapter_stands_on_a_pooler_that_is_not_held(tmp_path: Path) -> None:
    save_masked("Roberta", tmp_path)
    _, method = check_method(config_of(tmp_path), AdapterConfig(target_modules=["dense"]))
    assert method.modules and not any("pooler" in name for name in method.modules)


@pytest.mark.parametrize(
    ("family", "kind", "name"),
    [
        ("Roberta", "LABEL_EMBEDDING", "roberta.encoder.layer.0.attention.self.query.weight"),
        ("Roberta", "LABEL_EMBEDDING", "roberta.embeddings.LayerNorm.weight"),
        ("llama", "CAUSAL_LM", "lm_head.weight"),
        ("flan-t5", "SEQ_2_SEQ_LM", "decoder.block.1.layer.1.EncDecAttention.o.weight"),
    ],
)
def test_other_weights_that_are_not_held_are_refused(family: str, kind: str, name: str, tmp_path: Path) -> None:
    folder = save_masked(family, tmp_path) if family == "Roberta" else save_tiny(family, tmp_path)
    asked = config_of(without(folder, name), kind)
    shown = name.removeprefix("roberta.").replace(".", r"\.")
    for load in (check_model, load_backbone):
        with pytest.raises(ConfigError, match=rf"model\.name: .*its checkpoint lacks {shown}, which would be drawn"):
            load(asked)


def test_many_names_are_cut_short(tmp_path: Path) -> None:
    folder = save_masked("Roberta", tmp_path)
    gone = [key for key in load_file(folder / "model.safetensors") if "layer.0.attention" in key]
    with pytest.raises(ConfigError, match=rf"lacks (\S+, ){{3}}\S+ and {len(gone) - 4} more, which"):
        load_backbone(config_of(without(folder, *gone)))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = save_masked("Roberta", tmp_path)
    held = load_file(folder / "model.safetensors")
    held["roberta.encoder.layer.0.output.dense.bias"] = torch.zeros(3)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    for load in (check_model, load_backbone):
        with pytest.raises(ConfigError, match=r"holds encoder\.layer\.0\.output\.dense\.bias in another shape"):
            load(config_of(folder))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    file = save_masked("Roberta", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    for load in (check_model, load_backbone):
        with pytest.raises(
            ConfigError, match=r"model\.name: .*(model\.safetensors is cut short; fetch it again|cannot be loaded)"
        ):
            load(config_of(tmp_path))


@pytest.mark.parametrize("left", [0, 1000, 5000, 20000])
def test_a_cut_bin_file_is_refused(left: int, tmp_path: Path) -> None:
    """Torch raises RuntimeError, EOFError or OSError, whose advice is none for users."""
    file = save_masked("Roberta", tmp_path) / "model.safetensors"
    torch.save(load_file(file), tmp_path / "pytorch_model.bin")
    file.unlink()
    asked = config_of(tmp_path)
    check_model(asked)
    (tmp_path / "pytorch_model.bin").write_bytes((tmp_path / "pytorch_model.bin").read_bytes()[:left])
    for load in (check_model, load_backbone):
        with pytest.raises(ConfigError, match=r"pytorch_model\.bin is (cut short|damaged|empty).*; fetch it again, or"):
            load(asked)


def test_a_bin_file_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    (save_masked("Roberta", tmp_path) / "model.safetensors").unlink()
    torch.save({"a": Path}, tmp_path / "pytorch_model.bin")
    for load in (check_model, load_backbone):
        with pytest.raises(ConfigError, match=r"pytorch_model\.bin is damaged, or holds more than tensors"):
            load(config_of(tmp_path))


def test_tied_and_computed_weights_need_not_be_held(tmp_path: Path) -> None:
    """Qwen's head is its embedding; Pegasus computes its positions."""
    tied = config_of(save_tiny("qwen2", tmp_path / "tied"), "CAUSAL_LM")
    assert load_backbone(tied).digest == load_backbone(tied).digest
    words, side = tokenizer(), {"attention_heads": 2, "layers": 1, "ffn_dim": 8}
    sides = {f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in side.items()}
    ids = {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    made = transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(d_model=8, **sides, **ids))
    made.save_pretrained(tmp_path / "pegasus")
    words.save_pretrained(tmp_path / "pegasus")
    before = load_backbone(config_of(tmp_path / "pegasus", "SEQ_2_SEQ_LM")).digest
    positions = [f"model.{part}.embed_positions.weight" for part in ("encoder", "decoder")]
    computed = config_of(without(tmp_path / "pegasus", *positions), "SEQ_2_SEQ_LM")
    assert load_backbone(computed).digest == before
