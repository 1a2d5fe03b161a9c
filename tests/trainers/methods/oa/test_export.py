"""What is exported gives, in programs that know nothing of Orthoplex, what the stream gives.

The reference is `History`, folded as in training, which forms neither A nor B. PEFT runs in one subprocess that
imports it, transformers and torch alone.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cluster.errors import ConfigError, IntegrityError
from tests.support.exports import (
    BF16_ROUNDING,
    FAMILIES,
    NO_PICKLES,
    ROUNDING,
    Case,
    assert_near,
    error,
    export_merged,
    export_peft,
    folded,
    logits,
    random_task,
    write,
)
from trainers.methods.base import Artifact
from trainers.methods.oa.artifact import ADAPTER_FILE, BASES_FILE, ModuleAdapter, TaskAdapter, dump, parse
from trainers.methods.oa.export import as_lora, streams

MERGEABLE = sorted(FAMILIES.keys() - {"Qwen2"})  # some of its layers have a bias and others none
HAS_PEFT = importlib.util.find_spec("peft") is not None
READER = """
import json, sys, warnings
import peft, torch, transformers
from safetensors.torch import load_file, save_file

@torch.no_grad()
def logits(model, inputs):
    found = model.eval()(**inputs)
    return (found.logits if "logits" in found else found.last_hidden_state).float().contiguous()

answers, report = {}, {}
for job in json.load(open(sys.argv[1])):
    base = getattr(transformers, job["auto"]).from_pretrained(job["base"], dtype=getattr(torch, job["dtype"]))
    if job["extra"]:
        base.extra = transformers.BertModel(base.config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(base, job["folder"])
    layers = {name: module for name, module in base.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    report[job["name"]] = {
        "ranks": {name: layer.r["default"] for name, layer in layers.items()},
        "scaling": sorted({layer.scaling["default"] for layer in layers.values()}),
        "warnings": [str(each.message) for each in caught if each.category is not FutureWarning],
    }
    inputs = load_file(job["inputs"])
    answers[job["name"] + "/lora"] = logits(model, inputs)
    try:
        answers[job["name"] + "/merged"] = logits(model.merge_and_unload(), inputs)
    except RuntimeError as error:
        report[job["name"]]["unmerged"] = str(error)
report["imported"] = sorted({"trainers", "orchestrator", "cluster"} & sys.modules.keys())
save_file(answers, sys.argv[2])
json.dump(report, open(sys.argv[3], "w"))
"""


class Read(NamedTuple):
    """What PEFT gave, by name of the job, and what it says of the layers."""

    answers: dict[str, Tensor]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def read(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Every PEFT export, read by one process: whole streams, prefixes, a bfloat16 base, and confusable names."""
    if not HAS_PEFT:
        pytest.skip("peft is not installed; `make install-dev` does it")
    root = tmp_path_factory.mktemp("peft")
    jobs = []

    def add(name: str, case: Case, model: Any, tasks: Sequence[TaskAdapter], *, extra: bool = False) -> None:
        dtype = str(model.dtype).removeprefix("torch.")
        export_peft(model, tasks, root / name, case.origin)
        save_file(case.inputs, root / f"{name}.inputs")
        job = {"name": name, "folder": str(root / name), "inputs": str(root / f"{name}.inputs"), "extra": extra}
        jobs.append({**job, "base": str(case.base), "auto": case.auto.__name__, "dtype": dtype})

    for family, case in cases.items():
        add(family, case, case.load(), case.tasks)
    for family in ("Bert", "GPT2"):
        add(f"{family}-1", cases[family], cases[family].load(), cases[family].tasks[:1])
        add(f"{family}-bf16", cases[family], cases[family].load(torch.bfloat16), cases[family].tasks)
    add("confusable", cases["Bert"], confusable(cases["Bert"]), confusable_stream(cases["Bert"]), extra=True)
    files = [root / name for name in ("jobs.json", "answers.safetensors", "report.json")]
    files[0].write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, files)], check=False, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Read(load_file(files[1]), json.loads(files[2].read_text()))


def confusable(case: Case) -> Any:
    """A model in a model: layers `extra.X` beside layers `X`."""
    model = case.load()
    model.extra = transformers.BertModel(model.config)
    return model


