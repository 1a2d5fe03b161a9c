"""What rows become, by hand: which text is trained, from where is answered, what is refused and why."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.support.texts import NO_END, NO_SYSTEM, STRICT, THINKS, bytes_tokenizer
from trainers.data.examples import Example, RenderSettings, SourceRow, common, render
from trainers.data.generative.chat import CHATML
from trainers.data.generative.refusals import REFUSALS, Refused

USER, HI, MORE = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"},
                  {"role": "user", "content": "R"})  # fmt: skip
LAST = {"role": "assistant", "content": "B"}
SYSTEM = {"role": "system", "content": "S"}


def made(values: Any, tokenizer: Any = None, **settings: Any) -> Example:
    tokenizer = tokenizer or bytes_tokenizer()
    kept = {"task": "t", "train_on": "completion", "max_length": 1000, "template": tokenizer.chat_template, **settings}
    return render(SourceRow("train 'a.jsonl'", 7, json.dumps(values)), tokenizer, RenderSettings(**kept))


def parts(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    """Neighbouring tokens that are all trained, or all not, as text."""
    places = [0, *(np.flatnonzero(np.diff(example.trained.astype(int))) + 1), len(example.ids)]
    return [(tokenizer.decode(example.ids[a:b]), bool(example.trained[a])) for a, b in pairwise(places)]


# --- what is trained


def test_a_completion_and_its_end_are_trained_also_if_padding_is_the_same_token() -> None:
    tokenizer = bytes_tokenizer(pad="</s>")
    example = made({"prompt": "2+2=", "completion": "4", "references": ["4", "four"]}, tokenizer)
    assert parts(example, tokenizer) == [("2+2=", False), ("4</s>", True)]
    assert example.prompt_length == 4 and example.references == ("4", "four") and example.ids[-1] == 1
    assert example.ids.dtype == np.int32 and example.answer.shape == (0,) and not example.cut


def test_an_end_that_is_written_already_is_not_doubled() -> None:
    tokenizer = bytes_tokenizer(begins=True)
    example = made({"prompt": "a ", "completion": "b</s>"}, tokenizer)
    assert parts(example, tokenizer) == [("<s>a ", False), ("b</s>", True)]


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt() -> None:
    tokenizer = bytes_tokenizer(begins=True, ends=True)
    example = made({"prompt": "a ", "completion": "b"}, tokenizer)
    assert parts(example, tokenizer)[0] == ("<s>a ", False)


def test_white_space_before_the_answer_is_the_answers_if_it_is_one_token_with_it() -> None:
    tokenizer = bytes_tokenizer(merges=[("Ġ", "b")])
    example = made({"prompt": "a: ", "completion": "b"}, tokenizer)
    assert parts(example, tokenizer) == [("a:", False), (" b</s>", True)] and example.prompt_length == 2


def test_plain_text_is_trained_whole() -> None:
    tokenizer = bytes_tokenizer()
    example = made({"text": "abc"}, tokenizer, train_on="all")
    assert parts(example, tokenizer) == [("abc</s>", True)] and example.references == ()


@pytest.mark.parametrize(
    ("train_on", "trained"),
    [
        ("all_assistant", ["A<|im_end|>\n", "B<|im_end|>\n"]),
        ("last_assistant", ["B<|im_end|>\n"]),
        ("all", ["<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
                 "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"]),
    ],
)  # fmt: skip
def test_turns_of_the_assistant(train_on: str, trained: list[str]) -> None:
    tokenizer = bytes_tokenizer()
    example = made({"messages": [SYSTEM, USER, HI, MORE, LAST]}, tokenizer, train_on=train_on)
    assert [text for text, is_trained in parts(example, tokenizer) if is_trained] == trained
    assert tokenizer.decode(example.ids[: example.prompt_length]).endswith("R<|im_end|>\n<|im_start|>assistant\n")
    assert example.references == ("B",)


def test_a_question_after_the_last_answer_is_not_trained() -> None:
    tokenizer = bytes_tokenizer()
    example = made({"messages": [USER, HI, MORE]}, tokenizer, train_on="all_assistant")
    assert parts(example, tokenizer)[1:] == [("A<|im_end|>\n", True), ("<|im_start|>user\nR<|im_end|>\n", False)]


def test_a_completion_of_turns() -> None:
    tokenizer = bytes_tokenizer()
    example = made({"prompt": [USER], "completion": [HI]}, tokenizer)
    begin = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert parts(example, tokenizer) == [(begin, False), ("A<|im_end|>\n", True)]


def test_the_tasks_system_turn_stands_before_conversations_without_one() -> None:
    tokenizer = bytes_tokenizer()
    given, own = (made({"messages": [*first, USER, HI]}, tokenizer, train_on="all_assistant", system="T")
                  for first in ([], [SYSTEM]))  # fmt: skip
    assert tokenizer.decode(given.ids).startswith("<|im_start|>system\nT<")
    assert "T" not in tokenizer.decode(own.ids)


def test_the_last_turn_alone_where_earlier_ones_are_written_otherwise() -> None:
    tokenizer = bytes_tokenizer(THINKS)
    example = made({"messages": [USER, HI, MORE, LAST]}, tokenizer, train_on="last_assistant")
    assert parts(example, tokenizer)[1] == ("<think></think>B<|im_end|>\n", True)


def test_an_encoder_decoder_gets_prompt_and_answer_apart() -> None:
    tokenizer = bytes_tokenizer(ends=True)
    example = made({"prompt": "ab", "completion": "c"}, tokenizer, encoder_decoder=True)
    assert tokenizer.decode(example.ids) == "ab</s>" and tokenizer.decode(example.answer) == "c</s>"
    assert example.prompt_length == 3 and not example.trained.any()
    talk = made(
        {"messages": [USER, HI, MORE, LAST]}, bytes_tokenizer(), train_on="last_assistant", encoder_decoder=True
    )
    assert (
        bytes_tokenizer().decode(talk.answer) == "B</s>" and bytes_tokenizer().decode(talk.ids).count("assistant") == 2
    )


# --- cuts


def test_a_long_prompt_of_an_encoder_decoder_loses_its_middle_and_keeps_its_end() -> None:
    """Conversations too: none of their turns is trained on."""
    tokenizer = bytes_tokenizer(ends=True)
    given = {"prompt": "abcdefghij", "completion": "xyz"}
    example = made(given, tokenizer, max_length=6, encoder_decoder=True, shorten=True)
    assert tokenizer.decode(example.ids) == "abcij</s>" and tokenizer.decode(example.answer) == "xyz</s>"
    assert (example.shortened, example.cut, example.prompt_length) == (True, False, 6)
    assert (example.whole, example.raw) == (6, 11)
    as_is = made(given, tokenizer, max_length=11, encoder_decoder=True, shorten=True)
    assert tokenizer.decode(as_is.ids) == "abcdefghij</s>" and not as_is.shortened
    talk = made({"messages": [USER, HI]}, tokenizer, max_length=9, encoder_decoder=True, shorten=True)
    assert len(talk.ids) == 9 and talk.shortened
    cut = made({"prompt": "a", "completion": "bcdef"}, tokenizer, max_length=4, encoder_decoder=True)
    assert tokenizer.decode(cut.answer) == "bcde" and (cut.cut, cut.whole) == (True, 6)


def test_an_answer_is_cut_at_its_end_and_says_so() -> None:
    example = made({"prompt": "ab", "completion": "cdef"}, max_length=4)
    assert (len(example.ids), example.whole, example.cut, example.prompt_length) == (4, 7, True, 2)


def test_a_prompt_loses_its_middle_whatever_its_answer_is() -> None:
    tokenizer = bytes_tokenizer()
    for completion in ("x", "xyz"):
        example = made({"prompt": "abcdefghij", "completion": completion}, tokenizer, max_length=8, shorten=True)
        assert tokenizer.decode(example.ids[: example.prompt_length]) == "abchij" and example.shortened


# --- what is refused: one message with task, row, what was found, and the fix

FAULTS = [
    ("nothing_trained", {"messages": [USER]}, {}, "no turn is the assistant's", "add one"),
    ("everything_trained", {"prompt": "", "completion": "a"}, {}, "its prompt is empty", "name format: text"),
    ("end_untrained", {"messages": [USER, HI]}, {"template": NO_END}, "no end token after turn 2",
     "chat_template"),
    ("two_beginnings", {"prompt": "<s>a", "completion": "b"}, {"begins": True}, "begins with '<s>' twice", "remove it"),
    ("prompt_no_prefix", {"prompt": "ab", "completion": "c"}, {"merges": [("b", "c")]},
     "are not the first of the row's",
     "white space"),
    ("prompt_no_prefix", {"messages": [USER, HI, MORE, LAST]}, {"template": THINKS}, "are not the first of the row's",
     "train_on: last_assistant"),
    ("prompt_cut", {"prompt": "abcdef", "completion": "g"}, {"max_length": 5, "encoder_decoder": True},
     "its prompt has 6 tokens, more than max_length 5", "set the task's max_length to 6 or more, remove the row, or"),
    ("answer_cut", {"prompt": "abcdef", "completion": "g"}, {"max_length": 5}, "has 6 tokens, so max_length 5 cuts",
     "max_length to 8 or more"),
    ("template", {"messages": [{**USER, "role": "usr"}, HI]}, {}, "turn 1 has the role 'usr'", "did you mean 'user'?"),
    ("template", {"messages": [SYSTEM, USER, HI]}, {"template": NO_SYSTEM}, "drops turn 1, of system", "chat_template"),
    ("template", {"messages": [SYSTEM, USER, HI]}, {"template": STRICT}, "(only user and assistant)", "chat_template"),
    ("template", {"messages": [USER, HI]}, {"template": None}, "has no chat template", "chat_template to chatml"),
    ("unknown_token", {"prompt": "a", "completion": "b"}, {"vocabulary": 40}, "the model knows 40 tokens",
     "own tokenizer"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "how", "found", "fix"), FAULTS)
def test_refusals(kind: str, values: Any, how: dict[str, Any], found: str, fix: str) -> None:
    settings = {key: how[key] for key in ("max_length", "vocabulary", "encoder_decoder") if key in how}
    tokenizer = bytes_tokenizer(how.get("template", CHATML), begins="begins" in how, merges=how.get("merges", ()))
    train_on = "all_assistant" if "messages" in values else "completion"
    with pytest.raises(Refused) as refused:
        made(values, tokenizer, train_on=train_on, **settings)
    message = str(refused.value)
    assert refused.value.kind == kind and message.startswith("task t: train 'a.jsonl' row 7: ")
    assert found in message and fix in message.partition("; ")[2] and "\n" not in message


def test_each_kind_of_refusal_is_tried() -> None:
    assert {kind for kind, *_ in FAULTS} == {*REFUSALS}


def test_common_beginnings() -> None:
    assert [common(a, b) for a, b in (([], [1]), ([1, 2], [1, 3]), ([1, 2], [1]), ([1], [1, 2]))] == [0, 1, 1, 1]
