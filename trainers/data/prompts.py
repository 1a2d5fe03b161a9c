"""What is put around a row's text when a language model is asked."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.config import NAMED, OPTIONS

if TYPE_CHECKING:
    from trainers.data.generative.config import AnyTask

# The benchmark's own wording, by category, and the template above: github.com/cmnfriend/O-LoRA (Wang et al.,
# arXiv:2310.14152), instruction_config.json and uie_dataset_lora.py. COPA has neither instruction nor options there:
# each of its rows asks its own question.
CHOOSE = " Choose one from the option.\n"
INSTRUCTIONS = {
    "NLI": 'What is the logical relationship between the "sentence 1" and the "sentence 2"?' + CHOOSE,
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning?' + CHOOSE,
    "SC": "What is the sentiment of the following paragraph?" + CHOOSE,
    "TC": "What is the topic of the following paragraph?" + CHOOSE,
    "BoolQA": "According to the following passage, is the question true or false?" + CHOOSE,
    "MultiRC": "According to the following passage and question, is the candidate answer true or false?" + CHOOSE,
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence?" + CHOOSE,
}


@dataclass(frozen=True)
class Prompt:
    """What comes before and after the text of every row of a task."""

    before: str = ""
    after: str = ""


def prompt_for(template: str, task: "AnyTask", labels: Sequence[str]) -> Prompt:
    """The template `model.prompt` filled in for a task.

    {text} is the row's text. {labels} are the label words, comma-separated. {instruction} is the task's own, else the
    benchmark's for its category, with a line break after it. {category} and {dataset} are the two parts of a
    CL_Benchmark dataset's name; for other sources they are empty and the task's name. {task} is the task's name.
    """
    category, _, dataset = task.dataset.partition("/") if task.source == "cl_benchmark" else ("", "", task.name)
    instruction = task.instruction if task.instruction is not None else INSTRUCTIONS.get(category, "")
    if task.instruction:
        instruction = task.instruction.rstrip("\n") + "\n"
    values = {
        "labels": ", ".join(labels), "instruction": instruction, "category": category, "dataset": dataset,
        "task": task.name,
    }  # fmt: skip
    if template in NAMED:
        template = NAMED[template].replace(OPTIONS, "") if category == "COPA" else NAMED[template]
    return fill(template, values)


def fill(template: str, values: Mapping[str, str]) -> Prompt:
    """The template around {text}, with the other fields' values in it."""
    parts, side = ["", ""], 0
    for literal, field, *_ in string.Formatter().parse(template):
        parts[side] += literal + values.get(field or "", "")
        side = 1 if field == "text" else side
    return Prompt(*parts)
