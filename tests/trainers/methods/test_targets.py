"""Target layers are found by PEFT's rules."""

import pytest
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from cluster.errors import ConfigError
from tests.support.oa_streams import SMALL, bert
from trainers.methods.targets import match_modules, width


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
