"""What is exported gives, in programs that know nothing of Orthoplex, what the stream gives.

The reference is `History`, folded as in training, which forms neither A nor B. PEFT runs in one subprocess that
imports it, transformers and torch alone.
"""

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cluster.errors import ConfigError, IntegrityError, StoreError
from trainers.config import AdapterConfig
from trainers.methods import export
from trainers.methods.base import Artifact
from trainers.methods.export import Exported, Provenance, check_free, peft_targets, write_merged, write_peft
from trainers.methods.oa.artifact import ADAPTER_FILE, BASES_FILE, ModuleAdapter, TaskAdapter, dump, parse
from trainers.methods.oa.export import as_lora, loras, merge, streams
from trainers.methods.oa.history import History
from trainers.methods.targets import match_modules, width

WORDS = 96
BERT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32, "vocab_size": WORDS,
}  # fmt: skip
GROUPED = {**BERT, "num_key_value_heads": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": WORDS}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": WORDS}
# family: (architecture, its configuration, task type, Auto class, target modules)
FAMILIES: dict[str, tuple[str, dict[str, Any], str, str, list[str]]] = {
    "Bert": ("BertModel", BERT, "LABEL_EMBEDDING", "AutoModel", ["attention.output.dense", "intermediate.dense"]),
    "Llama": ("LlamaForCausalLM", GROUPED, "CAUSAL_LM", "AutoModelForCausalLM", ["k_proj", "o_proj", "down_proj"]),
    "T5": ("T5ForConditionalGeneration", T5, "SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM", ["o", "wo"]),
    "GPT2": ("GPT2LMHeadModel", GPT2, "CAUSAL_LM", "AutoModelForCausalLM", ["c_attn", "mlp.c_proj"]),
    "Qwen2": ("Qwen2ForCausalLM", GROUPED, "CAUSAL_LM", "AutoModelForCausalLM", ["q_proj", "v_proj", "o_proj"]),
}
BIASED = {"Bert", "GPT2", "Qwen2"}
MERGEABLE = sorted(FAMILIES.keys() - {"Qwen2"})  # some of its layers have a bias and others none
NO_PICKLES = {".json", ".safetensors", ".md", ".jinja"}
ROUNDING = 1e-5  # of float32, relative to the largest logit
BF16_ROUNDING = 0.015  # likewise, where weights and activations are bfloat16
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


class Case(NamedTuple):
    """One family: the base as saved, the stream over it, and what it is asked."""

    base: Path
    auto: Any
    tasks: list[TaskAdapter]
    inputs: dict[str, Tensor]
    origin: Provenance

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        return self.auto.from_pretrained(self.base, dtype=dtype).eval()


class Read(NamedTuple):
    """What PEFT gave, by name of the job, and what it says of the layers."""

    answers: dict[str, Tensor]
    report: dict[str, Any]


def random_task(layers: Mapping[str, nn.Module], ranks: Sequence[int], seed: int) -> TaskAdapter:
    """An adapter whose ranks repeat `ranks`; a layer of rank 0 is absent, as in a stored one."""
    draw = torch.Generator().manual_seed(seed)
    modules = {}
    for index, (name, layer) in enumerate(layers.items()):
        d, r = width(layer), ranks[index % len(ranks)]
        w1_RD, w2_DR = torch.randn(r, d, generator=draw) / d**0.5, torch.randn(d, r, generator=draw) / d**0.5
        gamma_R = 0.5 + torch.rand(r, generator=draw)
        gamma_R[::2] *= -1
        if r:
            modules[name] = ModuleAdapter(w1_RD, w2_DR, gamma_R)
    return TaskAdapter(modules, {}, {})


def random_stream(layers: Mapping[str, nn.Module]) -> list[TaskAdapter]:
    """Three tasks with other ranks in every layer; the first layer is in none, others in one or two."""
    some = dict(list(layers.items())[1:])
    return [random_task(some, ranks, seed) for seed, ranks in enumerate([(3, 0, 2), (1, 4), (5, 2, 0, 1)])]


def folded(model: Any, tasks: Sequence[TaskAdapter]) -> Any:
    """A copy of the model with the stream in its weights, as training has it."""
    made = copy.deepcopy(model).requires_grad_(False)
    names = dict.fromkeys(name for task in tasks for name in task.modules)
    history = History(
        {name: made.get_submodule(name) for name in names}, AdapterConfig(target_modules=list(names)), made.dtype
    )
    for task in tasks:
        history.extend(task)
    return made


