"""A LoRA of PEFT is read as PEFT computes it, and what is no plain LoRA is refused by name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import ConfigError, DataError
from tests.support.peft_folders import peft_model, save_peft
from tests.support.tiny_models import save_tiny, tiny
from trainers.methods.base import Lora
from trainers.methods.foreign import PICKLED, fitted, read_folder
from trainers.methods.targets import match_modules

DOWN = "model.layers.0.mlp.down_proj"
HEAD = "base_model.model."
SLOW = "(([a-z_.0-9])*)*!"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    return save_peft(save_tiny("llama", folder / "base"), folder / "lora")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(plain, tmp_path / "lora"))


def delta(lora: Lora) -> torch.Tensor:
    return lora.scaling * lora.b_DR @ lora.a_RK


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"use_rslora": True, "lora_dropout": 0.1},
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {r"layers\.1\..*o_proj": 3}, "bias": "none"},
        {"target_modules": r".*\.layers\.[02]\..*o_proj"}, {"target_modules": "all-linear"},
        {"layers_to_transform": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_updates_are_those_of_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    """By PEFT's own product per layer; so are the ones of one rank and scaling, whose layers are the run's targets."""
    model = peft_model(tiny("llama"), **settings)
    model.save_pretrained(tmp_path)
    expected = {
        name.removeprefix(HEAD): layer.get_delta_weight("default")
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    found, base = read_folder(tmp_path), tiny("llama")
    stream, targets = fitted(found, base)
    assert found.updates.keys() == stream.keys() == expected.keys() and found.task_type == "CAUSAL_LM"
    assert [*match_modules(base, targets)] == [*stream]
    assert len({(lora.scaling, lora.rank) for lora in stream.values()}) == 1
    for name, update in expected.items():
        torch.testing.assert_close(delta(found.updates[name]), update, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(delta(stream[name]), update, rtol=1e-6, atol=1e-6)
        assert stream[name].a_RK.abs().sum(1).min() > 0  # all rows of A can learn on


def test_target_modules_are_the_folders_own_if_they_mean_the_same(plain: Path) -> None:
    base = tiny("llama")
    stream, targets = fitted(read_folder(plain), base)
    assert targets == ["down_proj", "o_proj"] and len(stream) == 6


def edit(folder: Path, **keys: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    held = load_file(folder / "adapter_model.safetensors")
    change(held)
    save_file(held, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3': it is IA3, which is no plain LoRA"),
        ({"peft_type": None}, "it is no method that is named"),
        ({"use_dora": True}, "use_dora True: DoRA"), ({"use_qalora": True}, "use_qalora True: QA-LoRA"),
        ({"bias": "all"}, "bias 'all': it trains biases"), ({"lora_bias": True}, "lora_bias True"),
        ({"modules_to_save": ["score"]}, r"modules_to_save \['score'\]: it holds layers"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"), ({"target_parameters": ["x"]}, "experts"),
        ({"layer_replication": [[0, 2]]}, "repeats layers"), ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "changing the base's weights"), ({"a_new_key": 3}, "not known here"),
        ({"task_type": "SEQ_CLS"}, "task_type SEQ_CLS: it answers through a head of its own"),
        ({"r": None}, "r of layer '.*' is None"), ({"r": 5}, r"A has rank 4, and adapter_config.json says 5"),
        ({"lora_alpha": -1}, "lora_alpha of layer"), ({"rank_pattern": {"(": 3}}, "rank_pattern"),
        ({"rank_pattern": [3]}, "is no mapping of regexes"), ({"r": 10**400}, "below 1e"),
        ({"lora_alpha": 10**400}, "below 1e"), ({"lora_alpha": 1e37, "alpha_pattern": {"o_proj": 1e308}}, "below 1e"),
        ({"rank_pattern": {SLOW: 4}}, "takes more than 1 s"), ({"lora_dropout": 1.5}, "lora_dropout 1.5: is no share"),
        ({"lora_dropout": "0.1"}, "lora_dropout '0.1': is no share"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_are_no_plain_loras(folder: Path, keys: dict[str, Any], message: str) -> None:
    edit(folder, **keys)
    with pytest.raises(DataError, match=message):
        read_folder(folder)


def put(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda held: held.update({f"{HEAD}{name}": tensor})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(f"{DOWN}.lora_A.weight", torch.full((4, 64), torch.nan)), "holds NaN or infinity"),
        (put(f"{DOWN}.lora_A.weight", torch.zeros(3, 64)), r"A is \(3, 64\) and B \(32, 4\)"),
        (put(f"{DOWN}.lora_A.weight", torch.zeros(4, 64, dtype=torch.int8)), "not floating-point"),
        (put("model.embed_tokens.lora_embedding_A", torch.zeros(4, 9)), "adapts an embedding"),
        (put(f"{DOWN}.lora_magnitude_vector", torch.zeros(32)), "is of DoRA"),
        (put("score.weight", torch.zeros(2, 32)), "neither A nor B"),
        (lambda held: held.update({"other": torch.zeros(2)}), "neither A nor B"),
        (lambda held: held.pop(f"{HEAD}{DOWN}.lora_B.weight"), "lora_B.weight' is missing"),
        (lambda held: held.clear(), "holds no LoRA matrix"),
    ],
)
def test_tensors_that_are_no_plain_loras(folder: Path, change: Any, message: str) -> None:
    tensors(folder, change)
    with pytest.raises(DataError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("targets", [[1, "a"], [None], 5, {"a": 1}, "(", SLOW], ids=str)
def test_targets_that_peft_does_not_write(plain: Path, folder: Path, targets: Any) -> None:
    """The tensors tell the layers."""
    edit(folder, target_modules=targets)
    base = tiny("llama")
    stream, found = fitted(read_folder(folder), base)
    assert [*match_modules(base, found)] == [*stream] == [*fitted(read_folder(plain), base)[0]]


def test_values_that_32_bits_do_not_hold(folder: Path) -> None:
    """Float8 is read; a layer's own scaling must fit into its B."""
    tensors(folder, lambda held: held.update({name: each.to(torch.float8_e4m3fn) for name, each in held.items()}))
    edit(folder, lora_alpha=1e-30, alpha_pattern={"down_proj": 1e30})
    with pytest.raises(DataError, match="32 bits"):
        fitted(read_folder(folder), tiny("llama"))
    tensors(folder, lambda held: held.update({name: each.float() * 1e19 for name, each in held.items()}))
    with pytest.raises(DataError, match="32 bits"):
        read_folder(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")
    with pytest.raises(DataError, match="no regular file"):
        read_folder(folder)


def test_files_that_are_absent_or_damaged(folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_folder(folder / "nothing")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(DataError, match="cannot be read"):
        read_folder(folder)
    weights.unlink()
    with pytest.raises(DataError, match=r"has no adapter_model.safetensors; copy"):
        read_folder(folder)
    (folder / PICKLED).write_bytes(b"")
    with pytest.raises(DataError, match="a pickled file runs code when it is read"):
        read_folder(folder)
    for text, message in (
        ("[1]", r"is \[1\], not a mapping"),
        ("{", "cannot be read"),
        (None, "has no adapter_config"),
    ):
        path = folder / "adapter_config.json"
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_folder(folder)


def test_another_base(plain: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"layer '.*': the base has no linear layer of that name; .*right base"):
        fitted(read_folder(plain), tiny("gpt2"))
    tensors(folder, lambda held: held.update({f"{HEAD}{DOWN}.lora_A.weight": torch.zeros(4, 63)}))
    with pytest.raises(DataError, match="maps 63 to 32 values, the base's layer 64 to 32"):
        fitted(read_folder(folder), tiny("llama"))


def test_a_layer_that_is_tied_to_the_embeddings(tmp_path: Path) -> None:
    peft_model(tiny("qwen2"), target_modules=["lm_head"]).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(ConfigError, match="'lm_head' shares its weight with the embedding"):
        fitted(read_folder(tmp_path), tiny("qwen2"))
