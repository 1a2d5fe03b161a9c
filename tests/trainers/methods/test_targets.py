"""Target layers are found by PEFT's rules."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cluster.errors import ConfigError
from tests.support import zoo
from tests.support.oa_streams import SMALL, bert
from trainers.methods.targets import by_pattern, check_patterns, match_modules, width


def test_target_modules_match_as_in_peft() -> None:
    model = bert()
    assert len(match_modules(model, ["output.dense"])) == 4  # attention.output.dense too: a suffix after a dot
    assert list(match_modules(model, ["encoder.layer.0.output.dense"])) == ["encoder.layer.0.output.dense"]
    assert len(match_modules(model, r".*\.(query|value)")) == 4
    assert len(match_modules(model, "all-linear")) == 13
    with pytest.raises(ConfigError, match=r"'qeury'.*did you mean 'attention\.self\.query'|'qeury' matches no"):
        match_modules(model, ["output.dense", "qeury"])
    with pytest.raises(ConfigError, match="not a regex"):
        match_modules(model, "(")


def test_the_output_head_and_tied_weights_are_left_alone() -> None:
    tied = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True))
    assert "lm_head" not in match_modules(tied, "all-linear")
    with pytest.raises(ConfigError, match=r"'lm_head' shares its weight with the embedding 'model\.embed_tokens'"):
        match_modules(tied, ["lm_head"])
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50))
    found = match_modules(gpt2, "all-linear")
    assert len(found) == 8 and width(found["transformer.h.0.attn.c_attn"]) == 48  # fused q, k, v


def test_all_linear_of_a_model_without_linear_layers() -> None:
    with pytest.raises(ConfigError, match="all-linear matches no layer"):
        match_modules(torch.nn.Sequential(torch.nn.Embedding(3, 4)), "all-linear")


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["^encoder.layer.0"], r"'\^encoder\.layer\.0' matches no adapted layer; .*: write '\^encoder\.layer\.0\.\*'"),
        (
            ["output.dense", "atention.output.dense"],
            r"'atention\.output\.dense' .*did you mean 'attention\.output\.dense'",
        ),
        (["outptu.dense"], r"'outptu\.dense' .*did you mean '(attention\.)?output\.dense'"),
        (["query"], r"'query' matches no adapted layer; adapted layers end in attention\.output\.dense, output\.dense"),
        (["OUTPUT.dense"], r"'OUTPUT\.dense' matches no adapted layer"),
        (["1.output.dense", "layer.11.*"], r"'layer\.11\.\*' matches no adapted layer"),
        (["dense", "0.output.dense"], r"'0\.output\.dense' decides nothing, .*'dense'\); put it first"),
    ],
)
def test_patterns_that_decide_nothing(patterns: list[str], said: str) -> None:
    names = match_modules(bert(), ["output.dense"])
    with pytest.raises(ConfigError, match=r"adapter\.rank_pattern: " + said):
        check_patterns("rank_pattern", patterns, names)


def test_patterns_that_decide_something() -> None:
    names = match_modules(bert(), ["output.dense"])
    patterns = {"0.output.dense": 2, "dense": 3}
    check_patterns("rank_pattern", patterns, names)
    check_patterns("rank_pattern", [r".*\.layer\.[01]\.output\.dense", "attention.output.dense"], names)
    assert [by_pattern(name, patterns, 9) for name in names] == [3, 2, 3, 3]
    assert by_pattern("pooler.dense_2", patterns, 9) == 9


def test_a_router_is_no_linear_layer() -> None:
    """Llama 4's is a subclass of `nn.Linear` that gives two tensors."""
    model = zoo.tiny_model(zoo.tiny_config(CONFIG_MAPPING["llama4_text"]), "AutoModelForCausalLM")
    assert any(name.endswith("router") for name, _ in model.named_modules())
    found = match_modules(model, "all-linear")
    assert found and not any(name.endswith("router") for name in found)
    falcon = zoo.tiny_model(zoo.tiny_config(CONFIG_MAPPING["falcon"]), "AutoModelForCausalLM")
    assert len(match_modules(falcon, "all-linear")) == 8  # a subclass that gives what `nn.Linear` does
