"""A chat: whose turns are asked, under which settings, and what ends an answer."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError, DataError
from orchestrator.delivery.chatting import Chat, Settings
from orchestrator.delivery.predictor import Predictor
from orchestrator.track.state import RunState
from trainers.config import DecodingConfig
from trainers.objectives.answering import Labelled, Written

Run = tuple[RunState, Path]


@pytest.fixture
def chat(texts: Predictor, texts_run: Run) -> Chat:
    """Opens versions of `texts_run`; version 3 is `texts`."""
    held = {"team/run@v3": texts, "team/run": texts}

    def opened(reference: str) -> Predictor:
        if reference not in held:
            held[reference] = Predictor(reference, store=str(texts_run[1] / "store"))
        return held[reference]

    return Chat(opened)


def said(chat: Chat, message: str) -> list[str]:
    """Each seat's answer, which is what was told of it."""
    answers = []
    for seat in chat.seats:
        pieces: list[str] = []
        answer = chat.answer(seat, message, pieces.append)
        assert isinstance(answer, Written) and "".join(pieces) == answer.answer
        answers.append(answer.answer)
    return answers


def test_turns_are_asked_as_a_conversation(chat: Chat, texts: Predictor) -> None:
    chat.use(["team/run"])
    (seat,) = chat.seats
    assert seat.known.task.name == "chat" and seat.told.endswith("task chat: conversations")
    (first,) = said(chat, "hello")
    assert first == texts.generate([[{"role": "user", "content": "hello"}]], task="chat")[0].answer
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": first}]
    assert seat.turns == turns
    asked = [*turns, {"role": "user", "content": "and now"}]
    assert said(chat, "and now") == [texts.generate([asked], task="chat")[0].answer] and len(seat.turns) == 4
    chat.reset()
    chat.instruct("be brief")
    system = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert said(chat, "hello") == [texts.generate([system], task="chat")[0].answer]


def test_single_prompts_do_not_read_earlier_messages(chat: Chat, texts: Predictor) -> None:
    chat.use(["team/run@v3"], "qa")
    alone = texts.generate(["what is it is "], task="qa")[0].answer
    assert [said(chat, "what is it is ") for _ in range(2)] == [[alone]] * 2
    with pytest.raises(ConfigError, match="/system: team/run@v3, task qa: single prompts"):
        chat.instruct("be brief")
    with pytest.raises(ConfigError, match="'nil': team/run@v3 has learned no such task"):
        chat.task("nil")
    chat.task("chat")
    assert chat.seats[0].converses


def test_versions_answer_side_by_side_and_go_on_with_the_conversation(chat: Chat) -> None:
    chat.use(["team/run@v3"])
    said(chat, "hello")
    turns = chat.seats[0].turns
    chat.use(["@v3", "@v2"], "qa")
    assert [seat.reference for seat in chat.seats] == ["team/run@v3", "team/run@v2"]
    assert [seat.turns for seat in chat.seats] == [turns, turns]
    third, second = said(chat, "what is it is ")
    assert third != second and chat.seats[0].turns[-1] != chat.seats[1].turns[-1]
    with pytest.raises(ConfigError, match="learned no such task"):
        chat.task("chat")  # version 2 has not
    assert [seat.known.task.name for seat in chat.seats] == ["qa", "qa"]
    with pytest.raises(ConfigError, match="no such version"):
        chat.use(["@v7"])
    chat.use(["@v2"])
    assert [seat.reference for seat in chat.seats] == ["team/run@v2"] and len(chat.seats[0].turns) == 4


def test_labels(chat: Chat, texts: Predictor) -> None:
    chat.use(["team/run@v3"], "a")
    (seat,) = chat.seats
    assert seat.told == "team/run@v3, task a: chooses a label (blue, green, red); each message is a text of its own"
    found = chat.answer(seat, "test 1 red", pytest.fail)
    assert isinstance(found, Labelled) and found == texts.classify(["test 1 red"], task="a")[0]


def test_an_answer_that_is_stopped_stands_as_far_as_it_came(chat: Chat) -> None:
    chat.settings = Settings(max_new_tokens=12, temperature=0)
    chat.use(["team/run@v3"], "qa")
    (seat,) = chat.seats
    heard: list[str] = []

    def stopping(piece: str) -> None:
        heard.append(piece)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.answer(seat, "what is it is ", stopping)
    assert seat.turns[1:] == [{"role": "assistant", "content": "".join(heard)}]
    whole = said(chat, "what is it is ")[0]
    assert whole.startswith("".join(heard)) and whole != "".join(heard)
    with pytest.raises(DataError, match="max_length"):
        chat.answer(seat, "word " * 90, heard.append)
    assert len(seat.turns) == 4


@pytest.mark.parametrize(
    ("settings", "decoding", "expected"),
    [
        ({}, None, None),
        ({"max_new_tokens": 5}, None, {"max_new_tokens": 5}),
        ({"temperature": 0.5, "seed": 4, "top_p": 0.9}, {"beams": 3, "stop": ["x"]},
         {"temperature": 0.5, "seed": 4, "top_p": 0.9, "stop": ["x"]}),
        ({"temperature": 0.0}, {"temperature": 1.0, "top_k": 4, "seed": 2}, {}),
        ({"seed": 3}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 3}),
    ],
)  # fmt: skip
def test_settings_over_the_tasks_decoding(settings: Any, decoding: Any, expected: Any) -> None:
    made = Settings(**settings).over(None if decoding is None else DecodingConfig(**decoding))
    assert made == (None if expected is None else DecodingConfig(**expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"seed": 3}, "seed says how samples are drawn"), ({"temperature": 1.0, "top_p": 2.0}, "--top-p: ")],
)
def test_settings_that_do_not_fit(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**settings).over(None)
