"""A LoRA that PEFT has written, read as updates of a base. What is no plain LoRA is refused by name.

    h = W0 x + b + s · B A x,   s = alpha / r, or alpha / √r with rsLoRA

Shape suffixes: D output width, K input width, R rank.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cluster.errors import ConfigError, DataError
from cluster.text_files import check_regular
from cluster.words import did_you_mean
from trainers.data.sources import absent, listed, shown
from trainers.methods.base import Files, Lora, Stream
from trainers.methods.export import PEFT_CONFIG, PEFT_TASK_TYPES, PEFT_WEIGHTS
from trainers.methods.oa.artifact import dump_start
from trainers.methods.patterns import MOST_S, REPEATS, ends
from trainers.methods.targets import by_pattern, input_width, linear_layers, match_modules, width
from trainers.methods.updates import HEAD, A, B, fresh

PICKLED = "adapter_model.bin"
TASK_TYPES = {"CAUSAL_LM": "CAUSAL_LM", "SEQ_2_SEQ_LM": "SEQ_2_SEQ_LM"} | {
    theirs: ours for ours, theirs in PEFT_TASK_TYPES.items()
}
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # first values that leave the base as it is
HARMLESS = frozenset({  # keys that are read elsewhere, or change nothing of what the layers compute
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "lora_dropout", "bias",
    "fan_in_fan_out", "use_rslora", "layers_to_transform", "layers_pattern", "megatron_core", "runtime_config",
    "init_lora_weights", "eva_config", "corda_config", "lora_ga_config", "loftq_config", "qalora_group_size",
    "ensure_weight_tying",
})  # fmt: skip
OTHERWISE = {  # keys of methods that are no plain LoRA, and what they do
    "use_dora": "DoRA scales whole weights by their norms",
    "use_qalora": "QA-LoRA averages inputs in groups",
    "use_bdlora": "BD-LoRA has block-diagonal matrices",
    "lora_bias": "it adds a bias to B",
    "modules_to_save": "it holds layers that were trained as a whole, as a head of its own",
    "trainable_token_indices": "it trains embeddings of single tokens",
    "target_parameters": "it adapts parameters that are no layer's weight, as of experts",
    "layer_replication": "it repeats layers of the base",
    "alora_invocation_tokens": "activated LoRA begins at certain tokens of a text",
    "megatron_config": "its layers are Megatron's",
}
AGAIN = "merge it into its base, or train a plain LoRA"


@dataclass(frozen=True, kw_only=True)
class ForeignLora:
    """What a PEFT folder holds. `updates` are in float32, with their own scaling each; the
    others are as the folder names them, None if it does not."""

    updates: Mapping[str, Lora]
    base: str | None
    revision: str | None
    task_type: str | None
    dropout: float
    targets: list[str] | str | None
    peft_version: str | None = None

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max(lora.rank for lora in self.updates.values())


def read_folder(folder: Path) -> ForeignLora:
    """The LoRA in a folder as `PeftModel.save_pretrained` writes it.

    Raises:
        DataError: a file is absent or malformed, or what it holds is no plain LoRA; the message says what and why.
    """
    config = read_config(folder)
    refuse_others(folder, config)
    tensors = read_tensors(folder)
    updates = updates_of(folder, config, tensors)
    return ForeignLora(
        updates=updates,
        base=_string(config, "base_model_name_or_path"),
        revision=_string(config, "revision"),
        task_type=task_type_of(folder, config.get("task_type")),
        dropout=dropout_of(folder, config.get("lora_dropout")),
        targets=targets_in(config.get("target_modules")),
        peft_version=_string(config, "peft_version"),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a PEFT folder. Raises DataError if there are none, or they are no JSON mapping."""
    if not folder.is_dir():
        raise DataError(f"PEFT_FOLDER {str(folder)!r}: {'is no folder' if folder.exists() else absent(folder)}")
    path = folder / PEFT_CONFIG
    try:
        check_regular(path)
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: has no {PEFT_CONFIG}; name the folder that PEFT's save_pretrained wrote") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy it anew") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: is {shown(config)}, not a mapping of settings; copy it anew")
    return cast("dict[str, Any]", config)