def confusable_stream(case: Case) -> list[TaskAdapter]:
    """`X` of rank 2, `extra.X` of rank 5, and another layer of rank 3 whose like in `extra` is not adapted."""
    layers = dict(confusable(case).named_modules())
    chosen = ("encoder.layer.0.output.dense", "extra.encoder.layer.0.output.dense", "encoder.layer.1.output.dense")
    return [random_task({name: layers[name] for name in chosen}, (2, 5, 3), 7)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_a_layer_as_lora(kind: str, bias: bool) -> None:
    """W0 x + b + B A x + s = F_t (W0 x + b), F_t formed here as a product of (I + U)."""
    torch.manual_seed(0)
    layer: Any = nn.Linear(7, 5, bias=bias) if kind == "Linear" else Conv1D(5, 7)
    if kind == "Conv1D" and not bias:
        layer.bias = None
    elif bias:
        nn.init.normal_(layer.bias)
    stream = [random_task({"m": layer}, [rank], rank).modules["m"] for rank in (2, 1, 4)]
    product_DD = torch.eye(5, dtype=torch.float64)
    for adapter in stream:
        u_DD = adapter.w2_DR.double() @ adapter.gamma_R.double().diag() @ adapter.w1_RD.double()
        product_DD = (torch.eye(5, dtype=torch.float64) + u_DD) @ product_DD
    weight_DK = (layer.weight.T if kind == "Conv1D" else layer.weight).detach().double()
    x_NK = torch.randn(9, 7, dtype=torch.float64)
    h_ND = x_NK @ weight_DK.T + (layer.bias.detach().double() if bias else 0)

    lora = as_lora(layer, stream)
    assert lora.rank == 7 and (lora.shift_D is not None) == bias
    shift_D = 0 if lora.shift_D is None else lora.shift_D.double()
    given_ND = h_ND + x_NK @ lora.a_RK.double().T @ lora.b_DR.double().T + shift_D
    torch.testing.assert_close(given_ND, h_ND @ product_DD.T, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_what_the_stream_gives(cases: dict[str, Case], read: Read, family: str) -> None:
    case, model = cases[family], cases[family].load()
    expected = logits(folded(model, case.tasks), case.inputs)
    assert error(expected, logits(model, case.inputs)) > 0.05  # the stream does something
    assert_near(read.answers[f"{family}/lora"], expected, ROUNDING)
    assert read.report["imported"] == []


@pytest.mark.parametrize("family", MERGEABLE)
def test_what_peft_merges(cases: dict[str, Case], read: Read, family: str) -> None:
    expected = logits(folded(cases[family].load(), cases[family].tasks), cases[family].inputs)
    assert_near(read.answers[f"{family}/merged"], expected, ROUNDING)
    assert read.report[family]["warnings"] == []


def test_what_peft_cannot_merge(cases: dict[str, Case], read: Read, tmp_path: Path) -> None:
    """Layers with a bias beside layers without: the folder says so."""
    assert "no bias" in read.report["Qwen2"]["unmerged"]
    export_peft(cases["Qwen2"].load(), cases["Qwen2"].tasks, tmp_path / "made", cases["Qwen2"].origin)
    assert "`merge_and_unload` refuses" in (tmp_path / "made/README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_adapts_just_these_layers(cases: dict[str, Case], read: Read, family: str) -> None:
    ranks: dict[str, int] = {}
    for task in cases[family].tasks:
        for name, adapter in task.modules.items():
            ranks[name] = ranks.get(name, 0) + adapter.rank
    assert read.report[family]["ranks"] == ranks and len(set(ranks.values())) > 1
    assert read.report[family]["scaling"] == [1.0]


def test_names_that_end_alike(read: Read) -> None:
    assert read.report["confusable"]["ranks"] == {
        "encoder.layer.0.output.dense": 2,
        "extra.encoder.layer.0.output.dense": 5,
        "encoder.layer.1.output.dense": 3,
    }
    assert read.report["confusable"]["warnings"] == []


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_a_prefix_of_the_stream(cases: dict[str, Case], read: Read, family: str) -> None:
    case = cases[family]
    expected = logits(folded(case.load(), case.tasks[:1]), case.inputs)
    assert_near(read.answers[f"{family}-1/lora"], expected, ROUNDING)
    assert error(read.answers[f"{family}-1/lora"], read.answers[f"{family}/lora"]) > 0.05


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_a_bfloat16_base(cases: dict[str, Case], read: Read, family: str) -> None:
    """Against float32 arithmetic on the bfloat16 weights."""
    case = cases[family]
    expected = logits(folded(case.load(torch.bfloat16).float(), case.tasks), case.inputs)
    assert_near(read.answers[f"{family}-bf16/lora"], expected, BF16_ROUNDING)


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_gives_what_the_stream_gives(cases: dict[str, Case], tmp_path: Path, family: str) -> None:
    case, model = cases[family], cases[family].load()
    exact = folded(model, case.tasks)
    made = export_merged(model, case.tasks, tmp_path / "made", case.origin)
    loaded = case.auto.from_pretrained(tmp_path / "made")
    assert loaded.dtype == torch.float32
    for name, value in loaded.named_parameters():  # not to the bit: a mapped file's tensors lie unaligned for BLAS
        torch.testing.assert_close(value, exact.get_parameter(name), rtol=1e-6, atol=1e-6)
    assert_near(logits(loaded, case.inputs), logits(exact, case.inputs), ROUNDING)
    vocabularies = [transformers.AutoTokenizer.from_pretrained(f).get_vocab() for f in (tmp_path / "made", case.base)]
    assert vocabularies[0] == vocabularies[1]
    assert {Path(name).suffix for name in made.sizes_bytes} <= NO_PICKLES and "README.md" in made.sizes_bytes


def test_merged_in_bfloat16(cases: dict[str, Case], tmp_path: Path) -> None:
    """Folded in float32 and rounded once: every weight is the bfloat16 nearest to F_t W0."""
    case = cases["Bert"]
    exact = folded(case.load(torch.bfloat16).float(), case.tasks)
    export_merged(case.load(torch.bfloat16), case.tasks, tmp_path / "made", case.origin)
    loaded = case.auto.from_pretrained(tmp_path / "made", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16())
    assert_near(logits(loaded, case.inputs), logits(exact, case.inputs), BF16_ROUNDING)


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_merged_without_rounding(cases: dict[str, Case], tmp_path: Path, family: str) -> None:
    """Of a bfloat16 base: a float32 model, also for a loader that goes by config.json, with F_t W0 to the bit."""
    case = cases[family]
    exact = folded(case.load(torch.bfloat16).float(), case.tasks)
    export_merged(case.load(torch.bfloat16), case.tasks, tmp_path / "made", case.origin, "none")
    loaded = case.auto.from_pretrained(tmp_path / "made", dtype="auto")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(value, exact.get_parameter(name)) for name, value in loaded.named_parameters())


def test_a_stored_stream_gives_the_same_files(cases: dict[str, Case], tmp_path: Path) -> None:
    case, stored = cases["GPT2"], []
    for number, task in enumerate(case.tasks):
        folder = tmp_path / str(number)
        folder.mkdir()
        Artifact(dump(task)).write(folder)
        stored.append(parse((folder / ADAPTER_FILE).read_bytes(), (folder / BASES_FILE).read_bytes()))
    for folder, tasks in ((tmp_path / "before", case.tasks), (tmp_path / "after", stored)):
        write("peft", case, tasks, folder)
    before, after = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("before", "after"))
    assert before == after


def test_a_stream_of_another_model(cases: dict[str, Case]) -> None:
    with pytest.raises(IntegrityError, match=r"export: task 1 adapts 'model\.layers"):
        streams(cases["Bert"].load(), cases["Llama"].tasks)
    model = cases["Bert"].load()
    (name, adapter), *_ = cases["Bert"].tasks[0].modules.items()
    narrow = ModuleAdapter(adapter.w1_RD[:, 1:], adapter.w2_DR[1:], adapter.gamma_R)
    uneven = ModuleAdapter(adapter.w1_RD, adapter.w2_DR[:, 1:], adapter.gamma_R)
    infinite = ModuleAdapter(adapter.w1_RD, adapter.w2_DR, adapter.gamma_R / 0)
    for wrong in (narrow, uneven, infinite):
        with pytest.raises(IntegrityError, match=f"task 1, layer '{name}': a tensor of shape .* and finite"):
            streams(model, [TaskAdapter({name: wrong}, {}, {})])


def test_a_stream_that_kept_nothing(cases: dict[str, Case], tmp_path: Path) -> None:
    case, nothing = cases["Llama"], [TaskAdapter({}, {}, {})]
    with pytest.raises(ConfigError, match="kept no dimension"):
        write("peft", case, nothing, tmp_path / "made")
    write("merged", case, nothing, tmp_path / "made")
    loaded = case.auto.from_pretrained(tmp_path / "made")
    assert torch.equal(logits(loaded, case.inputs), logits(case.load(), case.inputs))
