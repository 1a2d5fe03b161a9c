"""`orthoplex adapters export`, on a store with committed adapters that nothing trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from cluster.storage import LocalStore, upload_files
from orchestrator.config.run import RunConfig, parse_config
from orchestrator.delivery.export import ends_of
from orchestrator.track.events import Committed
from orchestrator.track.track import Track
from tests.support.command_line import Result, here
from trainers.config import ModelConfig
from trainers.data.generative.config import AnyTask
from trainers.methods.base import Artifact
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter, dump
from trainers.methods.oa.history import fold
from trainers.models.loading import load_backbone

LAYER, OTHER = "encoder.layer.0.output.dense", "encoder.layer.1.output.dense"
IDS = torch.tensor([[5, 9, 12, 7]])


class Stream(NamedTuple):
    """A run of three tasks over the BERT in the folder `base`."""

    store: Path
    base: Path
    tasks: list[TaskAdapter]


def make_bert(folder: Path, seed: int) -> None:
    from tokenizers import Tokenizer, models

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=32, max_position_embeddings=16, **shape))
    for layer in model.encoder.layer:
        torch.nn.init.normal_(layer.output.dense.bias)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(32)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0").save_pretrained(folder)


def random_task(ranks: dict[str, int]) -> TaskAdapter:
    draw = {name: (torch.randn(r, 16), torch.randn(16, r), torch.randn(r)) for name, r in ranks.items()}
    modules = {name: ModuleAdapter(w1 / 4, w2 / 4, gamma) for name, (w1, w2, gamma) in draw.items()}
    return TaskAdapter(modules, {}, {})


def config_of(base: Path, store: Path) -> RunConfig:
    tasks = [{"name": name, "source": "docstrings", "task": "library"} for name in "abc"]
    model = {"name": str(base), "max_length": 16}
    content = {"name": "stream", "store": str(store), "model": model, "tasks": tasks}
    return parse_config({**content, "adapter": {"target_modules": ["output.dense"]}}, "test")


@pytest.fixture
def stream(tmp_path: Path, fake_run: Callable[..., Any]) -> Stream:
    base = tmp_path / "base"
    make_bert(base, 0)
    run = fake_run("a", "b", "c", config=config_of(base, tmp_path / "store"))
    backbone = load_backbone(ModelConfig(name=str(base), max_length=16))
    told = {"base_digest": backbone.digest, "tokenizer": backbone.tokenizer_digests, "base_config": backbone.settings}
    tasks = [random_task(ranks) for ranks in ({LAYER: 2, OTHER: 1}, {OTHER: 3}, {LAYER: 4})]
    for index, task in enumerate(tasks):
        prefix, folder = run.track.fresh_prefix(), tmp_path / f"task-{index}"
        folder.mkdir()
        Artifact(dump(task)).write(folder)
        sha256 = run.track.write_manifest(prefix, {}, upload_files(run.track.store, prefix, folder))
        body = {"version": index + 1, "index": index, "task": "abc"[index], "prefix": prefix}
        body["active_parameters"] = sum(adapter.rank * (2 * 16 + 1) for adapter in task.modules.values())
        run.append("commit", {**body, **told, "manifest_sha256": sha256, "stored_bytes": 1})
    return Stream(tmp_path / "store", base, tasks)


@pytest.fixture
def export(stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., Result]:
    """Runs `orthoplex adapters export … --output OUT --store …` in this process."""

    def call(reference: str, form: str, *rest: object) -> Result:
        where = ["--output", tmp_path / "out", "--store", stream.store]
        return here(monkeypatch, capsys, "adapters", "export", reference, "--format", form, *where, *rest)

    return call


@torch.no_grad()
def expected(stream: Stream, upto: int) -> Tensor:
    """What the base gives with the first tasks folded in."""
    model = transformers.AutoModel.from_pretrained(stream.base)
    for name in (LAYER, OTHER):
        layer = model.get_submodule(name)
        weight, bias = fold(
            layer.weight, layer.bias, [t.modules[name] for t in stream.tasks[:upto] if name in t.modules]
        )
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return model(IDS).last_hidden_state


@pytest.mark.parametrize("upto", [1, 3])
@torch.no_grad()
def test_merged(stream: Stream, export: Callable[..., Result], tmp_path: Path, upto: int) -> None:
    code, out, err = export(f"default/stream@v{upto}", "merged")
    assert (code, err) == (0, "")
    found = transformers.AutoModel.from_pretrained(tmp_path / "out")(IDS).last_hidden_state
    torch.testing.assert_close(found, expected(stream, upto))
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert f"model.safetensors  {size:,} bytes" in out and f"default/stream@v{upto}" in out.splitlines()[0]


@pytest.mark.parametrize("upto", [1, 3])
@torch.no_grad()
def test_peft(stream: Stream, export: Callable[..., Result], tmp_path: Path, upto: int) -> None:
    """W0 + B A and b + s in the base; that PEFT reads the folder so is tested with the trainers."""
    code, out, err = export(f"stream@v{upto}", "peft")
    assert (code, err) == (0, "")
    assert f"2 layers, ranks {'1 to 2' if upto == 1 else '4 to 6'}, " in out
    tensors = load_file(tmp_path / "out/adapter_model.safetensors")
    written = sum(tensor.numel() for tensor in tensors.values())
    counted = sum(adapter.rank * (2 * 16 + 1) for task in stream.tasks[:upto] for adapter in task.modules.values())
    assert f", {written:,} parameters: A has a layer's input width, B its output width" in out
    assert f"`status` counts the {counted:,} of W1, W2 and γ that were trained and kept" in out
    model = transformers.AutoModel.from_pretrained(stream.base)
    for name in (LAYER, OTHER):
        layer, key = model.get_submodule(name), f"base_model.model.{name}.lora_"
        layer.weight += tensors[f"{key}B.weight"] @ tensors[f"{key}A.weight"]
        layer.bias += tensors[f"{key}B.bias"]
    torch.testing.assert_close(model(IDS).last_hidden_state, expected(stream, upto), rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(stream.base) and config["task_type"] == "FEATURE_EXTRACTION"
    told = (tmp_path / "out/README.md").read_text()
    assert f"default/stream@v{upto}" in told and f"in order: {'a' if upto == 1 else 'a, b, c'}\n" in told


def test_where_the_base_is_now(stream: Stream, export: Callable[..., Result], tmp_path: Path) -> None:
    """Another folder will do, another model will not."""
    moved = stream.base.rename(tmp_path / "moved")
    code, out, err = export("stream@v3", "peft")
    assert (code, out) == (2, "") and "--model" in err and str(stream.base) in err
    make_bert(tmp_path / "other", 1)
    code, out, err = export("stream@v3", "peft", "--model", tmp_path / "other")
    digest = load_backbone(ModelConfig(name=str(moved), max_length=16)).digest
    assert (code, out) == (1, "") and str(tmp_path / "other") in err and digest in err
    assert not (tmp_path / "out").exists()
    assert export("stream@v3", "peft", "--model", moved).code == 0
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == str(moved)


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_another_tokenizer_is_refused(stream: Stream, export: Callable[..., Result], tmp_path: Path, form: str) -> None:
    """The file that differs is named; the same files elsewhere will do."""
    moved = Path(shutil.copytree(stream.base, tmp_path / "moved"))
    (moved / "tokenizer_config.json").write_text("no JSON, so that it cannot be loaded")
    code, out, err = export("stream@v3", form, "--model", moved)
    assert (code, out) == (1, "") and "its tokenizer's tokenizer_config.json has sha256" in err
    assert "tokenizer.json has" not in err and not (tmp_path / "out").exists()
    shutil.copyfile(stream.base / "tokenizer_config.json", moved / "tokenizer_config.json")
    assert export("stream@v3", form, "--model", moved).code == 0


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_another_configuration_is_refused(
    stream: Stream, export: Callable[..., Result], tmp_path: Path, form: str
) -> None:
    """The key that differs is named, before the weights are read; one that was saved anew will do."""
    moved = Path(shutil.copytree(stream.base, tmp_path / "moved"))
    said = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**said, "layer_norm_eps": 0.125, "hidden_act": "relu"}))
    code, out, err = export("stream@v3", form, "--model", moved)
    assert (code, out) == (1, "") and 'hidden_act is "relu", not "gelu", layer_norm_eps is 0.125, not 1e-12' in err
    assert not (tmp_path / "out").exists()
    del said["layer_norm_eps"], said["hidden_act"]  # the defaults of the class
    (moved / "config.json").write_text(json.dumps({**said, "use_cache": False, "transformers_version": "4.0"}))
    assert export("stream@v3", form, "--model", moved).code == 0


def test_a_log_without_a_tokenizer(
    stream: Stream, export: Callable[..., Result], tmp_path: Path, old_log: None
) -> None:
    changed = stream.base / "tokenizer_config.json"
    changed.write_text(json.dumps({**json.loads(changed.read_text()), "padding_side": "left"}))
    code, _, err = export("stream@v3", "merged")
    assert code == 0 and err == (
        "note: default/stream: its log does not say which tokenizer and configuration its base had, so these are not "
        "compared\n"
    )


@pytest.fixture
def old_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are read as an older Orthoplex wrote them."""
    read = Committed.of
    monkeypatch.setattr(
        Committed, "of", lambda entry: read(entry).model_copy(update={"tokenizer": {}, "base_config": {}})
    )


