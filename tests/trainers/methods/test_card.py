"""The model card of an export: what the Hub reads of it, and what a base is called."""

from pathlib import Path

import pytest
import yaml

from trainers.methods.card import (
    Provenance,
    ending,
    licence_of,
    merged_readme,
    peft_readme,
    public_name,
)

ORIGIN = Provenance("team/run@v2", ("a", "b"), "CAUSAL_LM", "org/model", "d" * 64, "f" * 40, licence="mit")
ALONE = ["predict.py", "tasks.json", "tokenizer.json"]


def front(card: str) -> dict[str, object]:
    """The metadata of a card."""
    assert card.startswith("---\n")
    told: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return told


def test_metadata_of_the_hub() -> None:
    lora = peft_readme(ORIGIN, "float32", biased=False, unbiased=["x"], notes=["Compressed."], beside=ALONE)
    assert front(lora) == {
        "base_model": "org/model", "base_model_relation": "adapter", "library_name": "peft", "license": "mit",
        "pipeline_tag": "text-generation", "tags": ["orthoplex", "continual-learning", "lora"],
    }  # fmt: skip
    assert f"revision='{'f' * 40}'" in lora and "\nCompressed.\n" in lora and "lora_bias" not in lora
    assert 'python predict.py --task b "A TEXT"' in lora and "licence of the base: mit" in lora
    merged = front(merged_readme(ORIGIN, "float32", ALONE))
    assert merged["base_model_relation"] == "finetune" and merged["library_name"] == "transformers"


@pytest.mark.parametrize("base", ["/a/folder", "docs-lm"])
def test_a_base_that_the_hub_does_not_know(base: str) -> None:
    """It is no base_model; the text says how to get it."""
    origin = Provenance("team/run@v2", ("a",), "CAUSAL_LM", base, "d" * 64)
    told = peft_readme(origin, "float32", biased=False, unbiased=[], notes=[], beside=ALONE)
    assert "base_model" not in front(told) and "license" not in front(told)
    assert ("resolve_name('docs-lm')" in told) == (base == "docs-lm") and "--base" in told
    assert "predict.py" not in peft_readme(origin, "float32", biased=False, unbiased=[], notes=[], beside=[])


def test_what_a_base_is_called(tmp_path: Path) -> None:
    """A hub id wherever there is one: never a folder of a virtual environment or of the Hub's cache."""
    assert public_name("minilm", None) == ("sentence-transformers/all-MiniLM-L6-v2", None)
    assert public_name("docs-lm", None) == ("docs-lm", None)
    assert public_name("org/model", "abc") == ("org/model", "abc")
    held = tmp_path / "models--org--model--x/snapshots" / ("a" * 40)
    held.mkdir(parents=True)
    assert public_name(str(held), None) == ("org/model--x", "a" * 40)
    assert public_name(str(tmp_path), None) == (str(tmp_path), None)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# x\n", "apache-2.0"),
        ('---\nlicense: "other"\n---\n', "other"),
        ("# x\nlicense: mit\n", None),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
    ],
)
def test_the_licence_of_a_card(card: str, licence: str | None) -> None:
    assert licence_of(card) == licence


def test_what_ends_an_answer() -> None:
    assert ending({}) == [] and "eos_token_id=[1, 7]" in ending({"</s>": 1, "<|end|>": 7})[0]
