"""`orthoplex chat` as users type it, and as scripts pipe it."""

import builtins
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StoreError
from orchestrator.cli import chat as cli_chat
from orchestrator.cli.chat import message
from tests.support.command_line import Result, here
from tests.support.tiny_models import save_tiny
from tests.support.untrained_runs import WORDS, classification, generative, run_of


class Lines(io.StringIO):
    """Lines on standard input, which may be a terminal."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    model = {"name": str(save_tiny("llama", folder / "base")), "task_type": "CAUSAL_LM", "prompt": "text : {text} is :"}
    model |= {"max_length": 96}
    adapter = {"target_modules": ["o_proj"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0}
    tasks = [
        classification(folder, "a", WORDS[0]),
        generative(folder, "turns", "messages", chat_template="chatml", decoding={"max_new_tokens": 6}),
    ]
    run_of(folder, model, tasks, adapter=adapter)
    return folder / "store"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: Any, store: Path) -> Callable[..., Result]:
    """The command with these lines on standard input."""
    monkeypatch.setenv("ORTHOPLEX_STORE", str(store))

    def call(lines: str, *words: object) -> Result:
        monkeypatch.setattr("sys.stdin", Lines(lines))
        return here(monkeypatch, capsys, "chat", *words)

    return call


def test_piped_lines_are_answered(chat: Callable[..., Result]) -> None:
    code, out, err = chat('hello\n\n"""\nmore\nlines\n"""\n', "team/run@v2")
    assert code == 0 and len(out.strip().splitlines()) == 2
    assert err == "note: team/run@v2, task turns: conversations\n"
    code, again, _ = chat("hello\n//quit\n/quit\nnever asked\n", "team/run@v2", "--json")
    rows = [json.loads(line) for line in again.splitlines()]
    assert code == 0 and [row["message"] for row in rows] == ["hello", "/quit"]
    assert rows[0]["answer"] == out.splitlines()[0] and rows[0]["adapter"] == "team/run@v2"
    assert {"adapter", "task", "message", "answer", "logprob", "finish_reason"} == {*rows[0]}
    code, drawn, _ = chat("hello\n", "team/run@v2", "--temperature", 2, "--seed", 5, "--max-new-tokens", 3, "--json")
    assert code == 0 and json.loads(drawn)["answer"] != rows[0]["answer"]


def test_commands(chat: Callable[..., Result]) -> None:
    lines = "/help\n/task\n/task a\ntest 1 red\n/adapter @v1 @v2\ntest 1 red\n/system x\n/taks a\n/reset\n"
    code, out, err = chat(lines, "team/run")
    assert code == 2  # of the first command that cannot be done
    assert out.count("%") == 9 and "team/run@v1:\n" in out and "team/run@v2:\n" in out
    assert "note: team/run@v2 has a, turns" in err and "/quit" in err
    assert "orthoplex: /taks: no such command; did you mean '/task'?" in err
    assert "orthoplex: /system: team/run@v1, task a: chooses a label (blue, green, red)" in err
    code, out, err = chat("hello\n" + "much " * 190 + "\nhello\n", "team/run@v2", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 2 and ["error" in row for row in rows] == [False, True, False]
    assert "its turns fill max_length 96" in rows[1]["error"] and "/reset forgets" in err


def test_adapters_that_answer_as_different_tasks_say_as_which(chat: Callable[..., Result]) -> None:
    code, out, _ = chat("hello\n", "team/run@v1", "team/run@v2", "--max-new-tokens", 2)
    assert code == 0 and "team/run@v1, task a:\n" in out and "team/run@v2, task turns:\n" in out


def test_a_store_that_is_away_ends_no_chat(chat: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    real = cli_chat.repertoire

    def away(reference: str, store: str) -> Any:
        if reference.endswith("v1"):
            raise StoreError("the store is away")
        return real(reference, store)

    monkeypatch.setattr(cli_chat, "repertoire", away)
    code, out, err = chat("/adapter @v1\nhello\n", "team/run@v2")
    assert code == 1 and len(out.splitlines()) == 1 and "orthoplex: the store is away" in err


def test_ctrl_c_stops_the_answer_and_not_the_program(
    chat: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal. Ctrl-C at the prompt gives up what was typed."""
    from orchestrator.delivery.chatting import Chat

    typed = iter(["hello", KeyboardInterrupt, "again", EOFError])
    real, asked = Chat.answer, []

    def ask(prompt: str) -> str:
        given: Any = next(typed)
        if isinstance(given, str):
            return given
        raise given

    def answer(self: Chat, seat: Any, text: str, told: Callable[[str], Any]) -> Any:
        asked.append(text)

        def stopping(piece: str) -> None:
            told(piece)
            if len(asked) == 1:
                raise KeyboardInterrupt

        return real(self, seat, text, stopping)

    monkeypatch.setattr(Chat, "answer", answer)
    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr(Lines, "terminal", True)
    code, out, err = chat("", "team/run@v2")
    assert code == 0 and asked == ["hello", "again"] and "(cut: no more tokens were allowed)" in out
    assert "stopped; the conversation goes on from here" in err and "Ctrl-D or /quit leaves" in err


def test_ctrl_c_ends_a_script(chat: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.delivery.chatting.Chat.answer", cut)
    code, _, err = chat("hello\nhello\n", "team/run@v2")
    assert code == 130 and err.endswith("orthoplex: interrupted\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["plain"], "plain"), (['"""one"""'], "one"), (['"""', "a", "", "b", '"""'], "a\n\nb"),
        (['  """a', 'b"""'], "a\nb"), (['"""', "a", "", '"""'], "a\n"),
    ],
)  # fmt: skip
def test_messages_of_several_lines(lines: list[str], expected: str) -> None:
    left = iter(lines)
    assert message(lambda _: next(left)) == expected


def test_an_open_message_at_the_end(chat: Callable[..., Result]) -> None:
    code, out, err = chat('"""\nhello\n', "team/run@v2")
    assert code == 2 and out == "" and 'the input ends within a message that """ began' in err
    assert cli_chat.COMMANDS.keys() == {"/adapter", "/task", "/system", "/reset", "/help", "/quit"}


def test_what_cannot_be_asked_is_refused_before_a_message(chat: Callable[..., Result]) -> None:
    for words, reason in (
        (("team/run@v9",), "no such version"), (("team/run@v2", "--task", "b"), "learned no such task"),
        (("team/run@v2", "--top-p", 0.5), "temperature 0 draws none"),
        (("team/run@v2", "--task", "a", "--system", "x"), "/system: team/run@v2, task a"),
    ):  # fmt: skip
        code, out, err = chat("hello\n", *words)
        assert code == 2 and out == "" and reason in err
