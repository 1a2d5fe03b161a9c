"""A stream of adapters as other programs load it: one PEFT LoRA, or the whole model with the stream in its weights.

    F_t (W0 x + b) = (W0 x + b) + B A x + s,   A = down · W0 (C, K),   B = up (D, C),   s = up · (down · b) (D,)

with F_t = I + up · down, see `history.concatenate`. The LoRA equals the stream, up to float32 rounding: no dimension is
cut, and lora_alpha = r makes PEFT's scaling 1. PEFT carries s, which a layer with a bias needs, as `lora_bias`.

Shape suffixes: D output width, K input width, C rank of all tasks together.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.errors import ConfigError, IntegrityError, StoreError
from cluster.folders import appearing
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter
from trainers.methods.oa.history import concatenate, fold
from trainers.methods.oa.layers import is_transposed, linear_layers, width

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's own names
PEFT_TASK_TYPES = {"LABEL_EMBEDDING": "FEATURE_EXTRACTION"}  # where PEFT's name is another one


@dataclass(frozen=True)
class Provenance:
    """Where a stream comes from. `base` is a hub id (with its `revision`) or a folder; `tasks` are names in order."""

    reference: str
    tasks: tuple[str, ...]
    task_type: str
    base: str
    base_digest: str
    revision: str | None = None


@dataclass(frozen=True)
class Exported:
    """What was written: `ranks` by layer, the number of values in them (0 where merged), and each file's size."""

    directory: Path
    ranks: dict[str, int]
    parameters: int
    sizes_bytes: dict[str, int]


@dataclass(frozen=True)
class Lora:
    """One layer's stream as a LoRA on W0: A (C, K), B (D, C), and the shift s (D,) where the layer has a bias."""

    a_CK: Tensor
    b_DC: Tensor
    shift_D: Tensor | None

    @property
    def rank(self) -> int:
        """C, the sum of the tasks' active ranks."""
        return self.a_CK.shape[0]


def as_lora(module: nn.Module, stream: Sequence[ModuleAdapter]) -> Lora:
    """The LoRA that adds what the stream adds to an unadapted `nn.Linear` or `Conv1D`; float32."""
    weight_DK, bias_D = dense(module)
    down_CD, up_DC = concatenate(stream, width(module))
    shift_D = None if bias_D is None else up_DC @ (down_CD @ bias_D.float())
    return Lora(down_CD @ weight_DK.float(), up_DC, shift_D)


