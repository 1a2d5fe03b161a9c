"""Folders of an export: what is in them, and that they are there whole or not at all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cluster.errors import ConfigError, IntegrityError, StoreError
from cluster.storage.disk import DiskFullError
from tests.support.disks import Disk
from tests.support.exports import (
    BIASED,
    FAMILIES,
    NO_PICKLES,
    ROUNDING,
    Case,
    assert_near,
    export_merged,
    export_peft,
    folded,
    logits,
    write,
)
from trainers.methods import export
from trainers.methods.base import Lora
from trainers.methods.export import check_free, peft_targets, write_peft
from trainers.methods.targets import linear_layers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_peft_folder(cases: dict[str, Case], tmp_path: Path, family: str) -> None:
    case = cases[family]
    made = export_peft(case.load(), case.tasks, tmp_path / "made", case.origin)
    config = json.loads((tmp_path / "made/adapter_config.json").read_text())
    tensors = load_file(tmp_path / "made/adapter_model.safetensors")
    endings = {key.partition(".lora_")[2] for key in tensors}
    assert endings == {"A.weight", "B.weight", *(["B.bias"] if family in BIASED else [])}
    assert {key.partition(".lora_")[0] for key in tensors} == {f"base_model.model.{name}" for name in made.ranks}
    assert config["lora_bias"] == (family in BIASED) and config["fan_in_fan_out"] == (family == "GPT2")
    assert config["target_modules"] == list(made.ranks) and config["r"] == config["lora_alpha"] == max(
        made.ranks.values()
    )
    assert config["task_type"] == {"LABEL_EMBEDDING": "FEATURE_EXTRACTION"}.get(
        case.origin.task_type, case.origin.task_type
    )
    assert config["base_model_name_or_path"] == str(case.base)
    assert made.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert made.sizes_bytes == {path.name: path.stat().st_size for path in (tmp_path / "made").iterdir()}
    told = (tmp_path / "made/README.md").read_text()
    assert all(word in told for word in ("team/run@v3", "a, b, c", str(case.base), "d" * 64))
    assert ("lora_bias" in told) == (family in BIASED)


@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize("family", ["Bert", "Llama", "T5"])
def test_the_readme_s_own_lines_load_it(cases: dict[str, Case], tmp_path: Path, family: str, form: str) -> None:
    """In the dtype of the run, whatever the base is stored in, and with the base's tokenizer."""
    import peft

    case = cases[family]
    stored = tmp_path / "base"
    shutil.copytree(case.base, stored)
    case.load(torch.bfloat16).save_pretrained(stored)
    case = case._replace(base=stored, origin=replace(case.origin, base=str(stored)))
    write(form, case, case.tasks, tmp_path / "made")
    told = (tmp_path / "made/README.md").read_text()
    code = "\n".join(line.strip() for line in told.splitlines() if line.startswith("    "))
    names: dict[str, Any] = {"peft": peft, "transformers": transformers, "torch": torch, "FOLDER": tmp_path / "made"}
    exec(code, names)
    assert next(names["model"].parameters()).dtype == torch.float32
    assert_near(logits(names["model"], case.inputs), logits(folded(case.load(), case.tasks), case.inputs), ROUNDING)
    assert names["tokenizer"].eos_token == "w1" and "An answer ends" not in told


