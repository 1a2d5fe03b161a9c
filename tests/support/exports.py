"""Streams of random adapters over small saved models of each family, and their export."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from trainers.method_config import AdapterConfig
from trainers.methods.export import Exported, Provenance, write_merged, write_peft
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter
from trainers.methods.oa.export import loras, merge
from trainers.methods.oa.history import History
from trainers.methods.oa.rounding import Rounding
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
NO_PICKLES = {".json", ".safetensors", ".md", ".jinja"}
ROUNDING = 1e-5  # of float32, relative to the largest logit
BF16_ROUNDING = 0.015  # likewise, where weights and activations are bfloat16


class Case(NamedTuple):
    """One family: the base as saved, the stream over it, and what it is asked."""

    base: Path
    auto: Any
    tasks: list[TaskAdapter]
    inputs: dict[str, Tensor]
    origin: Provenance

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        return self.auto.from_pretrained(self.base, dtype=dtype).eval()


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


def assert_near(found: Tensor, expected: Tensor, bound: float) -> None:
    """The largest difference is at most `bound` times the largest value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=bound * float(expected.abs().max()))


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


def export_peft(model: Any, tasks: Sequence[TaskAdapter], folder: Path, origin: Provenance) -> Exported:
    return write_peft(model, loras(model, tasks), folder, origin)


def export_merged(
    model: Any, tasks: Sequence[TaskAdapter], folder: Path, origin: Provenance, rounding: Rounding = "nearest"
) -> Exported:
    return write_merged(model, merge(model, tasks, rounding), folder, origin)


def write(form: str, case: Case, tasks: Sequence[TaskAdapter], folder: Path) -> None:
    if form == "peft":
        export_peft(case.load(), tasks, folder, case.origin)
    else:
        export_merged(case.load(), tasks, folder, case.origin)
