"""Floors of tasks whose best answers without a model are known."""

import json
import math
from typing import Any

import pytest
from datasets import Dataset

from trainers.data.generative.config import AnyTask
from trainers.data.sources import DocstringsTask
from trainers.data.tasks import TaskData
from trainers.objectives import floors
from trainers.objectives.floors import Asked, Floors, Nearest, asked, candidates, floors_of

Pairs = list[tuple[str, str]]
COLOURS = ("red", "blue", "green", "white", "black")
FRUITS = ("apple", "pear", "plum", "lime", "fig")


def task(*metrics: str, **more: Any) -> AnyTask:
    from pydantic import TypeAdapter

    content = {"name": "t", "source": "files", "format": "prompt_completion", "train": "a.jsonl", "test": "b.jsonl"}
    made: AnyTask = TypeAdapter(AnyTask).validate_python({**content, "metrics": metrics or None, **more})
    return made


def data(train: Pairs, test: Pairs) -> TaskData:
    splits = {
        key: Dataset.from_dict({"row": [json.dumps({"prompt": p, "completion": c}) for p, c in rows]})
        for key, rows in (("train", train), ("validation", test), ("test", test))
    }
    return TaskData(name="t", labels=(), warnings=(), fingerprint="f", **splits)


def test_one_answer_for_all() -> None:
    """Seven of ten training rows say yes, and one of two test rows; the test does not choose."""
    train = [(f"is {n} a number", "yes" if n % 10 < 7 else "no") for n in range(30)]
    found = floors_of(task("exact_match"), data(train, [("is x a number", "no"), ("is 77 a number", "yes")]))
    assert found and found.scores["constant"] == 0.5 and found.rows == 2


def test_the_best_single_answer_need_not_be_a_frequent_one() -> None:
    """Of all answers the long one shares most words with the others."""
    train = [("q", "b"), ("q2", "b"), *((f"p{n}", f"a c d {n}") for n in range(20))]
    found = floors_of(task("rouge_l_words"), data(train, [("x", "a c d 77")]))
    assert found and found.scores["constant"] == pytest.approx(0.75)  # three of four words


@pytest.mark.parametrize(
    "prompt", ["{}", "{}\nCopy the first line.", "What?\n{} is what is to be said\nAnswer:", "Say it:\n\n{}\n"]
)
def test_the_prompt_or_one_of_its_lines(prompt: str) -> None:
    train, test = (
        [(prompt.format(f"{c} {f} {n}"), prompt.format(f"{c} {f} {n}").splitlines()[line(prompt)]) for c in COLOURS
         for f in FRUITS]
        for n in (1, 2)
    )  # fmt: skip
    found = floors_of(task("exact_match"), data(train, test))
    assert found and found.scores["copy"] == 1 and found.scores["constant"] == 0


def line(prompt: str) -> int:
    return next(i for i, each in enumerate(prompt.splitlines()) if "{}" in each)


def test_the_answer_of_the_nearest_prompt() -> None:
    """A word that all prompts have says nothing; the rare one decides."""
    train = [(f"tell the price of the {fruit}", f"{n} coins") for n, fruit in enumerate(FRUITS)]
    test = [(f"the the the {fruit} tell", f"{n} coins") for n, fruit in enumerate(FRUITS)]
    found = floors_of(task("exact_match"), data(train, test))
    assert found and found.scores["nearest"] == 1 and found.scores["constant"] <= 0.2


def test_nearness_is_the_cosine_of_tf_idf() -> None:
    prompts = ["a b", "a c c", "a d", "e"]
    nearest = Nearest([Asked(prompt, (prompt,)) for prompt in prompts])
    idf = {"a": math.log(4 / 3), "b": math.log(4), "c": math.log(4), "d": math.log(4)}

    def cosine(prompt: str) -> float:
        asked, said = ["a", "a", "c", "d"], prompt.split()
        shared = sum(asked.count(word) * said.count(word) * idf[word] ** 2 for word in {*asked} & {*said})
        return shared / math.hypot(*(said.count(word) * idf.get(word, math.log(4)) for word in {*said}))

    assert nearest(Asked("a a c d", ())) == max(prompts, key=cosine) == "a d"
    assert nearest(Asked("unknown words", ())) == "a b"


def test_conversations_are_asked_by_the_last_user_turn() -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    said = [turn("system", "s"), turn("user", "u1"), turn("assistant", "a1"), turn("user", "u2")]
    assert asked({"messages": [*said, turn("assistant", "a2")]}) == Asked("u2", ("a2",))
    assert asked({"prompt": said, "completion": [turn("assistant", "a2")]}) == Asked("u2", ("a2",))
    assert asked({"prompt": "p", "completion": "c", "references": ["d"]}) == Asked("p", ("c", "d"))
    assert asked({"messages": [turn("user", "u")]}) == Asked("u", ("",))


def test_frequent_answers_come_first_and_none_twice() -> None:
    rows = [Asked("", (answer,)) for answer in ["x", "a", "b", "b", "c", "c", "c", "d", "e"]]
    assert candidates(rows, 4) == ["c", "b", "x", "a"] and candidates(rows, 99) == ["c", "b", "x", "a", "d", "e"]


def test_samples_of_large_splits_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [(f"p {n} {n % 7}", f"a {n % 7}") for n in range(500)]
    test = [(f"q {n} {n % 7}", f"a {n % 7}") for n in range(400)]
    first = floors_of(task("exact_match"), data(train, test))
    assert first == floors_of(task("exact_match"), data(train, test)) and first and first.rows == 300
    monkeypatch.setattr(floors, "EASY_CHARACTERS", 0.5)
    few = floors_of(task("exact_match"), data(train, test))
    assert few and few.rows == 50  # long answers take a smaller sample


def test_of_very_long_answers_the_beginning_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subsequence of 50,000 words in 50,000 would take minutes, and as many gigabytes."""
    monkeypatch.setattr(floors, "ANSWER_CHARACTERS", 40)
    rows = [(f"p {n}", "x " * 50_000) for n in range(9)]
    found = floors_of(task("rouge_l"), data(rows, rows))
    assert found and found.scores == {"constant": 1.0, "copy": 0.0, "nearest": 1.0}
    assert asked({"prompt": "p", "completion": "y" * 99}).references == ("y" * 40,)


def test_what_has_no_answers_has_no_floor_and_classification_its_majority() -> None:
    assert floors_of(task("nll", "rouge_l"), data([("p", "c")], [("q", "c")])) is None
    split = Dataset.from_dict({"text": list("abcdef"), "label": [0, 1, 1, 2, 1, 0]})
    rows = TaskData(
        name="t", labels=("x", "y", "z"), train=split, validation=split, test=split.select([0, 1, 2, 3]), warnings=(),
        fingerprint="f",
    )  # fmt: skip
    labelled = DocstringsTask(name="t", source="docstrings", task="library")
    assert floors_of(labelled, rows) == Floors(4, {"majority": 0.5})
