"""What the configuration of a base says about computing: the keys of its config.json that change what is computed.

The same weights answer otherwise with another `rms_norm_eps`, `hidden_act` or `rope_theta`. So the values stand in each
commit, as they stand in the file; no default of any version of transformers is among them. Two files that say the same
in other keys, as after a model was saved again, are told apart by reading both with the transformers at hand: its
defaults and its names for old keys then are on both sides.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]

CONFIG, GENERATION, START = "config.json", "generation_config.json", "decoder_start_token_id"
NOTHING_COMPUTED = frozenset({  # what a file says of itself, and of weights, heads and outputs that are not used
    "architectures", "auto_map", "classifier_dropout", "dtype", "finetuning_task", "gradient_checkpointing", "id2label",
    "initializer_factor", "initializer_range", "init_std", "label2id", "name_or_path", "num_labels",
    "output_attentions", "output_hidden_states", "prefix", "problem_type", "return_dict", "task_specific_params",
    "tf_legacy_loss", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "transformers.js_config",
    "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
})  # fmt: skip
DECODING = frozenset({  # of old files: Orthoplex says itself how answers are decoded
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
})  # fmt: skip
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", START)
NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # which JSON cannot hold
TAG = "__float__"  # around their names, as transformers has it
SHOWN = 4


def settings(found: Mapping[str, Path]) -> dict[str, Any]:
    """What the files `config.json` and `generation_config.json` among `found` say about computing. Empty if there is no
    such file, or none that can be read, which who loads the model will say.

    The second counts for one key, the token that an encoder-decoder begins its answers with: it moves there if a model
    is saved again.
    """
    said = computing(_read(found.get(CONFIG)))
    if said and said.get(START) is None and (start := _read(found.get(GENERATION)).get(START)) is not None:
        said[START] = start
    return said


def settings_in_use(config: Any, was: Settings) -> dict[str, Any]:
    """What the configuration of a loaded model says about computing. Its special tokens count as those that it had:
    who loads a model often sets them for `generate`, and a model that is made reads none."""
    told = {key: value for key, value in computing(config.to_dict()).items() if key not in SPECIAL}
    return told | {key: was[key] for key in SPECIAL if key in was}


def computing(config: Settings) -> dict[str, Any]:
    """The keys of a configuration, and of those of its parts, that say what is computed, as JSON can hold them."""
    return {key: _plain(value) for key, value in sorted(config.items()) if _counts(key)}


def settings_differences(was: Settings, now: Settings) -> list[str]:
    """Which settings are not as they were, by key with both values, one line; none if either is not known."""
    if not was or not now or was == now:
        return []
    before, after = _flat(understood(was)), _flat(understood(now))
    keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    lines = [f"{key} is {_shown(after, key)}, not {_shown(before, key)}" for key in keys[:SHOWN]]
    more = [f"and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
    return [f"in its config.json {', '.join([*lines, *more])}"] if keys else []


def understood(said: Settings) -> dict[str, Any]:
    """The settings with all defaults, as the transformers at hand reads them; as they are if it cannot."""
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[said["model_type"]].from_dict(_numbers(said))
        return computing(config.to_dict())
    except Exception:  # whatever a class raises of values that are not fit for it
        return dict(said)


def _read(path: Path | None) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text("utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _counts(key: Any) -> bool:
    return not str(key).startswith(("_", "summary_")) and key not in NOTHING_COMPUTED | DECODING


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return computing(value) if value.keys() != {TAG} else value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {TAG: json.dumps(value)}
    return value if isinstance(value, str | int | float | None) else str(value)


def _numbers(value: Any) -> Any:
    """A copy with the numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        tagged = value.keys() == {TAG}
        return NUMBERS[value[TAG]] if tagged else {key: _numbers(each) for key, each in value.items()}
    return [_numbers(each) for each in value] if isinstance(value, list) else value


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves by dotted path; an empty part is a leaf."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        inner: leaf
        for key, each in value.items()
        for inner, leaf in _flat(each, f"{path}.{key}" if path else str(key)).items()
    }


def _shown(leaves: Settings, key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "absent"