def dense(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """W0 (D, K) and b (D,) of a layer, whichever way it keeps its weight; views of its parameters."""
    weight, bias = module.get_parameter("weight").detach(), module.bias
    return (weight.T if is_transposed(module) else weight), (bias.detach() if isinstance(bias, Tensor) else None)


def streams(model: nn.Module, tasks: Sequence[TaskAdapter]) -> dict[str, list[ModuleAdapter]]:
    """Each layer's adapters in task order, in the model's order; layers that no task adapts are absent.

    Raises IntegrityError where a task adapts what is no linear layer of the model, one of another width, or has a
    value that is not finite.
    """
    layers = linear_layers(model)
    for number, task in enumerate(tasks, 1):
        for name, adapter in task.modules.items():
            if name not in layers:
                raise IntegrityError(
                    f"export: task {number} adapts {name!r}, which is no linear layer of this model; name the model "
                    "that the stream was trained on"
                )
            check_fits(f"export: task {number}, layer {name!r}", adapter, width(layers[name]))
    found = {name: [task.modules[name] for task in tasks if name in task.modules] for name in layers}
    return {name: stream for name, stream in found.items() if sum(adapter.rank for adapter in stream)}


def check_fits(where: str, adapter: ModuleAdapter, d: int) -> None:
    """Raises IntegrityError unless W1 is (R, D), W2 (D, R) and γ (R,) for a layer `d` wide, and all are finite."""
    r = adapter.rank
    for tensor, expected in ((adapter.w1_RD, (r, d)), (adapter.w2_DR, (d, r)), (adapter.gamma_R, (r,))):
        if tuple(tensor.shape) != expected or not tensor.isfinite().all():
            raise IntegrityError(
                f"{where}: a tensor of shape {tuple(tensor.shape)} should be {expected} and finite; the files are not "
                "of this model, or damaged"
            )


def export_peft(model: nn.Module, tasks: Sequence[TaskAdapter], directory: Path, origin: Provenance) -> Exported:
    """Writes the stream over `model`, the unadapted base, as a folder that `peft.PeftModel.from_pretrained` loads.

    Raises:
        ConfigError: no layer is adapted, or `directory` is not empty. IntegrityError: see `streams`.
    """
    layers = linear_layers(model)
    loras = {name: as_lora(layers[name], stream) for name, stream in streams(model, tasks).items()}
    if not loras:
        raise ConfigError(
            f"{origin.reference}: its tasks kept no dimension in any layer; export it with --format merged"
        )
    biased = any(lora.shift_D is not None for lora in loras.values())
    unbiased = [name for name, lora in loras.items() if lora.shift_D is None]
    tensors: dict[str, Tensor] = {}
    for name, lora in loras.items():
        shift_D = torch.zeros(lora.b_DC.shape[0]) if lora.shift_D is None else lora.shift_D
        made = {"lora_A.weight": lora.a_CK, "lora_B.weight": lora.b_DC, **({"lora_B.bias": shift_D} if biased else {})}
        tensors |= {f"base_model.model.{name}.{key}": tensor.cpu().contiguous() for key, tensor in made.items()}
    ranks = {name: lora.rank for name, lora in loras.items()}
    config = {
        **peft_targets(model, ranks),
        "task_type": PEFT_TASK_TYPES.get(origin.task_type, origin.task_type),
        "base_model_name_or_path": origin.base,
        "revision": origin.revision,
        "fan_in_fan_out": any(is_transposed(layers[name]) for name in loras),
        "lora_bias": biased,
    }
    with whole_folder(directory) as folder:
        save_file(tensors, folder / PEFT_WEIGHTS, metadata={"format": "pt"})
        (folder / "README.md").write_text(peft_readme(origin, biased, unbiased), "utf-8")
        (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return Exported(directory, ranks, sum(tensor.numel() for tensor in tensors.values()), file_sizes(directory))


def peft_targets(model: nn.Module, ranks: Mapping[str, int]) -> dict[str, Any]:
    """The part of a `LoraConfig` that says which layers have which rank, exactly.

    PEFT matches targets by suffix, so names that end like one, but are none, are excluded. It matches patterns by
    suffix too and takes the first: longer names come first, and every layer is listed.
    """
    largest = max(ranks.values())
    endings = tuple(f".{name}" for name in ranks)
    others = [name for name, _ in model.named_modules() if name not in ranks and name.endswith(endings)]
    pattern = {name: ranks[name] for name in sorted(ranks, key=len, reverse=True)}
    if set(ranks.values()) == {largest}:
        pattern = {}
    return {
        "peft_type": "LORA",
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ranks),
        "exclude_modules": others or None,
    }


@torch.no_grad()
def export_merged(
    model: Any, tokenizer: Any, tasks: Sequence[TaskAdapter], directory: Path, origin: Provenance
) -> Exported:
    """Writes the base with the stream in its weights, and its tokenizer, as a folder for transformers' Auto classes.

    F_t W0 and F_t b are computed in float32 and rounded once to the model's dtype, as `History` does in training but
    without its copy of W0. `model` has them from then on.

    Raises:
        ConfigError: `directory` is not empty. IntegrityError: see `streams`.
    """
    layers, found = linear_layers(model), streams(model, tasks)
    for name, stream in found.items():
        for old, new in zip(dense(layers[name]), fold(*dense(layers[name]), stream), strict=True):
            if old is not None and new is not None:
                old.copy_(new)  # a view of the parameter
    with whole_folder(directory) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        keep_generation_config(origin, folder)
        (folder / "README.md").write_text(merged_readme(origin), "utf-8")
    ranks = {name: sum(adapter.rank for adapter in stream) for name, stream in found.items()}
    return Exported(directory, ranks, 0, file_sizes(directory))


def keep_generation_config(origin: Provenance, folder: Path) -> None:
    """Puts the base's own generation_config.json, or none, where saving left the one that Orthoplex scores with.

    That one has no eos_token_id: a program that generates with it would not stop.
    """
    from transformers.utils import cached_file

    kept, quietly = folder / "generation_config.json", {"_raise_exceptions_for_missing_entries": False}
    quietly["_raise_exceptions_for_connection_errors"] = False
    found = cached_file(origin.base, kept.name, revision=origin.revision, **quietly)
    kept.unlink(missing_ok=True)
    if found is not None:
        shutil.copyfile(found, kept)


def check_free(directory: Path) -> None:
    """Raises ConfigError unless `directory` is absent or an empty folder."""
    if directory.is_dir():
        if any(directory.iterdir()):
            raise ConfigError(f"--output {directory}: is not empty; choose a folder that is new or empty")
    elif directory.exists() or directory.is_symlink():
        raise ConfigError(f"--output {directory}: is no folder; choose one that is new or empty")


@contextmanager
def whole_folder(directory: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `directory` when the block ends; where the block fails, nothing is left of it.

    Raises:
        ConfigError: `directory` is not empty. StoreError: the disk refuses.
    """
    check_free(directory)
    try:
        with appearing(directory.resolve()) as staging:
            yield staging
            check_free(directory)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"--output {directory}: cannot be written ({error}); choose another folder") from None


def file_sizes(directory: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_size for path in files}


def peft_readme(origin: Provenance, biased: bool, unbiased: Sequence[str]) -> str:
    """What the folder is, how it is loaded, and what it cannot do."""
    lines = [
        "A PEFT LoRA of all tasks together; it needs `peft` and `transformers`, nothing of Orthoplex:",
        "",
        "    model = peft.PeftModel.from_pretrained(base, FOLDER)",
        "",
        "Ranks differ by layer (`rank_pattern`); lora_alpha is r, so the scaling is 1. In float32, its outputs are",
        "those of the trained stream up to rounding.",
    ]
    if biased:
        lines += [
            "",
            "Layers with a bias carry `lora_B.bias` (`lora_bias`). A server that knows no LoRA bias would answer",
            "wrongly: give it the merged model (`orthoplex adapters export --format merged`) instead.",
        ]
    if biased and unbiased:
        lines += [
            "",
            f"{len(unbiased)} of the layers have no bias to merge into, so PEFT's `merge_and_unload` refuses this",
            "adapter; export merged instead.",
        ]
    return readme(origin, "adapter", lines)


def merged_readme(origin: Provenance) -> str:
    """What the folder is and how it is loaded."""
    auto = {"SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM", "CAUSAL_LM": "AutoModelForCausalLM"}
    name = auto.get(origin.task_type, "AutoModel")
    return readme(origin, "model", [f"The whole model: `transformers.{name}.from_pretrained(FOLDER)` loads it."])


def readme(origin: Provenance, kind: str, lines: Sequence[str]) -> str:
    """The lines below a title and above the provenance."""
    told = [f"# {origin.reference}, exported {kind}", "", *lines, ""]
    if origin.task_type == "LABEL_EMBEDDING":
        told += [
            "Texts are embedded with this, mean-pooled and L2-normalised; the label words they are compared with are",
            "embedded by the base as it was.",
            "",
        ]
    return "\n".join(
        [
            *told,
            f"- tasks, in order: {', '.join(origin.tasks)}",
            f"- task type: {origin.task_type}",
            f"- base: {origin.base}" + (f", revision {origin.revision}" if origin.revision else ""),
            f"- sha256 of the base's weights as Orthoplex counts it: {origin.base_digest}",
            "",
        ]
    )