def test_merged_gives_the_bases_files_back(stream: Stream, export: Callable[..., Result], tmp_path: Path) -> None:
    """With the mode of a new file."""
    assert export("stream@v3", "merged").code == 0
    (tmp_path / "new").touch()
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode == (tmp_path / "new").stat().st_mode
        if path.name not in ("model.safetensors", "README.md", "generation_config.json"):
            assert path.read_bytes() == (stream.base / path.name).read_bytes()


def test_a_lora_has_the_bases_files_beside_it(stream: Stream, export: Callable[..., Result], tmp_path: Path) -> None:
    """Its tokenizer byte for byte, and how it generates if it says so; all readable for others."""
    (stream.base / "generation_config.json").write_text('{"temperature": 0.5,  "do_sample": true}')
    (stream.base / "README.md").write_text("---\nlicense: mit\n---\n")
    assert export("stream@v3", "peft").code == 0
    (tmp_path / "new").touch()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (stream.base / name).read_bytes()
    assert not (tmp_path / "out/config.json").exists()
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {(tmp_path / "new").stat().st_mode}
    told = (tmp_path / "out/README.md").read_text()
    assert told.startswith("---\nlibrary_name: peft\n") and 'license: "mit"' in told


def test_tasks_that_the_folder_cannot_ask_are_named(stream: Stream, export: Callable[..., Result]) -> None:
    """The base's tokenizer knows none of the label words, or the log has none."""
    code, out, _ = export("stream@v2", "peft")
    notes = [line for line in out.splitlines() if line.startswith("note: predict.py does not ask ")]
    assert code == 0 and len(notes) == 2 and "predict.py  " not in out


