"""What `plan` refuses of a base, and what it lets pass: kinds of models that failed in runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cluster.errors import ConfigError
from tests.support import zoo
from trainers.config import ModelConfig, TrainConfig
from trainers.method_config import AdapterConfig
from trainers.methods.registry import check_method
from trainers.models.capabilities import Shape, most_positions
from trainers.models.checks import Guess, inconclusive, is_decoder, not_asked_for
from trainers.models.loading import check_model, load_backbone, load_reader

ADAPTER = AdapterConfig(target_modules="all-linear")


def base(folder: Path, kind: str, task_type: str = "LABEL_EMBEDDING", **keys: Any) -> ModelConfig:
    """The configuration of a model in `folder`, whose config.json and tokenizer are written there."""
    zoo.tiny_config(CONFIG_MAPPING[kind]).save_pretrained(folder)
    zoo.tokenizer().save_pretrained(folder)
    return ModelConfig.model_validate({"name": str(folder), "task_type": task_type, "max_length": 16, **keys})


def refused(config: ModelConfig, train: TrainConfig | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_method(config, ADAPTER, train or TrainConfig())
    return str(caught.value)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "esm", "bert"])
def test_positions_are_those_that_a_text_can_have(kind: str, tmp_path: Path) -> None:
    """A text of as many tokens is read, one of another token is not."""
    config = base(tmp_path, kind, max_length=zoo.POSITIONS)
    model = zoo.tiny_model(zoo.tiny_config(CONFIG_MAPPING[kind]), "AutoModel")
    most = most_positions(model)
    assert most is not None
    with torch.no_grad():
        assert model(input_ids=torch.full((1, most), 7)).last_hidden_state.shape[1] == most
        if kind == "longformer":  # pads texts to its window
            return
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, most + 1), 7))
    if most < zoo.POSITIONS:
        assert refused(config).endswith(f"48 is beyond the model's {most} positions; use at most that")
    check_model(config.model_copy(update={"max_length": most}))


def test_no_limit_where_a_configuration_names_none(tmp_path: Path) -> None:
    """XLNet says −1."""
    check_model(base(tmp_path, "xlnet", max_length=5000))


def test_a_decoder_needs_positions_for_text_and_answer(tmp_path: Path) -> None:
    config = base(tmp_path, "gpt2", "CAUSAL_LM", max_length=zoo.POSITIONS)
    with pytest.raises(ConfigError, match=r"48 tokens of text and 3 of an answer .* use at most 45"):
        load_reader(config, check_model(config)).check_labels(["certainly not"])
    fits = config.model_copy(update={"max_length": 45})
    load_reader(fits, check_model(fits)).check_labels(["certainly not"])


SIDES = {  # an encoder-decoder's positions for texts and for answers, by what its configuration calls them
    "led": ("max_encoder_position_embeddings", "max_decoder_position_embeddings"),
    "bart": ("max_position_embeddings",) * 2,
    "t5": (None, None),
}


@pytest.mark.parametrize("kind", SIDES)
def test_positions_of_texts_and_of_answers(kind: str) -> None:
    """An answer of as many tokens is read, one of another token is not."""
    keys = dict(zip(SIDES[kind], (zoo.POSITIONS, 20), strict=True)) if SIDES[kind][0] else {}
    model = zoo.tiny_model(zoo.tiny_config(CONFIG_MAPPING[kind], **keys), "AutoModelForSeq2SeqLM")
    most = most_positions(model, answers=True)
    assert (most_positions(model), most) == ((48, 20) if kind == "led" else (20, 20) if keys else (None, None))
    with torch.no_grad():
        text, answer = torch.full((1, 8), 7), torch.full((1, (most or 700) + 1), 7)
        model(input_ids=text, decoder_input_ids=answer[:, :-1])
        if most:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=text, decoder_input_ids=answer)


def test_label_words_beyond_the_positions_for_answers(tmp_path: Path) -> None:
    zoo.tiny_config(CONFIG_MAPPING["led"], max_decoder_position_embeddings=4).save_pretrained(tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    config = ModelConfig(name=str(tmp_path), task_type="SEQ_2_SEQ_LM", max_length=16)
    reader = load_reader(config, check_model(config))
    reader.check_labels(["red", "a film that"])
    with pytest.raises(ConfigError, match="'a film that was' takes 5 tokens, beyond the model's 4 positions for ans"):
        reader.check_labels(["red", "a film that was"])


@pytest.mark.parametrize(
    ("kind", "task_type", "layers"),
    [("gemma3", "CAUSAL_LM", 2), ("t5gemma", "SEQ_2_SEQ_LM", 2), ("t5gemma2", "SEQ_2_SEQ_LM", 2),
     ("bart", "SEQ_2_SEQ_LM", 2), ("fsmt", "SEQ_2_SEQ_LM", 2)],
)  # fmt: skip
def test_configurations_within_others(kind: str, task_type: str, layers: int, tmp_path: Path) -> None:
    shape = Shape.of(check_model(base(tmp_path, kind, task_type)))
    assert (shape.width, shape.layers, shape.heads) == (32, layers, 4)


def test_two_models_as_encoder_and_decoder(tmp_path: Path) -> None:
    from transformers import EncoderDecoderConfig

    encoder, decoder = (zoo.tiny_config(CONFIG_MAPPING["bert"]) for _ in range(2))
    EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, decoder_start_token_id=2).save_pretrained(
        tmp_path
    )
    config = ModelConfig(name=str(tmp_path), task_type="SEQ_2_SEQ_LM", max_length=zoo.POSITIONS)
    assert Shape.of(check_model(config)) == Shape(width=32, layers=2, heads=4, positions=zoo.POSITIONS)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors"])
def test_weights_that_are_stored_quantised(method: str, tmp_path: Path) -> None:
    config = base(tmp_path, "llama", "CAUSAL_LM")
    written = json.loads((tmp_path / "config.json").read_text())
    written["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(written))
    expected = rf"model\.name: the weights of .* are stored quantised \({method}\); name the model that they were made"
    for check in (check_model, load_backbone):
        with pytest.raises(ConfigError, match=expected):
            check(config)


@pytest.mark.parametrize(("kind", "has"), [("mpnet", False), ("squeezebert", False), ("bert", True)])
def test_gradient_checkpointing(kind: str, has: bool, tmp_path: Path) -> None:
    config, train = base(tmp_path, kind), TrainConfig(gradient_checkpointing=True)
    AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    if has:
        check_method(config, ADAPTER, train)
    else:
        assert refused(config, train).startswith("train.gradient_checkpointing: ")
    check_method(config, ADAPTER, TrainConfig())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("xlm", "reads a mask in the place of the token that it predicts, and mostly what follows too); use LABEL_EMBED"),
     ("roberta", "(a roberta in which every token sees those that follow); use LABEL_EMBEDDING")],
)  # fmt: skip
def test_models_that_do_not_continue_texts(kind: str, reason: str, tmp_path: Path) -> None:
    assert reason in refused(base(tmp_path, kind, "CAUSAL_LM"))


@pytest.mark.parametrize("kind", ["clip", "vit", "bros", "wav2vec2", "xmod", "perceiver"])
def test_models_that_ask_for_more_than_texts(kind: str, tmp_path: Path) -> None:
    assert "cannot be given texts alone" in refused(base(tmp_path, kind))


def test_a_class_that_there_is_none_of(tmp_path: Path) -> None:
    """TrOCR is a decoder alone."""
    assert "is a trocr, and transformers has no AutoModel for one" in refused(base(tmp_path, "trocr"))


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    config = base(tmp_path, "llama", "CAUSAL_LM")
    written = json.loads((tmp_path / "config.json").read_text())
    written |= {"model_type": "other", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(written))
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    assert "code of its own, which is not run; " in refused(config).replace(")", "")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """What transformers raises of them is no ValueError."""
    asked = base(tmp_path, "bert")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"cannot be loaded \(its tokenizer: .*\); save or fetch the files of that fol"
    ):
        load_reader(asked)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(ConfigError, match="has no words; add its files"):
        load_reader(asked)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"vocab_size": "64"}))
    assert "vocab_size" in refused(asked) and "cannot be loaded (" in refused(asked)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "mixtral"])
def test_heads_that_cannot_share_keys(kind: str, tmp_path: Path) -> None:
    """transformers makes such a model, and a run fails at its first batch. Before the layers there is a question about
    values, which a model without weights cannot answer."""
    zoo.tiny_config(CONFIG_MAPPING[kind], num_key_value_heads=3).save_pretrained(tmp_path)
    zoo.tokenizer().save_pretrained(tmp_path)
    said = refused(ModelConfig(name=str(tmp_path), task_type="CAUSAL_LM", max_length=16))
    assert (
        "cannot be given texts alone (RuntimeError: The size of tensor a (4) must match the size of tensor b (3)"
        in said
    )
    assert said.endswith("restore its config.json, or use a model of text")


@pytest.mark.parametrize("kind", ["deberta", "xlnet"])
def test_dtypes_are_mixed_more_freely_with_weights(kind: str, tmp_path: Path) -> None:
    """Of these, torch multiplies bfloat16 with float32, but not without weights."""
    check_model(base(tmp_path, kind, dtype="bfloat16"))


def test_what_a_model_without_weights_cannot_know() -> None:
    mask, ids = torch.ones(2, dtype=torch.bool, device="meta"), torch.ones(2, dtype=torch.int64, device="meta")
    guess = Guess()
    with guess:
        assert bool(mask.all()) and 7 not in ids and mask.any().item() and torch.ones(2).sum().item() == 2
        with pytest.raises(RuntimeError) as number:
            ids.sum().item()
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert guess.guessed and inconclusive(number.value, guessed=True)
    assert not inconclusive(shapes.value, guessed=True) and not inconclusive(shapes.value, guessed=False)
    assert inconclusive(TypeError(), guessed=True) and not inconclusive(TypeError(), guessed=False)
    assert inconclusive(NotImplementedError(), guessed=False)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("fastspeech2_conformer_with_hifigan", "has no embeddings of tokens; use a model of text"),
     ("higgs_audio_v2", "gives probabilities of tokens and no embeddings; use CAUSAL_LM, or a model of text")],
)  # fmt: skip
def test_models_that_give_no_embeddings(kind: str, reason: str, tmp_path: Path) -> None:
    assert refused(base(tmp_path, kind)).endswith(reason)


@pytest.mark.parametrize(("kind", "told"), [("gpt2", True), ("bert", False), ("t5", False)])
def test_a_decoder_that_nobody_asked_to_be_an_encoder(kind: str, told: bool) -> None:
    architecture = zoo.tiny_config(CONFIG_MAPPING[kind])
    note = not_asked_for(ModelConfig(name="it"), architecture)
    assert (note is not None) is told is is_decoder(architecture)
    assert note is None or ("'it' (a gpt2, which continues texts)" in note and "model.task_type=CAUSAL_LM" in note)
    assert not_asked_for(ModelConfig(name="it", task_type="LABEL_EMBEDDING"), architecture) is None
