"""A damaged base is refused by `plan`, with the file that is damaged and what mends it."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cluster.errors import ConfigError
from tests.support.tiny_models import save_tiny, tiny
from trainers.config import ModelConfig
from trainers.method_config import AdapterConfig
from trainers.methods.registry import check_method
from trainers.models.loading import load_reader

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
SHARD = "model-00001-of-"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in shards."""
    folder = tmp_path_factory.mktemp("sound")
    save_tiny("llama", folder)
    return folder


@pytest.fixture
def base(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for path in sound.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def planned(base: Path) -> None:
    """What `plan` asks of a base."""
    config = ModelConfig.model_validate({"name": str(base), "task_type": "CAUSAL_LM", "max_length": 64})
    load_reader(config, check_method(config, AdapterConfig(target_modules=["q_proj"]))[0])


def shard(base: Path) -> Path:
    return next(base.glob(f"{SHARD}*"))


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def without_weights(base: Path) -> None:
    for path in base.glob("model*"):
        path.unlink()


def pickled(base: Path, content: object) -> None:
    without_weights(base)
    torch.save(content, base / "pytorch_model.bin")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("/tmp/orthoplex-must-not-be-there",)


def in_config(**values: object) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        content = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(content | values))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (without_weights, r"holds no weights; add one of model\.safetensors"),
    "a shard is gone": (
        lambda base: shard(base).unlink(),
        rf"{SHARD}.* is absent, and model\.safetensors\.index\.json",
    ),
    "a shard is cut": (lambda base: rewritten(shard(base), lambda data: data[:-9]), rf"{SHARD}.* is cut short"),
    "a shard is cut early": (lambda base: rewritten(shard(base), lambda data: data[:50]), rf"{SHARD}.* is cut short"),
    "a shard is empty": (lambda base: shard(base).write_bytes(b""), rf"{SHARD}.* is empty"),
    "a shard is a pointer": (lambda base: shard(base).write_bytes(POINTER), rf"{SHARD}.* git-lfs.*git lfs pull"),
    "a header is flipped": (
        lambda base: rewritten(shard(base), lambda data: data[:9] + b"\x00" + data[10:]),
        rf"{SHARD}.* is damaged",
    ),
    "a header is long": (
        lambda base: rewritten(shard(base), lambda data: b"\xff" * 8 + data[8:]),
        rf"{SHARD}.* is cut short",
    ),
    "the index names nothing": (
        lambda base: (base / "model.safetensors.index.json").write_text("[]"),
        r"index\.json does not name the files",
    ),
    "the index leads out": (
        lambda base: (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'),
        r"index\.json does not name the files",
    ),
    "code in a .bin": (
        lambda base: pickled(base, Evil()),
        r"pytorch_model\.bin is damaged, or holds more than tensors",
    ),
    "a .bin is cut": (
        lambda base: (
            pickled(base, tiny("llama").state_dict()),
            rewritten(base / "pytorch_model.bin", lambda d: d[:999]),
        ),
        r"pytorch_model\.bin is cut short",
    ),
    "other shapes": (in_config(intermediate_size=65), r"in another shape than config\.json gives"),
    "a million layers": (
        in_config(num_hidden_layers=10**6),
        r"config\.json: num_hidden_layers is beyond 10,000; correct",
    ),
    "of a part": (in_config(text_config={"num_local_experts": 10**9}), r"text_config\.num_local_experts is beyond"),
    "config.json is a list": (lambda base: (base / "config.json").write_text("[1]"), r"config\.json holds no mapping"),
    "config.json is cut": (
        lambda base: rewritten(base / "config.json", lambda data: data[:40]),
        r"config\.json is not readable JSON",
    ),
    "config.json is deep": (
        lambda base: (base / "config.json").write_text("[" * 500 + "]" * 500),
        r"config\.json .* nested too deeply",
    ),
    "config.json is Latin-1": (
        lambda base: (base / "config.json").write_bytes(b'{"a": "\xe9"}'),
        r"config\.json is not",
    ),
    "config.json is gone": (lambda base: (base / "config.json").unlink(), r"has no config\.json"),
    "of no kind": (in_config(model_type="nonsense"), r"config\.json: "),
    "a word for a number": (in_config(hidden_size="wide"), r"config\.json: "),
    "code of its own": (
        in_config(model_type="own", auto_map={"AutoConfig": "x.Y"}),
        r"it brings code of its own, which is not run",
    ),
    "a pipe": (
        lambda base: ((base / "tokenizer.json").unlink(), os.mkfifo(base / "tokenizer.json")),
        "no regular file",
    ),
    "a link to itself": (
        lambda base: ((base / "tokenizer.json").unlink(), (base / "tokenizer.json").symlink_to("tokenizer.json")),
        r"tokenizer\.json cannot be read",
    ),
    "the tokenizer is a pointer": (lambda base: (base / "tokenizer.json").write_bytes(POINTER), "git lfs pull"),
    "the tokenizer is cut": (lambda base: rewritten(base / "tokenizer.json", lambda d: d[:5_000]), "its tokenizer: "),
    "the tokenizer is another": (lambda base: (base / "tokenizer.json").write_text("{}"), "its tokenizer: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, base: Path) -> None:
    change, told = DAMAGE[name]
    change(base)
    began = time.process_time()
    with pytest.raises(ConfigError, match=told) as caught:
        planned(base)
    assert str(base) in str(caught.value) and str(caught.value).startswith("model.name: ")
    assert time.process_time() - began < 10 and not Path("/tmp/orthoplex-must-not-be-there").exists()


def test_what_is_whole_is_taken(base: Path) -> None:
    planned(base)
    pickled(base, tiny("llama").state_dict())
    planned(base)


def test_a_tokenizer_without_words(base: Path) -> None:
    for path in base.glob("*token*"):
        path.unlink()
    content = json.loads((base / "config.json").read_text())
    for kind in ("bert", "llama", "gpt2", "t5"):
        (base / "config.json").write_text(json.dumps(content | {"model_type": kind}))
        with pytest.raises(ConfigError, match=r"model\.name: .*tokenizer"):
            load_reader(ModelConfig.model_validate({"name": str(base), "task_type": "CAUSAL_LM", "max_length": 64}))


@pytest.mark.parametrize(
    "name", ["x" * 5_000, "~nosuchuser/base", "a\0b", "https://host/base", "../" * 2_000, "ein/zwei/drei"]
)
def test_names_of_no_base(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.name: ") as caught:
        planned(Path(name))
    assert len(str(caught.value)) <= 2_000
