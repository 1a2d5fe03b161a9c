"""What is particular to LoRA: whose adapter answers, what goes on, what is stored, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from cluster.errors import ConfigError, IntegrityError
from tests.support.method_stream import MethodStream
from tests.support.tiny_models import save_tiny
from trainers.config import ModelConfig
from trainers.method_config import LoraConfig
from trainers.methods.base import Artifact, Lora
from trainers.methods.export import Provenance, write_peft
from trainers.methods.lora import LoraMethod
from trainers.methods.updates import FILE, dump, parse
from trainers.models.loading import load_backbone

LAYERS = {f"transformer.h.{layer}.attn.c_attn" for layer in range(3)}


def config(**changes: Any) -> LoraConfig:
    return LoraConfig.model_validate(
        {"method": "lora", "target_modules": ["c_attn"], "rank": 2, "alpha": 3.0} | changes
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("base")
    save_tiny("gpt2", folder / "gpt2")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
            patch.setenv(name, str(value))
        yield folder / "gpt2"


def stream(base: Path, store: Path, **changes: Any) -> MethodStream:
    settings = config(**changes)
    return MethodStream(base, settings, lambda model: LoraMethod(model, settings, torch.float32), store)


def test_each_task_is_answered_by_its_own_adapter(base: Path, tmp_path: Path) -> None:
    """What was learned first does not change, to the bit; a task that is not learned yet is answered by the base."""
    learner = stream(base, tmp_path, mode="per_task")
    untouched = learner.outputs()
    learner.learn(0)
    first = learner.outputs(0)
    assert torch.equal(learner.outputs(1), untouched) and not torch.equal(first, untouched)
    learner.learn(1)
    assert torch.equal(learner.outputs(0), first)
    assert torch.equal(learner.outputs(2), untouched)
    assert torch.equal(learner.outputs(), learner.outputs(1)) and not torch.equal(learner.outputs(), first)


def test_a_later_task_of_its_own_does_not_depend_on_earlier_ones(base: Path, tmp_path: Path) -> None:
    one, other = (stream(base, tmp_path / name, mode="per_task") for name in "ab")
    one.learn(0)
    assert one.learn(1).files == other.learn(1).files


def test_one_adapter_goes_on(base: Path, tmp_path: Path) -> None:
    """All tasks are answered by its newest state, and its parameters are counted once."""
    learner = stream(base, tmp_path)
    before, after = (parse(learner.learn(index).files[FILE], "lora") for index in range(2))
    assert all(not torch.equal(before[name].b_DR, after[name].b_DR) for name in LAYERS)
    assert torch.equal(learner.outputs(0), learner.outputs(1))
    counted = [each.summary.active_parameters for each in learner.committed if each.summary]
    assert counted == [3 * 2 * (32 + 96), 0]
    names = {name for name, _ in learner.backbone.model.named_modules() if name.endswith("lora_A.task1")}
    assert len(names) == 3
    assert not any("lora_A.task0" in name for name, _ in learner.backbone.model.named_modules())


def test_an_adapter_of_another_rank_does_not_go_on(base: Path, tmp_path: Path) -> None:
    learner, wider = stream(base, tmp_path), stream(base, tmp_path, rank=4)
    wider.take([learner.learn(0)])
    with pytest.raises(ConfigError, match=r"^adapter\.rank: 4, but the adapter that goes on has 2; set that$"):
        wider.training(1).run()


def test_what_is_stored_is_what_peft_names(base: Path, tmp_path: Path) -> None:
    """And its scaling, which a run with another alpha keeps."""
    learner = stream(base, tmp_path)
    artifact = learner.learn(0)
    expected = {f"base_model.model.{n}.lora_{m}.weight" for n in LAYERS for m in "AB"}
    assert {*load(artifact.files[FILE])} == expected
    other = stream(base, tmp_path, alpha=300.0)
    other.take([Artifact(artifact.files)])
    assert torch.equal(other.outputs(), learner.outputs())
    model = load_backbone(ModelConfig(name=str(base), task_type="CAUSAL_LM", max_length=16)).model
    origin = Provenance("t/x@v1", ("a",), "CAUSAL_LM", str(base), "d" * 64)
    write_peft(model, learner.method.as_lora([artifact]), tmp_path / "made", origin)
    written = json.loads((tmp_path / "made/adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["fan_in_fan_out"]) == (2, 3, True)
    assert {*load((tmp_path / "made/adapter_model.safetensors").read_bytes())} == expected


def made(**layers: tuple[int, int, int]) -> dict[str, Lora]:
    return {n: Lora(torch.randn(r, k), torch.randn(d, r), scaling=0.1) for n, (d, k, r) in layers.items()}


def test_files_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    learner = stream(base, tmp_path)
    wrong = dict.fromkeys(LAYERS, (96, 31, 2))
    for layers, said in ((wrong, "maps 31 to 96 values, the layer 32 to 96"), ({"a": (3, 3, 2)}, "other layers")):
        with pytest.raises(IntegrityError, match=said):
            learner.method.extend([Artifact({FILE: dump(made(**layers))})])
    uneven = {name: (96, 32, 2 + index) for index, name in enumerate(sorted(LAYERS))}
    with pytest.raises(IntegrityError, match="task 1: its layers have different ranks; do not use this version"):
        learner.method.extend([Artifact({FILE: dump(made(**uneven))})])


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^adapter\.method: lora needs peft, .*; `pip install 'orthoplex\[methods\]'`$"
    ):
        config().check_installed()