def dropout_of(folder: Path, value: object) -> float:
    """The dropout with which it was trained, which a run that goes on from it keeps. Raises DataError if it is none."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise DataError(f"{folder}: lora_dropout {shown(value)}: is no share from 0 to below 1; correct it")
    return float(value)


def refuse_others(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises DataError unless these are the settings of a plain LoRA; the message names the key."""

    def refuse(key: str, why: str, fix: str = AGAIN) -> None:
        raise DataError(f"{folder}: {key} {shown(config.get(key))}: {why}, which is no plain LoRA; {fix}")

    if config.get("peft_type") != "LORA":
        refuse("peft_type", f"it is {config.get('peft_type') or 'no method that is named'}")
    for key, why in OTHERWISE.items():
        if config.get(key):
            refuse(key, why)
    if config.get("bias", "none") != "none":
        refuse("bias", "it trains biases of the base")
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool | str | None) or start not in PLAIN_STARTS:
        refuse(
            "init_lora_weights", "it began by changing the base's weights",
            "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        )  # fmt: skip
    for key, value in config.items():
        if value and key not in HARMLESS:
            refuse(key, "what this key does is not known here")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a PEFT folder. Raises DataError if there is no safetensors file, or it is damaged."""
    path = folder / PEFT_WEIGHTS
    if not path.is_file():
        if (folder / PICKLED).exists():
            raise DataError(
                f"{folder}: holds {PICKLED} and no {PEFT_WEIGHTS}; a pickled file runs code when it is read, so it is "
                "not; load it with PEFT where you trust it, and save it with safe_serialization=True"
            )
        raise DataError(f"{folder}: has no {PEFT_WEIGHTS}; copy the folder as a whole")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy it anew") from None


def updates_of(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Lora]:
    """The updates by layer. Raises DataError if a tensor is part of none, or has a shape or a value that none has."""
    for name, tensor in tensors.items():
        check_tensor(folder, name, tensor)
    names = sorted({name[len(HEAD) : -len(end)] for end in (A, B) for name in tensors if name.endswith(end)})
    if not names:
        raise DataError(f"{folder / PEFT_WEIGHTS}: holds no LoRA matrix; copy the folder anew")
    check_regexes(folder, config, names)
    return {name: update_of(folder, config, tensors, name) for name in names}


def check_regexes(folder: Path, config: Mapping[str, Any], names: list[str]) -> None:
    """Raises DataError if a regex of the settings takes longer than `MOST_S` on the layers `names`."""
    patterns = [config.get(key) for _, key in SCALES]
    asked = [each for held in patterns if isinstance(held, Mapping) for each in held if REPEATS.search(each)]
    if asked and not ends(asked, names):
        raise DataError(
            f"{folder / PEFT_CONFIG}: rank_pattern or alpha_pattern holds a regex that takes more than {MOST_S:.0f} s "
            "on the names of the layers; write it with fewer repeats inside of repeats"
        )


def targets_in(given: object) -> list[str] | str | None:
    """`target_modules` if they are of a form that PEFT has, else None: the names of the tensors tell the layers."""
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        return given
    return given if isinstance(given, str) else None


def check_tensor(folder: Path, name: str, tensor: Tensor) -> None:
    """Raises DataError unless a tensor is A or B of a linear layer, of floating-point numbers that are finite."""
    where = f"{folder / PEFT_WEIGHTS}: {name!r}"
    if "lora_embedding_" in name:
        raise DataError(f"{where} adapts an embedding; linear layers alone are taken over; {AGAIN}")
    if "lora_magnitude_vector" in name:
        raise DataError(f"{where} is of DoRA, which is no plain LoRA; {AGAIN}")
    if not name.startswith(HEAD) or not name.endswith((A, B)):
        raise DataError(
            f"{where} is neither A nor B of a layer, as a head, a bias or resized embeddings are, which were trained "
            f"as a whole; {AGAIN}"
        )
    if not tensor.is_floating_point():
        raise DataError(f"{where} holds {tensor.dtype}, not floating-point numbers; save it unquantised")
    if not tensor.float().isfinite().all():  # float8 knows no isfinite
        raise DataError(f"{where} holds NaN or infinity; train it again, or take an earlier checkpoint")


def update_of(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Lora:
    """One layer's update in float32, with its scaling."""
    where, pair = f"{folder / PEFT_WEIGHTS}: layer {name!r}", (f"{HEAD}{name}{A}", f"{HEAD}{name}{B}")
    if lacking := [each for each in pair if each not in tensors]:
        raise DataError(f"{where}: {lacking[0]!r} is missing; copy the folder anew")
    a_RK, b_DR = (tensors[each] for each in pair)
    if a_RK.ndim != 2 or b_DR.ndim != 2 or a_RK.shape[0] != b_DR.shape[1] or not a_RK.shape[0]:
        raise DataError(f"{where}: A is {_shape(a_RK)} and B {_shape(b_DR)}, not (R, K) and (D, R); copy it anew")
    rank, alpha = (_number(folder, config, key, pattern, name) for key, pattern in SCALES)
    if rank != a_RK.shape[0]:
        raise DataError(
            f"{where}: A has rank {a_RK.shape[0]}, and {PEFT_CONFIG} says {rank:g} (r, rank_pattern); these files do "
            "not belong together"
        )
    scaling = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    a_RK, b_DR = a_RK.float().contiguous(), b_DR.float().contiguous()
    if not (scaling * b_DR.abs().max() * a_RK.abs().max() * rank).isfinite():
        raise DataError(f"{where}: its values times alpha / r, {scaling:g}, {BEYOND}")
    return Lora(a_RK, b_DR, scaling=scaling)


BEYOND = "are beyond what 32 bits hold; correct lora_alpha and alpha_pattern, or take an earlier checkpoint"
MOST = 1e38  # of r and alpha
SCALES = (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))