@pytest.mark.parametrize(
    ("reference", "form", "message"),
    [
        ("stream@v4", "peft", "no such version; default/stream has v1, v2, v3"),
        ("stream", "peft", "expected RUN@vN"),
        ("streem@v1", "merged", "did you mean 'stream'?"),
        ("stream@v1", "onnx", "'onnx' is not one of 'peft', 'merged'"),
    ],
)
def test_wrong_usage(export: Callable[..., Result], tmp_path: Path, reference: str, form: str, message: str) -> None:
    code, out, err = export(reference, form)
    assert (code, out) == (2, "") and message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_target_in_use(export: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    code, out, err = export("stream@v1", "peft")
    assert (code, out) == (2, "") and "is not empty" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_file_changed_in_the_store(stream: Stream, export: Callable[..., Result], tmp_path: Path) -> None:
    """Also that of an earlier task, which the adapter asked for stands on."""
    first = Track(LocalStore(stream.store), "default", "stream").entries()[2]
    file = stream.store / first.body["prefix"] / "adapter.safetensors"
    assert first.body["version"] == 1
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, out, err = export("stream@v3", "merged")
    assert (code, out) == (1, "") and "adapter.safetensors: differs from its manifest" in err
    assert not (tmp_path / "out").exists()


def test_what_ends_an_answer() -> None:
    """The end of a text, after conversations also what their template writes; an encoder answers with no tokens."""
    base = load_backbone(ModelConfig(name="docs-lm", task_type="CAUSAL_LM", max_length=96))
    files = {"source": "files", "train": "a.jsonl", "test": "b.jsonl"}
    label, pairs, chat = (
        TypeAdapter(AnyTask).validate_python({"name": "t", **files, **keys})
        for keys in ({}, {"format": "prompt_completion"}, {"format": "messages"})
    )
    ids = {token: base.tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")}
    assert ends_of(base, [label, pairs]) == {"<|endoftext|>": ids["<|endoftext|>"]}
    assert ends_of(base, [pairs, chat]) == ids
    assert ends_of(load_backbone(ModelConfig()), [label]) == {}