@torch.no_grad()
def logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    found = model.eval()(**inputs)
    return (found.logits if "logits" in found else found.last_hidden_state).float()


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def words() -> transformers.PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({f"w{n}": n for n in range(WORDS)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0", eos_token="w1")


def make_case(family: str, folder: Path) -> Case:
    name, shape, task_type, auto, targets = FAMILIES[family]
    made_by: Any = getattr(transformers, name)
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    ids |= {"decoder_start_token_id": 0} if family == "T5" else {}
    model = made_by(getattr(transformers, f"{family}Config")(**shape, **ids)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_()  # made models have zero biases, which would hide the shift
    model.save_pretrained(folder)
    words().save_pretrained(folder)
    inputs = {"input_ids": torch.randint(2, WORDS, (3, 7))}
    if family == "T5":
        inputs["decoder_input_ids"] = torch.randint(2, WORDS, (3, 4))
    origin = Provenance("team/run@v3", ("a", "b", "c"), task_type, str(folder), "d" * 64)
    return Case(folder, getattr(transformers, auto), random_stream(match_modules(model, targets)), inputs, origin)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("bases")
    return {family: make_case(family, root / family) for family in FAMILIES}


def export_peft(model: Any, tasks: Sequence[TaskAdapter], folder: Path, origin: Provenance) -> Exported:
    return write_peft(model, loras(model, tasks), folder, origin)


def export_merged(
    model: Any, tokenizer: Any, tasks: Sequence[TaskAdapter], folder: Path, origin: Provenance
) -> Exported:
    return write_merged(model, tokenizer, merge(model, tasks), folder, origin)


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


# --- one layer


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


# --- PEFT


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_what_the_stream_gives(cases: dict[str, Case], read: Read, family: str) -> None:
    case, model = cases[family], cases[family].load()
    expected = logits(folded(model, case.tasks), case.inputs)
    assert error(expected, logits(model, case.inputs)) > 0.05  # the stream does something
    assert error(read.answers[f"{family}/lora"], expected) < ROUNDING
    assert read.report["imported"] == []


@pytest.mark.parametrize("family", MERGEABLE)
def test_what_peft_merges(cases: dict[str, Case], read: Read, family: str) -> None:
    expected = logits(folded(cases[family].load(), cases[family].tasks), cases[family].inputs)
    assert error(read.answers[f"{family}/merged"], expected) < ROUNDING
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
    assert error(read.answers[f"{family}-1/lora"], expected) < ROUNDING
    assert error(read.answers[f"{family}-1/lora"], read.answers[f"{family}/lora"]) > 0.05


@pytest.mark.parametrize("family", ["Bert", "GPT2"])
def test_a_bfloat16_base(cases: dict[str, Case], read: Read, family: str) -> None:
    """Against float32 arithmetic on the bfloat16 weights."""
    case = cases[family]
    expected = logits(folded(case.load(torch.bfloat16).float(), case.tasks), case.inputs)
    assert error(read.answers[f"{family}-bf16/lora"], expected) < BF16_ROUNDING


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


def test_equal_ranks_need_no_pattern(cases: dict[str, Case]) -> None:
    model = cases["Llama"].load()
    names = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    found = peft_targets(model, dict.fromkeys(names, 3), dict.fromkeys(names, 3.0))
    assert (found["r"], found["rank_pattern"], found["exclude_modules"]) == (3, {}, None)


# --- the merged model


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_gives_what_the_stream_gives(cases: dict[str, Case], tmp_path: Path, family: str) -> None:
    case, model = cases[family], cases[family].load()
    exact = folded(model, case.tasks)
    made = export_merged(model, words(), case.tasks, tmp_path / "made", case.origin)
    loaded = case.auto.from_pretrained(tmp_path / "made")
    assert loaded.dtype == torch.float32
    for name, value in loaded.named_parameters():  # not to the bit: a mapped file's tensors lie unaligned for BLAS
        torch.testing.assert_close(value, exact.get_parameter(name), rtol=1e-6, atol=1e-6)
    assert error(logits(loaded, case.inputs), logits(exact, case.inputs)) < ROUNDING
    vocabularies = [transformers.AutoTokenizer.from_pretrained(f).get_vocab() for f in (tmp_path / "made", case.base)]
    assert vocabularies[0] == vocabularies[1]
    assert {Path(name).suffix for name in made.sizes_bytes} <= NO_PICKLES and "README.md" in made.sizes_bytes


def test_merged_in_bfloat16(cases: dict[str, Case], tmp_path: Path) -> None:
    """Folded in float32 and rounded once: every weight is the bfloat16 nearest to F_t W0."""
    case = cases["Bert"]
    exact = folded(case.load(torch.bfloat16).float(), case.tasks)
    export_merged(case.load(torch.bfloat16), words(), case.tasks, tmp_path / "made", case.origin)
    loaded = case.auto.from_pretrained(tmp_path / "made", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16())
    assert error(logits(loaded, case.inputs), logits(exact, case.inputs)) < BF16_ROUNDING


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
    export_merged(model, words(), case.tasks, tmp_path / "made", origin)
    made = tmp_path / "made/generation_config.json"
    assert made.read_bytes() == own.read_bytes() if has_one else not made.exists()
    assert case.auto.from_pretrained(tmp_path / "made").generation_config.eos_token_id == 1


# --- files


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


def write(form: str, case: Case, tasks: Sequence[TaskAdapter], folder: Path) -> None:
    if form == "peft":
        export_peft(case.load(), tasks, folder, case.origin)
    else:
        export_merged(case.load(), words(), tasks, folder, case.origin)


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


# --- streams that do not fit


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