def _number(folder: Path, config: Mapping[str, Any], key: str, pattern: str, name: str) -> float:
    """r or alpha of a layer, by PEFT's rules. Raises DataError if there is none."""
    try:
        found = by_pattern(name, config.get(pattern) or {}, config.get(key))
    except (re.error, AttributeError, TypeError):
        raise DataError(
            f"{folder / PEFT_CONFIG}: {pattern} {shown(config[pattern])} is no mapping of regexes"
        ) from None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < MOST:
        raise DataError(
            f"{folder / PEFT_CONFIG}: {key} of layer {name!r} is {shown(found)}, not a number above 0 and below "
            f"{MOST:g}"
        )
    return found


def task_type_of(folder: Path, given: object) -> str | None:
    """The task type of the base, None if the folder names none. Raises DataError if it has a head of its own."""
    if given is None:
        return None
    if str(given) not in TASK_TYPES:
        raise DataError(
            f"{folder}: task_type {given}: it answers through a head of its own; {', '.join(TASK_TYPES)} are taken over"
        )
    return TASK_TYPES[str(given)]


def fitted(lora: ForeignLora, model: nn.Module) -> tuple[dict[str, Lora], list[str] | str]:
    """The updates as `method: lora` holds them, and the `target_modules` that mean exactly their layers.

    They have one scaling and one rank: a scaling of its own goes into B; what a layer lacks in rank are rows of A as
    drawn for a new adapter, and columns of B that are 0. Neither changes what the layers compute.

    Raises:
        DataError: the base has no such layer, or one of other widths.
    """
    layers = linear_layers(model)
    for name, update in lora.updates.items():
        check_layer(name, update, layers)
    updates = {name: lora.updates[name] for name in layers if name in lora.updates}
    scaling = next(iter(updates.values())).scaling
    filled = fresh({name: layers[name] for name in updates}, lora.rank, scaling, 0)
    for name, update in updates.items():
        given, rank = filled[name], update.rank
        given.a_RK[:rank] = update.a_RK
        given.b_DR[:, :rank] = update.b_DR if update.scaling == scaling else update.b_DR * (update.scaling / scaling)
        if not given.b_DR.isfinite().all():
            raise DataError(f"layer {name!r}: its values times its scaling, {update.scaling:g}, {BEYOND}")
    return filled, targets_of(lora, model, [*updates])


def as_task(stream: Stream) -> Files:
    """The files of updates as a task: those of `oa` that a stream begins with, of which `lora` reads the first."""
    return dump_start(stream)


def check_layer(name: str, update: Lora, layers: Mapping[str, nn.Module]) -> None:
    """Raises DataError unless the base has a linear layer of that name and these widths."""
    if name not in layers:
        hint = (
            did_you_mean(name, layers)
            or f"its linear layers end in {listed(sorted({n.rpartition('.')[2] for n in layers}))}"
        )
        raise DataError(f"layer {name!r}: the base has no linear layer of that name; {hint}; is it the right base?")
    found, expected = (update.a_RK.shape[1], update.b_DR.shape[0]), (input_width(layers[name]), width(layers[name]))
    if found != expected:
        raise DataError(
            f"layer {name!r}: the adapter maps {found[0]} to {found[1]} values, the base's layer {expected[0]} to "
            f"{expected[1]}; is it the right base?"
        )


def targets_of(lora: ForeignLora, model: nn.Module, names: list[str]) -> list[str] | str:
    """The shortest of these that means exactly these layers: the folder's own `target_modules`, their names, a regex.

    Raises:
        ConfigError: a layer shares its weight with an embedding.
    """
    own = sorted(lora.targets) if isinstance(lora.targets, list) else lora.targets
    if isinstance(own, str) and REPEATS.search(own) and not ends([own], linear_layers(model)):
        own = None
    for given in (own, names):
        try:
            if given and [*match_modules(model, given)] == names:
                return given
        except ConfigError:
            continue
    exact = "|".join(map(re.escape, names))
    match_modules(model, exact)
    return exact


def _string(config: Mapping[str, Any], key: str) -> str | None:
    return value if isinstance(value := config.get(key), str) and value else None


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
