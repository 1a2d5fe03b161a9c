"""Tiny models with random weights of any class that transformers has, made from the class's own configuration.

A configuration is made small by the names of its keys: every key in `SIZES` that the class has gets that value, also in
the configurations within it. What a class asks for beyond that stands in `SPECIAL`.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, PreTrainedConfig

WORDS = 64  # entries of the vocabulary
POSITIONS = 48
IDS = {
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 2,
    "sep_token_id": 1,
    "cls_token_id": 2,
}
NONE = {
    "forced_eos_token_id": None, "forced_bos_token_id": None, "forced_decoder_ids": None, "suppress_tokens": None,
    "begin_suppress_tokens": None,
}  # fmt: skip
BY_VALUE = {
    32: """hidden_size d_model n_embd dim embed_dim emb_dim embedding_size model_dim n_embed word_embed_proj_dim
        attention_hidden_size lru_width moe_intermediate_size shared_expert_intermediate_size
        moe_shared_expert_intermediate_size""",
    64: """hidden_dim intermediate_size ffn_dim d_ff d_inner n_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size
        shared_intermediate_size intermediate_size_mlp block_ff_dim mamba_d_ssm""",
    2: """num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers
        num_encoder_layers num_blocks num_key_value_heads num_kv_heads num_kv_groups num_global_key_value_heads
        num_experts_per_tok num_experts_per_token moe_k moe_topk index_n_heads mamba_expand n_mamba_heads o_groups
        linear_num_key_heads""",
    1: """num_encoder_blocks num_hidden_groups n_group topk_group n_shared_experts first_k_dense_replace
        moe_num_shared_experts moe_layer_start_index moe_layer_end_index mamba_n_groups n_groups mamba_ngroups""",
    0: "mtp_num_layers num_kv_shared_layers",
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts
        num_local_experts n_routed_experts moe_num_experts num_expert mamba_n_heads mamba_num_heads time_step_rank
        mamba_dt_rank linear_num_value_heads rank laurel_rank""",
    8: """d_kv head_dim d_head kv_channels key_value_proj_dim global_head_dim qk_rope_head_dim qk_nope_head_dim
        v_head_dim index_head_dim mamba_d_state state_size ssm_state_size linear_key_head_dim linear_value_head_dim
        attention_window chunk_size mamba_chunk_size rotary_dim patch_size num_mel_bins hidden_size_per_layer_input""",
    16: """q_lora_rank kv_lora_rank qk_head_dim o_lora_rank index_topk mamba_d_head mamba_head_dim mamba_headdim
        feature_size""",
    24: "sliding_window local_attention window_size",
    WORDS: """vocab_size encoder_vocab_size decoder_vocab_size src_vocab_size tgt_vocab_size
        vocab_size_per_layer_input""",
    POSITIONS: """max_position_embeddings n_positions max_source_positions max_target_positions
        max_encoder_position_embeddings max_decoder_position_embeddings max_sequence_length max_seq_len context_length
        n_ctx""",
    3: "num_channels",
}  # fmt: skip
SIZES: dict[str, Any] = {key: value for value, keys in BY_VALUE.items() for key in keys.split()} | {"image_size": 32}
IN_IMAGES = ("glm", "qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "paddleocr_vl")  # positions of three parts
UNMADE = {"blt": "the widths of its parts follow from each other", "diffusion_gemma": "it has keys without a default"}
KINDS = ("full_attention", "sliding_attention")
SPECIAL: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 32},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "lilt": {"hidden_size": 48},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 60},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 60},
    "autoformer": {"prediction_length": 2},
    "cohere_compass_text": {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in KINDS}},
    "donut-swin": {"embed_dim": 96},
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "cosmos3_edge_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
    "glm5_next_text": {"qk_rope_head_dim": 0},
    "granite_speech5_ctc": {"context_size": 16},
    "granite_speech5_encoder": {"context_size": 16},
    "informer": {"prediction_length": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "maskformer-swin": {"embed_dim": 96},
    "neomme": {"head_dim": 16},
    "swin2sr": {"embed_dim": 180},
    "time_series_transformer": {"prediction_length": 2},
    "zamba": {
        "num_hidden_layers": 4, "layer_types": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [6, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"],
        "num_buckets": 2, "lsh_attn_chunk_length": 8, "local_attn_chunk_length": 8, "attention_head_size": 8,
    },
    "roc_bert": {"pronunciation_vocab_size": WORDS, "shape_vocab_size": WORDS},
}  # fmt: skip


def keys_of(kind: type[PreTrainedConfig]) -> set[str]:
    """The keys that a configuration class takes."""
    found = {name for each in kind.__mro__ for name in inspect.signature(each.__init__).parameters}
    return found | {*kind.attribute_map}


def tiny_config(kind: type[PreTrainedConfig], **more: Any) -> PreTrainedConfig:
    """A small configuration of the class. Raises what the class raises if it cannot be made so."""
    if kind.model_type in UNMADE:
        raise ValueError(UNMADE[kind.model_type])
    keys = keys_of(kind)
    asked = {key: value for key, value in {**SIZES, **IDS, **NONE}.items() if key in keys}
    for name in {*kind.attribute_map} & {*asked}:
        if kind.attribute_map[name] in asked and kind.attribute_map[name] != name:
            del asked[name]
    if "kv_lora_rank" in keys:  # latent attention has no groups
        asked["num_key_value_heads"] = SIZES["num_attention_heads"]
    asked |= within(kind, keys)
    asked |= {key: of_two_layers(value) for key, value in lists_of(kind, keys, {*asked}).items()}
    made = of_right_types(kind, {**asked, **SPECIAL.get(kind.model_type, {}), **more})
    made.architectures = made.architectures or []  # some auto classes choose by it
    share_rotations(made)
    if kind.model_type == "encoder-decoder":
        made.decoder.is_decoder = made.decoder.add_cross_attention = True
    if made.is_encoder_decoder:  # every published one says it
        made.decoder_start_token_id = IDS["decoder_start_token_id"]
    return made


def of_right_types(kind: type[PreTrainedConfig], keys: dict[str, Any]) -> PreTrainedConfig:
    """A configuration with these keys, less those that the class wants another type for, as one number per stage."""
    try:
        return kind(**keys)
    except StrictDataclassFieldValidationError as error:
        wrong = re.search(r"field '(\w+)'", str(error))
        if wrong is None or wrong[1] not in keys:
            raise
        return of_right_types(kind, {key: value for key, value in keys.items() if key != wrong[1]})


def share_rotations(config: PreTrainedConfig) -> None:
    """Lets the parts of a position in images (`mrope_section`) share the few rotations of a small head."""
    rope = value_of(config, "rope_parameters")
    if isinstance(rope, dict) and config.model_type.startswith(IN_IMAGES):
        head = value_of(config, "head_dim") or SIZES["hidden_size"] // SIZES["num_attention_heads"]
        pairs = int(head * rope.get("partial_rotary_factor", 1.0)) // 2
        rope["mrope_section"] = [pairs // 2, pairs - pairs // 2 - pairs // 4, pairs // 4]


def within(kind: type[PreTrainedConfig], keys: set[str]) -> dict[str, Any]:
    """Small configurations for those that the class holds."""
    found: dict[str, Any] = {}
    for name, inner in kind.sub_configs.items():
        made = type(getattr(kind(), name)) if inner is AutoConfig else inner
        if name in keys and issubclass(made, PreTrainedConfig):
            found[name] = tiny_config(made)
    return found


def lists_of(kind: type[PreTrainedConfig], keys: set[str], asked: set[str]) -> dict[str, list[Any]]:
    """Keys with one entry per layer, as the class has them by default."""
    try:
        default = kind()
    except Exception:
        return {}
    found = {name: value_of(default, name) for name in keys - asked}
    per_layer = ("layer", "types", "pattern")
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, list) and len(value) > 2 and any(part in name for part in per_layer)
        and all(isinstance(each, str | int) for each in value)
        and not isinstance(getattr(kind, kind.attribute_map.get(name, name), None), property)
    }  # fmt: skip


