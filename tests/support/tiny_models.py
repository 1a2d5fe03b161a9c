"""Small real models with weights made here, saved with a real tokenizer (MiniLM's WordPiece) for `Auto…` classes."""

from pathlib import Path
from typing import Any

import torch
import transformers

from trainers.models.loading import resolve_name

SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, GROUPED),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, {**GROUPED, "tie_word_embeddings": True}),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config,
        {
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "resid_pdrop": 0,
            "embd_pdrop": 0,
            "attn_pdrop": 0,
        },
    ),
    "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config, T5),
    "flan-t5": (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config,
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}

DECODERS = {  # further ones: head_dim is not width / heads, and windows are short
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, {**GROUPED, "head_dim": 16}),
    "gemma2": (
        transformers.Gemma2ForCausalLM, transformers.Gemma2Config,
        {**GROUPED, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig,
        {**GROUPED, "head_dim": 16, "sliding_window": 4, "query_pre_attn_scalar": 16,
         "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
}  # fmt: skip


def tokenizer(model: str = "minilm") -> Any:
    """A BERT's tokenizer with an end-of-text token, as language models have it; it adds no special tokens."""
    from transformers import PreTrainedTokenizerFast

    words = transformers.AutoTokenizer.from_pretrained(resolve_name(model))
    backend = words.backend_tokenizer
    backend.post_processor = None
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", eos_token="[SEP]", unk_token="[UNK]")


def tiny(family: str, seed: int = 0) -> Any:
    """A model of the family, in evaluation mode."""
    made_by, config, shape = (MODELS | DECODERS)[family]
    words = tokenizer()
    ids = {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    if "t5" in family:
        ids["decoder_start_token_id"] = words.pad_token_id
    torch.manual_seed(seed)
    return made_by(config(**shape, **ids, bos_token_id=words.eos_token_id)).eval()


def save_tiny(family: str, folder: Path, shards: str = "400KB") -> Path:
    """Saves model, in several files, and tokenizer; returns the folder."""
    tiny(family).save_pretrained(folder, max_shard_size=shards)
    tokenizer().save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    """Saves a small BERT that tells texts apart by their words, with MiniLM's tokenizer; returns the folder."""
    words = transformers.AutoTokenizer.from_pretrained(resolve_name("minilm"))
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **shape), add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(20.0)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
