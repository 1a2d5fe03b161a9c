# ruff: noqa: F401, F811 (a fixture of another file)
"""Streams on their way to servers and to Python, on the store with three tasks of test_export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import orchestrator
from cluster.errors import ConfigError, IntegrityError
from cluster.storage import LocalStore, S3Store
from orchestrator.delivery.serving import digest_among, load_plain
from orchestrator.track.state import RunState
from tests.orchestrator.delivery.test_export import IDS, Stream, expected, make_bert, old_log, stream
from tests.support.command_line import Result, here
from trainers.config import ModelConfig
from trainers.models.loading import weights_digest

Run = tuple[RunState, Path]
READER = """
import sys
sys.path.append(sys.argv[1])
import peft, torch, transformers
base, folder, ids, output = sys.argv[2:]
model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(base), folder).eval()
with torch.no_grad():
    torch.save(model(torch.load(ids)).last_hidden_state, output)
for name in ("orchestrator", "trainers", "cluster", "ray", "deepspeed", "boto3", "datasets"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} can be imported")
"""


def serve(monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: object) -> Result:
    return here(monkeypatch, capsys, "adapters", "serve-layout", *words)


@pytest.mark.slow
@pytest.mark.parametrize("upto", [1, 3])
def test_a_served_folder_gives_equal_outputs_in_a_process_with_only_transformers_and_peft(
    stream: Stream,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    upto: int,
    only_transformers_and_peft: Path,
) -> None:
    code, out, err = serve(monkeypatch, capsys, f"stream@v{upto}", "--store", stream.store, "--base", "org/bert tiny")
    place = f"serve/org--bert--tiny/default-stream-v0000000{upto}"
    assert (code, err) == (0, "") and out.strip().endswith(f"/{place}")
    folder = stream.store / place
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/bert tiny" and config["peft_type"] == "LORA"
    torch.save(IDS, tmp_path / "ids.pt")
    words = [only_transformers_and_peft, stream.base, folder, tmp_path / "ids.pt", tmp_path / "out.pt"]
    environment = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-S", "-c", READER, *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), expected(stream, upto), rtol=1e-5, atol=1e-5)


def test_one_rank_for_servers(texts_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It says what the server needs and what is lost; a tolerance that cannot be kept names the rank that keeps it."""
    store = texts_run[1] / "store"
    words = ["team/run@v3", "--store", store, "--base", "tiny"]
    code, _, err = serve(monkeypatch, capsys, *words, "--max-rank", 8)
    assert code == 2 and "at rank 8 layer model.layers." in err and "use --max-rank 16" in err
    assert not (store / "serve").exists()
    code, out, _ = serve(monkeypatch, capsys, *words, "--max-rank", 8, "--tolerance", 0.9)
    assert code == 0 and "became 8: a server such as vLLM needs --max-lora-rank 8" in out and "|error| <=" in out
    folder = store / "serve/tiny/team-run-v00000003"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (8, 8, {})
    told = json.loads((folder / "compression.json").read_text())
    assert told["rank"] == 8 and 0 < told["relative_to_norm"] < 0.9 and len(told["layers"]) == 6
    assert "needs --max-lora-rank 8" in (folder / "README.md").read_text()
    code, _, err = serve(monkeypatch, capsys, *words)
    assert code == 1 and "another adapter" in err
    code, out, _ = serve(monkeypatch, capsys, *words, "--root", "whole")
    assert code == 0 and "its rank is 12: a server such as vLLM needs --max-lora-rank 16" in out