def value_of(config: PreTrainedConfig, name: str) -> Any:
    """The value of a key; None if the configuration has none for all layers."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def of_two_layers(values: list[Any]) -> list[Any]:
    """Two entries, of two kinds if there are as many."""
    kinds = list(dict.fromkeys(values)) if isinstance(values[0], str) else values
    return (kinds * 2)[:2]


def tokenizer() -> Any:
    """Whole words; it adds no special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[EOS]", "[BOS]", "[UNK]", "[MASK]"]
    words = [*special, "red", "green", "certainly", "not", "a", "film", "that", "was", "good", "bad", "the", "first"]
    words += [f"word{number}" for number in range(WORDS - 4 - len(words))]  # the last four are for images and the like
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", eos_token="[EOS]", bos_token="[BOS]", unk_token="[UNK]",
        mask_token="[MASK]",
    )  # fmt: skip


def tiny_model(config: PreTrainedConfig, auto_class: str, seed: int = 0) -> Any:
    """The model of the auto class for a configuration, in evaluation mode, with matrices drawn wide enough that texts
    differ."""
    torch.manual_seed(seed)
    model = getattr(transformers, auto_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def save(config: PreTrainedConfig, auto_class: str, folder: Path) -> None:
    """Model and tokenizer as a folder."""
    tiny_model(config, auto_class).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
