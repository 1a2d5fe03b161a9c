"""What a stream has learned as other programs load it: one PEFT LoRA, or the whole model with it in the weights.

Shape suffixes: D output width, K input width, R rank.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.errors import ConfigError, IntegrityError
from cluster.folders import appearing
from cluster.storage.disk import of_system, refusal
from trainers.methods.base import Files, Stream
from trainers.methods.base_files import give_back
from trainers.methods.card import Provenance, merged_readme, peft_readme
from trainers.methods.targets import is_transposed, linear_layers

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's own names
NOTHING: Files = {}
PEFT_TASK_TYPES = {"LABEL_EMBEDDING": "FEATURE_EXTRACTION"}  # only those that PEFT calls otherwise


@dataclass(frozen=True)
class Exported:
    """What was written: `ranks` by layer, the number of `parameters` (0 if merged), and each file's size; `notes` say
    what is to be known of it."""

    directory: Path
    ranks: dict[str, int]
    parameters: int
    sizes_bytes: dict[str, int]
    notes: tuple[str, ...] = ()


def write_peft(
    model: nn.Module,
    stream: Stream,
    directory: Path,
    origin: Provenance,
    *,
    beside: Files = NOTHING,
    notes: Sequence[str] = (),
) -> Exported:
    """Writes what the stream adds to `model`, the unadapted base, as a folder that `peft.PeftModel.from_pretrained`
    loads. `beside` are further files by their paths in it; `notes` are lines of its README.

    Raises:
        ConfigError: no layer is adapted, or `directory` is not empty. StoreError: the disk refuses.
        IntegrityError: a value is not finite, see `check_finite`.
    """
    layers = linear_layers(model)
    if not stream:
        raise ConfigError(
            f"{origin.reference}: its tasks kept no dimension in any layer; export it with --format merged"
        )
    biased = any(lora.shift_D is not None for lora in stream.values())
    unbiased = [name for name, lora in stream.items() if lora.shift_D is None]
    tensors: dict[str, Tensor] = {}
    for name, lora in stream.items():
        shift_D = torch.zeros(lora.b_DR.shape[0]) if lora.shift_D is None else lora.shift_D
        made = {"lora_A.weight": lora.a_RK, "lora_B.weight": lora.b_DR, **({"lora_B.bias": shift_D} if biased else {})}
        tensors |= {f"base_model.model.{name}.{key}": tensor.cpu().contiguous() for key, tensor in made.items()}
    scalings = {name: torch.tensor(lora.scaling) for name, lora in stream.items()}
    check_finite(origin, {**tensors, **scalings})
    ranks = {name: lora.rank for name, lora in stream.items()}
    config = {
        **peft_targets(model, ranks, {name: lora.scaling * lora.rank for name, lora in stream.items()}),
        "task_type": PEFT_TASK_TYPES.get(origin.task_type, origin.task_type),
        "base_model_name_or_path": origin.base,
        "revision": origin.revision,
        "fan_in_fan_out": any(is_transposed(layers[name]) for name in stream),
        "lora_bias": biased,
    }
    with whole_folder(directory) as folder:
        save_file(tensors, folder / PEFT_WEIGHTS, metadata={"format": "pt"})
        put(beside, folder)
        told = peft_readme(
            origin, dtype_of(model), biased=biased, unbiased=unbiased, notes=notes, beside=sorted(beside)
        )
        (folder / "README.md").write_text(told, "utf-8")
        (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return Exported(directory, ranks, sum(tensor.numel() for tensor in tensors.values()), file_sizes(directory))


def peft_targets(model: nn.Module, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """The part of a `LoraConfig` that says which layers have which rank and alpha, exactly.

    PEFT matches targets by suffix, so other modules whose names end like a target are excluded. It matches patterns by
    suffix too and takes the first match, so longer names come first, and every layer is listed.
    """
    largest = max(ranks.values())
    endings = tuple(f".{name}" for name in ranks)
    others = [name for name, _ in model.named_modules() if name not in ranks and name.endswith(endings)]
    by_length = sorted(ranks, key=len, reverse=True)
    equal = len({*ranks.values()}) == len({*alphas.values()}) == 1
    return {
        "peft_type": "LORA",
        "inference_mode": True,
        "r": largest,
        "lora_alpha": _whole(max(alphas.values())),
        "rank_pattern": {} if equal else {name: ranks[name] for name in by_length},
        "alpha_pattern": {} if equal else {name: _whole(alphas[name]) for name in by_length},
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ranks),
        "exclude_modules": others or None,
    }


def _whole(value: float) -> float:
    """2.0 as 2, as PEFT writes it."""
    return int(value) if value == int(value) else value


def write_merged(
    model: Any, ranks: Mapping[str, int], directory: Path, origin: Provenance, *, beside: Files = NOTHING
) -> Exported:
    """Writes a model whose weights hold the stream, with the other files of its base as they are, as a folder for
    transformers' Auto classes.

    `ranks` are those of the layers that the stream changed. `beside` are further files by their paths in the folder.

    Raises:
        ConfigError: `directory` is not empty. StoreError: the disk refuses.
        IntegrityError: a weight is not finite, see `check_finite`.
    """
    check_finite(origin, dict(model.named_parameters()))
    with whole_folder(directory) as folder:
        model.save_pretrained(folder)
        give_back(origin.where, origin.revision, folder)
        put(beside, folder)
        (folder / "README.md").write_text(merged_readme(origin, dtype_of(model), sorted(beside)), "utf-8")
    return Exported(directory, dict(ranks), 0, file_sizes(directory))


def check_finite(origin: Provenance, tensors: Mapping[str, Tensor]) -> None:
    """Raises IntegrityError if a value is NaN or infinite, as one is that the base's dtype cannot hold: a model with it
    answers nothing."""
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise IntegrityError(
                f"{origin.reference}: {name!r} is not finite in {str(tensor.dtype).removeprefix('torch.')} with its "
                "tasks; nothing was written. Train it anew, with model.dtype float32 if it is narrower"
            )


def put(files: Files, folder: Path) -> None:
    """Writes files by their paths below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def check_free(directory: Path) -> None:
    """Raises ConfigError unless `directory` is absent or an empty folder."""
    if directory.is_dir():
        if any(directory.iterdir()):
            raise ConfigError(f"--output {directory}: is not empty; choose a folder that is new or empty")
    elif directory.exists() or directory.is_symlink():
        raise ConfigError(f"--output {directory}: is not a folder; choose one that is new or empty")


@contextmanager
def whole_folder(directory: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `directory` when the block ends. If the block fails, the folder is removed.

    Raises:
        ConfigError: `directory` is not empty. StoreError: the disk refuses.
    """
    check_free(directory)
    try:
        with appearing(directory.resolve()) as staging:
            yield staging
            check_free(directory)
    except (OSError, SafetensorError) as error:
        raise refusal(f"--output {directory}: cannot be written", of_system(error), "choose another folder") from None


def file_sizes(directory: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_size for path in files}


def dtype_of(model: nn.Module) -> str:
    """The name of the dtype of a model's weights."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")
