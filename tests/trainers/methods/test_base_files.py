"""A merged model has the files of its base as they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.support.tiny_models import save_tiny, tiny
from trainers.methods.base_files import give_back

OURS = {
    "tokenizer_config.json": {
        "eos_token": "[SEP]", "add_bos_token": True, "model_max_length": 8192, "additional_special_tokens": ["<end>"],
        "auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]},
    },
    "special_tokens_map.json": {"eos_token": "[SEP]"},
    "generation_config.json": {"eos_token_id": [1, 2]},
    "preprocessor_config.json": {"image_size": 4},
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A decoder as others publish it: keys of an older version, no pad token, templates, code and a licence."""
    folder = save_tiny("llama", tmp_path / "base")
    for name, content in OURS.items():
        (folder / name).write_text(json.dumps(content))
    for name in ("chat_template.jinja", "additional_chat_templates/short.jinja", "vocab.txt", "LICENSE"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{name} as it is\r\n")
    (folder / "tokenization_own.py").write_text("raise RuntimeError")
    (folder / "notes.txt").write_text("of no use to others")
    written = json.loads((folder / "config.json").read_text())
    del written["dtype"], written["rope_parameters"]
    old = {"torch_dtype": "float32", "rope_theta": 500.0, "transformers_version": "4.40.0", "a_key_of_ours": [1]}
    (folder / "config.json").write_text(json.dumps({**written, **old}))
    return folder


def exported(base: Path, folder: Path, **how: Any) -> Path:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, **how)
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained(folder)
    give_back(str(base), None, folder)
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_they_are_the_bases_byte_for_byte(base: Path, tmp_path: Path) -> None:
    made = exported(base, tmp_path / "made")
    weights = {name for name in names(base) if "safetensors" in name}
    assert names(made) - {"model.safetensors"} == names(base) - weights - {"notes.txt"}
    for name in names(made) - {"model.safetensors"}:
        assert (made / name).read_bytes() == (base / name).read_bytes(), name


def test_a_configuration_says_what_was_saved(base: Path, tmp_path: Path) -> None:
    """The dtype of the weights, and their class; nothing else."""
    written = json.loads((base / "config.json").read_text())
    written |= {"architectures": ["LlamaForSomethingElse"], "part": {"dtype": "float32", "size": 1}}
    (base / "config.json").write_text(json.dumps(written))
    made = exported(base, tmp_path / "made", dtype="bfloat16")
    now = {"torch_dtype": "bfloat16", "architectures": ["LlamaForCausalLM"], "part": {"dtype": "bfloat16", "size": 1}}
    assert json.loads((made / "config.json").read_text()) == {**written, **now}
    assert transformers.AutoModelForCausalLM.from_pretrained(made).dtype.itemsize == 2


def test_a_base_without_them(tmp_path: Path) -> None:
    """Nothing is invented; a saved part of a larger model keeps the configuration that it was saved with."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text(json.dumps({"model_type": "larger", "text_config": {}}))
    tiny("llama").save_pretrained(tmp_path / "made")
    before = (tmp_path / "made/config.json").read_bytes()
    give_back(str(tmp_path / "base"), None, tmp_path / "made")
    assert names(tmp_path / "made") == {"config.json", "model.safetensors"}
    assert (tmp_path / "made/config.json").read_bytes() == before
