"""How answers are generated: greedily, by beams, drawn, and up to stop strings."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.support.tiny_models import save_tiny, tiny, tokenizer
from trainers.config import DecodingConfig, ModelConfig
from trainers.models.causal import Causal
from trainers.models.decoding import Drawn, key, said, until
from trainers.models.loading import load_backbone
from trainers.models.seq2seq import Seq2Seq

PROMPTS = ["def get_item(self):\nSummary:", "def load(path, sep):\nSummary: Load", "x", "def size():\nName:"]
MOST = 12

pytestmark = pytest.mark.usefixtures("one_process")


@cache
def docs_lm() -> Causal:
    base = load_backbone(ModelConfig(name="docs-lm", task_type="CAUSAL_LM", max_length=96))
    assert isinstance(base, Causal)
    return base


@cache
def t5() -> Seq2Seq:
    return Seq2Seq(tiny("t5"), tokenizer(), 48, "digest")


def asked(base: Any) -> list[list[int]]:
    return [base.tokenizer(text)["input_ids"] for text in PROMPTS]


def by_hand(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float) -> np.ndarray:
    """Probabilities of the tokens, from the definitions: top_k first, then the fewest tokens that have top_p."""
    p = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-p, kind="stable")
    p[order[top_k or len(p) :]] = 0
    p /= p.sum()
    before = np.concatenate([[0], np.cumsum(p[order])[:-1]])
    p[order[before >= top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "keys", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0, "top_k": 5, "top_p": 0.7}]
)
def test_a_token_is_drawn_as_often_as_its_share(keys: dict[str, Any]) -> None:
    rng, rows = np.random.default_rng(0), 20_000
    logits = rng.normal(size=8) * 2
    how = DecodingConfig(**{"temperature": 1.0, **keys})
    drawn = Drawn([[row] for row in range(rows)], how, 1)
    left = drawn(torch.zeros(rows, 1, dtype=torch.long), torch.from_numpy(np.tile(logits, (rows, 1))))
    assert ((left == 0).sum(-1) == 1).all() and ((left == -torch.inf).sum(-1) == 7).all()
    found = np.bincount(left.argmax(-1).numpy(), minlength=8) / rows
    expected = by_hand(logits, how.temperature, how.top_k, how.top_p)
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=4.5 * np.sqrt(0.25 / rows))


@pytest.mark.parametrize("base", [docs_lm, t5], ids=["docs-lm", "t5"])
def test_a_drawn_answer_depends_on_its_prompt_and_the_seed_alone(base: Any) -> None:
    backbone, rows = base(), asked(base())
    how = DecodingConfig(temperature=1.5, top_k=20, seed=3)
    alone = [backbone.generate([row], MOST, (), how)[0] for row in rows]
    assert backbone.generate(rows, MOST, (), how) == alone
    assert backbone.generate(rows[::-1], MOST, (), how) == alone[::-1]
    torch.manual_seed(1)
    assert backbone.generate([rows[1], rows[0]], MOST, (), how) == alone[1::-1]
    others = backbone.generate(rows, MOST, (), how.model_copy(update={"seed": 4}))
    assert sum(a != b for a, b in zip(alone, others, strict=True)) >= 3
    assert key(0, [1, 2]) != key(1, [1, 2]) != key(1, [2, 1])


def test_a_cold_sample_is_the_greedy_answer() -> None:
    base = docs_lm()
    assert base.generate(asked(base), MOST, (), DecodingConfig(temperature=1e-4)) == base.generate(asked(base), MOST)


def test_a_temperature_that_32_bits_do_not_hold_is_cold() -> None:
    drawn = Drawn([[1]], DecodingConfig(temperature=1e-300), 1)
    assert drawn(torch.tensor([[1]]), torch.tensor([[1.0, 300.0, -2.0, 0.0]])).argmax() == 1


@pytest.mark.parametrize("base", [docs_lm, t5], ids=["docs-lm", "t5"])
def test_beams_are_those_of_transformers_row_by_row(base: Any) -> None:
    backbone = base()
    found = backbone.generate(asked(backbone), MOST, (), DecodingConfig(beams=3))
    for row, answer in zip(asked(backbone), found, strict=True):
        output = backbone.model.generate(
            torch.tensor([row]), max_new_tokens=MOST, num_beams=3, do_sample=False, pad_token_id=backbone.pad_id,
            eos_token_id=backbone.tokenizer.eos_token_id,
        )  # fmt: skip
        said = output[0, 1 if backbone.closes_text else len(row) :]
        assert answer == backbone.tokenizer.decode(said, skip_special_tokens=True)
    assert found != backbone.generate(asked(backbone), MOST) or backbone.closes_text


def test_an_answer_ends_before_the_first_stop_string() -> None:
    """Also if the string is in the prompt, is more than one token, or is cut by the last tokens alone."""
    base = docs_lm()
    whole = base.generate(asked(base), MOST)
    assert all(len(text) > 8 for text in whole)
    stop = (whole[0][3:7], "Summary", whole[1][-5:], "never said")
    lengths: list[int] = []
    handle = base.model.register_forward_pre_hook(lambda *_: lengths.append(1))
    try:
        found = base.generate(asked(base), MOST, (), DecodingConfig(stop=stop))
    finally:
        handle.remove()
    assert found == [until(text, stop) for text in whole]
    assert found[0] == whole[0][: whole[0].index(stop[0])] and found != whole
    lengths.clear()
    handle = base.model.register_forward_pre_hook(lambda *_: lengths.append(1))
    try:
        base.generate(asked(base)[:1], MOST, (), DecodingConfig(stop=(whole[0][:2],)))
    finally:
        handle.remove()
    assert len(lengths) < 4, "a row that has ended is not gone on with"


def test_the_text_before_a_stop_string() -> None:
    assert until("a\nb. c", ["c", "\n"]) == "a" and until("abc", ["d"]) == "abc" and until("abc", ()) == "abc"
    assert until("abc", ["a"]) == ""


def test_answers_that_are_cut_at_the_limit_of_tokens() -> None:
    """Not those with an end token or a stop string, nor any if the longest has fewer tokens."""
    tokens, texts = torch.tensor([[5, 6, 7], [5, 1, 0], [5, 6, 1], [5, 8, 0]]), ["abc", "a", "ab", "a.x"]
    found = said(tokens, texts, 3, [1, 2], ["."])
    assert found == [("abc", 3), ("a", None), ("ab", None), ("a", None)]
    assert [each.cut for each in said(tokens, texts, 4, [1, 2], ["."])] == [None] * 4


def test_a_base_says_what_it_cuts() -> None:
    base = docs_lm()
    found = base.say(asked(base), MOST)
    for each, row in zip(found, asked(base), strict=True):
        longer = base.generate([row], MOST + 8)[0]
        assert each.cut in (None, MOST) and (each.cut == MOST or longer == each.text)
    assert MOST in {each.cut for each in found}
    assert {each.cut for each in base.say(asked(base), MOST, (), DecodingConfig(stop=(" ", "\n")))} == {None}


def test_what_a_base_would_like_has_no_say(tmp_path: Path) -> None:
    """BART comes with beams and a least length, Qwen with a penalty, Llama with sampling."""
    save_tiny("gpt2", tmp_path)
    config = ModelConfig(name=str(tmp_path), task_type="CAUSAL_LM")
    plain = load_backbone(config)
    taste = {"num_beams": 4, "repetition_penalty": 5.0, "min_length": 60, "no_repeat_ngram_size": 1, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(taste))
    base = load_backbone(config)
    assert isinstance(plain, Causal) and isinstance(base, Causal)
    assert base.generate(asked(base), MOST) == plain.generate(asked(plain), MOST)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"top_p": 0.9}, "top_p says how samples are drawn, and temperature 0 draws none; set temperature"),
        ({"seed": 1}, "seed says how samples are drawn"),
        ({"temperature": 1.0, "beams": 2}, "beams 2 look for the likeliest answer, and temperature draws one"),
        ({"stop": ["\n", ""]}, "an empty string would end every answer at once"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"temperature": -1.0}, "greater than or equal to 0"),
        ({"top_p": 0.0, "temperature": 1.0}, "greater than 0"),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DecodingConfig(**keys)
