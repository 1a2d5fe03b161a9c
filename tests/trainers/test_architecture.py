"""What config.json says about computing is told from what it says of anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, AutoConfig

from trainers.architecture import CONFIG, GENERATION, settings, settings_differences, settings_in_use, understood

LLAMA = {"model_type": "llama", "hidden_size": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "num_hidden_layers": 2}
BERT = {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1}
PARTS = {
    "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window": 512},
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32},
}
MAMBA = {"model_type": "mamba2", "time_step_limit": [0.0, float("inf")]}
BART = {"model_type": "bart", "d_model": 32, "decoder_start_token_id": 2, "num_beams": 4, "max_length": 142}


def said(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the files of a folder with these contents say."""
    folder.mkdir(exist_ok=True)
    found = {CONFIG: folder / CONFIG, GENERATION: folder / GENERATION}
    for path, content in zip(found.values(), (config, generation), strict=True):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(json.dumps(content, indent=3))
    return settings(found)


@pytest.mark.parametrize(
    ("config", "change", "named"),
    [
        (LLAMA, {"rms_norm_eps": 0.1}, "rms_norm_eps is 0.1, not 1e-05"),
        (LLAMA, {"rope_theta": 500000.0}, "rope_parameters.rope_theta is 500000.0, not 10000.0"),
        (LLAMA, {"hidden_act": "gelu"}, 'hidden_act is "gelu", not "silu"'),  # the file had the default
        (LLAMA, {"partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor is 0.5, not absent"),
        (BERT, {"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05, not 1e-12"),
        (BERT, {"hidden_act": "relu"}, 'hidden_act is "relu", not "gelu"'),
        (BERT, {"hidden_dropout_prob": 0.3}, "hidden_dropout_prob is 0.3, not 0.1"),  # acts while a task trains
        (BERT, {"model_type": "roberta"}, 'model_type is "roberta", not "bert"'),
        (PARTS, {"text_config": {**PARTS["text_config"], "sliding_window": 4}}, "text_config.sliding_window is 4"),
        (MAMBA, {"time_step_limit": [0.0, 0.1]}, "time_step_limit is [0.0, 0.1]"),
        (BART, {"decoder_start_token_id": 5}, "decoder_start_token_id is 5, not 2"),
        (BART, {"scale_embedding": True}, "scale_embedding is true, not false"),
        ({"model_type": "of no class"}, {"eps": 1}, "eps is 1, not absent"),
    ],
)
def test_what_changes_the_computation_is_named(
    config: dict[str, Any], change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    (line,) = settings_differences(said(tmp_path, config), said(tmp_path, config | change))
    assert line.startswith("in its config.json ") and named in line


@pytest.mark.parametrize(
    "change",
    [
        {"transformers_version": "4.30.0", "_name_or_path": "elsewhere", "architectures": ["LlamaModel"]},
        {"torch_dtype": "float16"},
        {"dtype": "bfloat16", "use_cache": False, "initializer_range": 0.5},
        {"task_specific_params": {"summarization": {"num_beams": 4}}, "max_length": 20, "do_sample": True},
        {"id2label": {"0": "good"}, "label2id": {"good": 0}, "_attn_implementation_autoset": True},
    ],
)
@pytest.mark.parametrize("config", [LLAMA, BERT, BART])
def test_what_changes_nothing_does_not_count(config: dict[str, Any], change: dict[str, Any], tmp_path: Path) -> None:
    reordered = dict(reversed((config | change).items()))
    was = said(tmp_path, {key: value for key, value in config.items() if key not in change})
    assert said(tmp_path, {key: value for key, value in reordered.items() if key not in config or key in was}) == was


@pytest.mark.parametrize("config", [LLAMA, BERT, PARTS, MAMBA, BART], ids=lambda config: config["model_type"])
def test_a_model_that_was_saved_again_says_the_same(config: dict[str, Any], tmp_path: Path) -> None:
    """With all defaults, and new names for old keys. Saved once more, the file itself says the same."""
    was = said(tmp_path / "was", config)
    AutoConfig.from_pretrained(tmp_path / "was").save_pretrained(tmp_path / "now")
    now = settings({CONFIG: tmp_path / "now" / CONFIG})
    assert was != now and settings_differences(was, now) == settings_differences(now, was) == []
    AutoConfig.from_pretrained(tmp_path / "now").save_pretrained(tmp_path / "again")
    assert settings({CONFIG: tmp_path / "again" / CONFIG}) == now
    assert json.loads(json.dumps(now, allow_nan=False)) == now  # as a log keeps it


def test_the_first_token_of_answers_may_stand_in_either_file(tmp_path: Path) -> None:
    without = {key: value for key, value in BART.items() if key != "decoder_start_token_id"}
    was, moved = said(tmp_path, BART), said(tmp_path, without, {"decoder_start_token_id": 2, "num_beams": 9})
    assert was == moved != said(tmp_path, without, {"decoder_start_token_id": 7})


def test_a_model_in_use(tmp_path: Path) -> None:
    """Its special tokens are not compared."""
    was = said(tmp_path, LLAMA)
    config = CONFIG_MAPPING["llama"].from_dict(dict(LLAMA))
    config.pad_token_id, config.use_cache = 7, False
    assert settings_differences(was, settings_in_use(config, was)) == []
    config.rms_norm_eps = 0.5
    assert settings_differences(was, settings_in_use(config, was)) == [
        "in its config.json rms_norm_eps is 0.5, not 1e-05"
    ]


def test_what_is_not_known_is_not_compared(tmp_path: Path) -> None:
    was = said(tmp_path, BERT)
    assert settings_differences({}, was) == settings_differences(was, {}) == settings_differences(was, was) == []
    assert settings({}) == said(tmp_path, {}) == {}
    (tmp_path / CONFIG).write_text("no JSON")
    assert settings({CONFIG: tmp_path / CONFIG}) == {}
    assert understood({"model_type": "bert", "hidden_size": "wide"}) == {"model_type": "bert", "hidden_size": "wide"}


def test_a_long_list_of_differences_is_cut() -> None:
    was = {"model_type": "of no class", **{f"key{number}": 0 for number in range(9)}}
    (line,) = settings_differences(was, {"model_type": "of no class"})
    assert "key3 is absent, not 0, and 5 more" in line and "key4" not in line