def test_the_readme_says_what_ends_an_answer(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["Llama"]
    for ends, said in (({"</s>": 1}, "ends with `</s>` (1), as in training: give `generate` eos_token_id=1."),
                       ({"</s>": 1, "<|end|>": 7}, "`</s>` (1) or `<|end|>` (7), as in training: give `generate` "
                        "eos_token_id=[1, 7].")):  # fmt: skip
        folder = tmp_path / str(len(ends))
        export_peft(case.load(), case.tasks, folder, replace(case.origin, ends=ends))
        assert said in (folder / "README.md").read_text()


def test_equal_ranks_need_no_pattern(cases: dict[str, Case]) -> None:
    model = cases["Llama"].load()
    names = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    found = peft_targets(model, dict.fromkeys(names, 3), dict.fromkeys(names, 3.0))
    assert (found["r"], found["rank_pattern"], found["exclude_modules"]) == (3, {}, None)


@pytest.mark.parametrize("has_one", [True, False])
def test_merged_generates_as_the_base(cases: dict[str, Case], tmp_path: Path, has_one: bool) -> None:
    """Scoring replaces the model's generation configuration; the folder has the base's, where it has one."""
    case, own = cases["GPT2"], tmp_path / "base/generation_config.json"
    shutil.copytree(case.base, tmp_path / "base")
    own.write_text(json.dumps({"eos_token_id": 1, "max_new_tokens": 5, "temperature": 0.5, "do_sample": True}))
    if not has_one:
        own.unlink()
    model = case.load()
    model.generation_config = transformers.GenerationConfig()
    origin = replace(case.origin, base=str(tmp_path / "base"))
    export_merged(model, case.tasks, tmp_path / "made", origin)
    made = tmp_path / "made/generation_config.json"
    assert made.read_bytes() == own.read_bytes() if has_one else not made.exists()
    assert case.auto.from_pretrained(tmp_path / "made").generation_config.eos_token_id == 1


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_no_pickles_and_an_empty_folder_will_do(cases: dict[str, Case], tmp_path: Path, form: str) -> None:
    (tmp_path / "made").mkdir()
    write(form, cases["GPT2"], cases["GPT2"].tasks, tmp_path / "made")
    assert {path.suffix for path in (tmp_path / "made").rglob("*")} <= NO_PICKLES
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("form", ["peft", "merged"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(28, "full")])
def test_nothing_is_left_of_an_interrupted_export(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, raised: BaseException
) -> None:
    """The last file cannot be written."""

    def fail(self: Path, *_: Any) -> int:
        assert any(self.parent.iterdir())
        raise raised

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(StoreError if isinstance(raised, OSError) else KeyboardInterrupt):
        write(form, cases["Bert"], cases["Bert"].tasks, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_written_last(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    keep = Path.write_text

    def note(self: Path, *rest: Any) -> int:
        written.append({path.name for path in self.parent.iterdir()})
        return keep(self, *rest)

    monkeypatch.setattr(Path, "write_text", note)
    write("peft", cases["Bert"], cases["Bert"].tasks, tmp_path / "made")
    assert written[-1] == {"adapter_model.safetensors", "README.md"}


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_what_is_not_finite_is_not_written(cases: dict[str, Case], tmp_path: Path, form: str) -> None:
    """As values that the base's dtype cannot hold: 1e12 in float16."""
    case = cases["Llama"]
    large = [replace(task, modules={n: replace(m, gamma_R=m.gamma_R * 1e11) for n, m in task.modules.items()})
             for task in case.tasks]  # fmt: skip
    model = case.load(torch.float16 if form == "merged" else torch.float32)
    with pytest.raises(IntegrityError, match=r"^team/run@v3: '.*' is not finite in float\d\d with its tasks; nothing"):
        if form == "merged":
            export_merged(model, large, tmp_path / "made", case.origin)
        else:
            lora = Lora(torch.ones(1, 2), torch.full((2, 1), torch.inf))
            write_peft(model, {next(iter(linear_layers(model))): lora}, tmp_path / "made", case.origin)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_what_is_there_is_never_replaced(cases: dict[str, Case], tmp_path: Path, form: str) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/mine").write_text("mine")
    with pytest.raises(ConfigError, match=r"--output .*made: is not empty"):
        write(form, cases["Bert"], cases["Bert"].tasks, tmp_path / "made")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="is not a folder"):
        check_free(tmp_path / "made/mine")
    assert len(list(tmp_path.iterdir())) == 1


def test_someone_else_was_faster(cases: dict[str, Case], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty"), export.whole_folder(tmp_path / "made") as folder:
        (folder / "ours").write_text("ours")
        (tmp_path / "made").mkdir()
        (tmp_path / "made/theirs").write_text("theirs")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["made", "made/theirs"]


@pytest.mark.parametrize("by", ["python", "safetensors"])
def test_a_full_disk_is_named(disk: Disk, by: str) -> None:
    made = disk.path / "made"
    said = f"^--output {made}: cannot be written: No space left on device; free some space there, or choose another"
    with pytest.raises(DiskFullError, match=said), export.whole_folder(made) as folder:
        disk.fill()
        if by == "python":
            (folder / "x").write_bytes(b"x" * 10_000)
        else:
            save_file({"x": torch.zeros(10_000)}, folder / "x.safetensors")
    assert [path.name for path in disk.path.iterdir()] == [".filler"]
    disk.remount("ro")
    with pytest.raises(StoreError, match="Read-only file system; mount it"), export.whole_folder(made):
        pass
