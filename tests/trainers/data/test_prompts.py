"""What is put around a text: the benchmark's wording and templates of one's own."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from trainers.config import ModelConfig
from trainers.data.prompts import INSTRUCTIONS, Prompt, prompt_for
from trainers.data.sources import TaskConfig


def task(**keys: Any) -> Any:
    benchmark = {"name": "amazon", "source": "cl_benchmark", "dataset": "SC/amazon"}
    return TypeAdapter(TaskConfig).validate_python(keys if "source" in keys else benchmark | keys)


def whole(prompt: Prompt, text: str = "TEXT") -> str:
    return prompt.before + text + prompt.after


def test_benchmark_wording() -> None:
    """As O-LoRA's get_instruction() renders it, with and without its --add_task_name and --add_dataset_name."""
    plain = (
        "What is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: very negative, negative \nTEXT\nAnswer:"
    )
    labels = ("very negative", "negative")
    assert whole(prompt_for("cl_benchmark", task(), labels)) == plain
    assert whole(prompt_for("cl_benchmark_prefix", task(), labels)) == "Task:SC\nDataset:amazon\n" + plain


@pytest.mark.parametrize(
    ("category", "beginning"),
    [
        ("NLI", 'What is the logical relationship between the "sentence 1" and the "sentence 2"?'),
        ("QQP", 'Whether the "first sentence" and the "second sentence" have the same meaning?'),
        ("TC", "What is the topic of the following paragraph?"),
        ("BoolQA", "According to the following passage, is the question true or false?"),
        ("MultiRC", "According to the following passage and question, is the candidate answer true or false?"),
        ("WiC", "Given a word and two sentences, whether the word is used with the same sense in both sentence?"),
    ],
)
def test_each_category_has_its_instruction(category: str, beginning: str) -> None:
    prompt = prompt_for("cl_benchmark", task(dataset=f"{category}/any"), ("A", "B"))
    assert whole(prompt) == f"{beginning} Choose one from the option.\nOption: A, B \nTEXT\nAnswer:"


def test_copa_rows_ask_for_themselves() -> None:
    copa = task(dataset="COPA/COPA")
    assert "COPA" not in INSTRUCTIONS
    assert whole(prompt_for("cl_benchmark", copa, ("A", "B"))) == "TEXT\nAnswer:"
    assert whole(prompt_for("cl_benchmark_prefix", copa, ("A", "B"))) == "Task:COPA\nDataset:COPA\nTEXT\nAnswer:"


def test_own_template_and_instruction() -> None:
    template = "{task}|{category}|{dataset}|{instruction}{{{labels}}} {text} =>"
    own = task(instruction="Rate it.")
    assert whole(prompt_for(template, own, ("a", "b"))) == "amazon|SC|amazon|Rate it.\n{a, b} TEXT =>"
    assert (
        whole(prompt_for(template, task(name="kind", source="docstrings", task="area"), ("a",)))
        == "kind||kind|{a} TEXT =>"
    )
    assert prompt_for("cl_benchmark", task(instruction=""), ("a",)).before == "Option: a \n"


def test_default_is_the_text_alone() -> None:
    assert prompt_for(ModelConfig().prompt, task(), ("a", "b")) == Prompt("", "")


def test_braces_are_literal() -> None:
    """In the template they are doubled; labels and instructions are not templates."""
    braces = prompt_for("{{text}} {labels} {text}", task(), ("{x}", "{text}"))
    assert braces == Prompt("{text} {x}, {text} ", "")
    own = task(instruction="Say {text} or }{:")
    assert prompt_for("cl_benchmark", own, ("{labels}",)) == Prompt(
        "Say {text} or }{:\nOption: {labels} \n", "\nAnswer:"
    )
