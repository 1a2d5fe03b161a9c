"""Entries of generative tasks: what they mean, and what is said of wrong ones."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.errors import ConfigError
from orchestrator.config.run import parse_config
from tests.support.texts import bytes_tokenizer
from trainers.config import OwnTraining
from trainers.data.examples import Draft, Renderer, SourceRow, settings_for
from trainers.data.generative.config import (
    AnyGenerative,
    AnyTask,
    GenerativeFilesTask,
    GenerativeTask,
    kind_of,
)
from trainers.data.tasks import FilesTask

FILES = {"name": "t", "source": "files", "train": "a.jsonl", "test": "b.jsonl"}


def entry(**keys: Any) -> Any:
    return TypeAdapter(AnyTask).validate_python({**FILES, **keys})


def refused(model: str = "CAUSAL_LM", **keys: Any) -> str:
    given = {"name": "r", "adapter": {"target_modules": ["a"]}, "model": {"name": "docs-lm", "task_type": model},
             "tasks": [{**FILES, **keys}]}  # fmt: skip
    with pytest.raises(ConfigError) as error:
        parse_config(given, "c.yaml")
    heading, *lines = str(error.value).split("\n  ")
    assert heading == f"c.yaml: {len(lines)} error{'s' if len(lines) > 1 else ''} in the configuration"
    return "\n".join(lines)


def test_a_format_makes_a_task_generative() -> None:
    assert isinstance(entry(), FilesTask) and entry().objective == "classification"
    task = entry(format="messages")
    assert isinstance(task, GenerativeFilesTask) and task.objective == "generation"
    assert kind_of(task) == kind_of({**FILES, "format": "text"}) == "files with format"
    assert [kind_of({}), kind_of({"source": "hub"}), kind_of({"source": 3})] == [None, "hub", "3"]


@pytest.mark.parametrize(
    ("form", "trained_on", "scored_by"),
    [("prompt_completion", "completion", "rouge_l"), ("messages", "all_assistant", "rouge_l"), ("text", "all", "nll"),
     ("alpaca", "all_assistant", "rouge_l"), ("sharegpt", "all_assistant", "rouge_l")],
)  # fmt: skip
def test_what_is_usual(form: str, trained_on: str, scored_by: str) -> None:
    task: GenerativeTask = entry(format=form)
    assert (task.trained_on, task.scored_by, task.form) == (trained_on, (scored_by,), form)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"format": "mesages"}, "tasks.0.format: \"mesages\": use one of prompt_completion, messages, text, alpaca, "
         "sharegpt; did you mean 'messages'?"),
        ({"format": "text", "train_on": "completion"}, "train_on 'completion' does not fit rows of text; use all"),
        ({"format": "text", "metrics": ["rouge_l"]}, "metrics 'rouge_l': plain text has no answers; use nll or"),
        ({"format": "text", "metrics": []}, "name each metric once, and at least one"),
        ({"format": "text", "decoding": {"beams": 2}}, "and metrics 'nll' needs none; remove it"),
        ({"format": "messages", "decoding": {"top_k": 5}}, "tasks.0.decoding: top_k says how samples are drawn"),
        ({"format": "messages", "decoding": {"temprature": 1}}, "unknown key; did you mean 'temperature'?"),
        ({"decoding": {"temperature": 1}}, "decoding belongs to a generative task; name the format of its rows"),
        ({"fromat": "messages", "metrics": ["bleu"]}, "tasks.0: metrics belongs to a generative task; 'fromat' is "
         "unknown: did you mean 'format'?"),
        ({"metrcs": ["bleu"]}, "tasks.0: 'metrcs' is unknown: did you mean 'metrics'? It belongs to a generative task; "
         "name the format of its rows, one of messages, prompt_completion, sharegpt, alpaca, text, or remove metrcs"),
        ({"colums": {"prompt": "q"}, "fromat": "messages"}, "'colums' is unknown: did you mean 'columns'? It belongs "
         "to a generative task; 'fromat' is unknown: did you mean 'format'?"),
        ({"text_colum": "a"}, "tasks.0.text_colum: unknown key; did you mean 'text_column'?"),
        ({"format": "messages", "decoding": {"stop": "\n"}}, 'stop: "\\n": should be a list: ["\\n"]'),
        ({"format": "messages", "metrics": "rouge_l"}, 'metrics: "rouge_l": should be a list: ["rouge_l"]'),
        ({"format": "messages", "metrics": ["rouge"]}, "did you mean 'rouge_l'?"),
        ({"format": "prompt_completion", "columns": {"prompts": "q"}}, "did you mean 'prompt'?"),
        ({"format": "messages", "text_column": "a"}, "tasks.0: text_column belongs to a classification task; a task "
         "with `format` takes `columns: {messages: YOUR COLUMN}`; remove text_column, or format"),
        ({"format": "messages", "train_no": "all"}, "tasks.0.train_no: unknown key; did you mean 'train_on'?"),
        ({"format": "messages", "train": "a.txt"}, "'a.txt' ends in '.txt'; use a folder, or one of .jsonl"),
        ({"format": "messages", "training": {"epoch": 1}}, "training.epoch: unknown key; did you mean 'epochs'?"),
        ({"train_on": "all"}, "train_on belongs to a generative task; name the format of its rows, one of messages"),
        ({"source": "superni"}, "tasks.0.path: required, but not given"),
        ({"source": "trac"}, "files, hub, imported, superni, trace; did you mean 'trace'?"),
    ],
)  # fmt: skip
def test_wrong_entries(keys: dict[str, Any], message: str) -> None:
    assert message in refused(**keys)


@pytest.mark.parametrize("source", ["superni", "trace"])
@pytest.mark.parametrize("key", ["text_column", "label_column", "labels"])
def test_benchmarks_have_no_columns_to_name(source: str, key: str) -> None:
    given = {"name": "t", "source": source, "path": "p", key: ["a"] if key == "labels" else "a"}
    with pytest.raises(ValidationError, match=f"{key} belongs to a classification task; source {source} says"):
        TypeAdapter(AnyTask).validate_python(given)


def test_an_encoder_generates_nothing() -> None:
    assert "model.task_type LABEL_EMBEDDING: it generates no text, and task t is" in refused(
        "LABEL_EMBEDDING", format="text"
    )


def test_classification_is_stored_as_before() -> None:
    assert {*entry().model_dump()} == {
        "name", "source", "instruction", "max_train_rows", "max_test_rows", "resources", "text_column", "label_column",
        "labels", "train", "test", "validation",
    }  # fmt: skip


def test_generative_tasks_are_stored_as_before() -> None:
    assert {*entry(format="text").model_dump()} == {
        "name", "source", "instruction", "max_train_rows", "max_test_rows", "resources", "metrics", "train_on",
        "chat_template", "system", "max_length", "max_cut", "too_long", "format", "columns", "train", "test",
        "validation",
    }  # fmt: skip


def test_training_of_a_task() -> None:
    """`train` stays the file. A section without a value is none."""
    assert "decoding" not in entry(format="alpaca").model_dump(), "stored as before there was such a key"
    assert entry(format="alpaca", decoding={"beams": 2}).model_dump()["decoding"]["beams"] == 2
    task = entry(format="text", train="s3://b/folder", training={"epochs": 1, "max_steps": None})
    assert task.train == "s3://b/folder" and task.training == OwnTraining(epochs=1)
    assert task.model_dump()["training"] == {"epochs": 1} and entry(training={}) == entry()


def test_the_table_of_keys_in_the_readme_is_whole() -> None:
    text = (Path(__file__).parents[4] / "docs/data.md").read_text("utf-8").partition("| key | default | |\n")[2]
    rows = [line.split("|")[1] for line in text.partition("\n\n")[0].splitlines()]
    told = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    known = {key for kind in get_args(AnyGenerative) for key in kind.model_fields}
    assert known - told == {"source", "task", "instruction", "test_split", "validation_split"}
    assert told <= known


def test_a_prompt_and_its_completion_are_joined_as_they_are() -> None:
    tokenizer = bytes_tokenizer()
    settings = settings_for(entry(format="prompt_completion"), tokenizer, 64, vocabulary=None)
    made = Renderer(tokenizer, settings).drafted(SourceRow("f", 1, '{"prompt": "2+2=", "completion": "4"}'))
    assert isinstance(made, Draft) and made.texts == [f"2+2=4{tokenizer.eos_token}", "2+2="]