def test_layers_with_a_bias_have_no_one_rank(stream: Stream, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, _, err = serve(monkeypatch, capsys, "stream@v3", "--store", stream.store, "--tolerance", 0.5)
    assert code == 2 and "2 layers change their bias" in err and "--format merged" in err
    code, out, _ = serve(monkeypatch, capsys, "stream@v3", "--store", stream.store, "--base", "bert")
    assert code == 0 and "vLLM serves no LoRA bias" in out


def test_the_config_comes_last_and_folders_never_change(
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """A server that lists the folder while it is written must not take it for whole."""
    order = []
    for name in ("upload", "put_if_absent"):
        real = getattr(LocalStore, name)

        def spy(self: LocalStore, key: str, data: Any, real: Any = real) -> Any:
            order.append(key.rpartition("/")[2])
            return real(self, key, data)

        monkeypatch.setattr(LocalStore, name, spy)
    words = ["stream@v2", "--store", stream.store, "--base", "bert"]
    assert serve(monkeypatch, capsys, *words)[0] == 0
    assert len(order) == 3 and order[-1] == "adapter_config.json"
    assert serve(monkeypatch, capsys, *words)[0] == 0 and len(order) == 3  # whole already
    config = stream.store / "serve/bert/default-stream-v00000002/adapter_config.json"
    config.write_text("{}")
    code, _, err = serve(monkeypatch, capsys, *words)
    assert code == 1 and "holds another adapter" in err and config.read_text() == "{}"


@pytest.mark.parametrize("words", [["--base", "/"], ["--root", "../x"], ["--root", ""], ["--root", ".tmp"]])
def test_places_that_are_not_safe(
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    words: list[str],
) -> None:
    code, _, err = serve(monkeypatch, capsys, "stream@v1", "--store", stream.store, *words)
    assert code == 2 and "no safe place" in err


@pytest.mark.parametrize("upto", [1, 3])
@torch.no_grad()
def test_load(stream: Stream, monkeypatch: pytest.MonkeyPatch, upto: int) -> None:
    monkeypatch.setenv("ORTHOPLEX_STORE", str(stream.store))
    reference = f"default/stream@v{upto}"
    given = transformers.AutoModel.from_pretrained(stream.base)
    assert orchestrator.load(reference, base=given) is given
    named = orchestrator.load(reference, base=stream.base, store=str(stream.store))
    configured = orchestrator.load(reference)
    for model in (given, named, configured):
        torch.testing.assert_close(model(IDS).last_hidden_state, expected(stream, upto), rtol=0, atol=0)


def test_load_on_another_base_is_refused(stream: Stream, tmp_path: Path) -> None:
    make_bert(tmp_path / "other", 1)
    other = transformers.AutoModel.from_pretrained(tmp_path / "other")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(IntegrityError, match=r"load default/stream@v1: the base is not .* trained on .its weights"):
        orchestrator.load("stream@v1", base=other, store=str(stream.store))
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    adapted = orchestrator.load("stream@v1", base=stream.base, store=str(stream.store))
    with pytest.raises(IntegrityError, match="unadapted"):
        orchestrator.load("stream@v2", base=adapted, store=str(stream.store))
    with pytest.raises(ConfigError, match="no such version"):
        orchestrator.load("stream@v9", base=stream.base, store=str(stream.store))
    with pytest.raises(ConfigError, match="no such folder"):
        orchestrator.load("stream@v1", base="./nowhere", store=str(stream.store))


def test_load_beside_another_tokenizer(stream: Stream, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """It is refused, with the file's name; a model that stands alone will do."""
    where = Path(shutil.copytree(stream.base, tmp_path / "other"))
    (where / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(IntegrityError, match=r"its tokenizer has a chat_template\.jinja, which it had not"):
        orchestrator.load("stream@v1", base=where, store=str(stream.store))
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        (where / name).unlink()
    assert orchestrator.load("stream@v1", base=where, store=str(stream.store)).config.vocab_size == 32
    assert not [each for each in recwarn if "tokenizer" in str(each.message)]


def test_load_with_another_configuration(stream: Stream, tmp_path: Path) -> None:
    """It is refused in a folder and in a model that is given, whose special tokens may be set for `generate`."""
    where = Path(shutil.copytree(stream.base, tmp_path / "other"))
    said = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**said, "layer_norm_eps": 0.125}))
    for base in (where, transformers.AutoModel.from_pretrained(where)):
        with pytest.raises(IntegrityError, match=r"layer_norm_eps is 0\.125, not 1e-12"):
            orchestrator.load("stream@v1", base=base, store=str(stream.store))
    given = transformers.AutoModel.from_pretrained(stream.base)
    given.config.pad_token_id, given.config.use_cache = 3, False
    assert orchestrator.load("stream@v1", base=given, store=str(stream.store)) is given


def test_a_given_model_may_have_a_drawn_pooler(stream: Stream, tmp_path: Path) -> None:
    """Who loads a checkpoint without one gets a pooler from transformers, another one every time."""
    held = transformers.BertForMaskedLM(transformers.AutoConfig.from_pretrained(stream.base))
    held.save_pretrained(tmp_path / "masked")
    shutil.copyfile(stream.base / "tokenizer.json", tmp_path / "masked/tokenizer.json")
    asked = ModelConfig(name=str(tmp_path / "masked"), max_length=16)
    known = weights_digest(load_plain(asked))
    given = transformers.AutoModel.from_pretrained(tmp_path / "masked")
    assert given.pooler is not None and digest_among(given, {known, None}) == known != weights_digest(given)
    given.encoder.layer[0].output.dense.bias.data += 1
    assert digest_among(given, {known}) == weights_digest(given)


def test_load_of_an_old_log(stream: Stream, old_log: None) -> None:
    with pytest.warns(UserWarning, match="its log does not say which tokenizer and configuration"):
        orchestrator.load("stream@v1", store=str(stream.store))


def test_serve_layout_in_a_bucket(
    stream: Stream,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    there, here = S3Store(s3_bucket), LocalStore(stream.store)
    for key in here.list(""):
        there.put(key, here.get(key))
    code, out, _ = serve(monkeypatch, capsys, "stream@v3", "--store", there.uri, "--base", "bert")
    assert code == 0 and f"{there.uri}/serve/bert/default-stream-v00000003" in out
    assert there.list_folders("serve/bert") == ["default-stream-v00000003"]
