"""Which template is meant, and what it is asked to write."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from tests.support.texts import THINKS, bytes_tokenizer
from trainers.data.generative.chat import CHATML, Chat, find_template
from trainers.data.generative.rows import RowFault

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def test_templates_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("mine")
    own, none = bytes_tokenizer(THINKS), bytes_tokenizer(None)
    assert [find_template("t", None, each) for each in (own, none)] == [THINKS, None]
    assert find_template("t", "chatml", own) == CHATML
    assert find_template("t", str(tmp_path / "mine.jinja"), own) == "mine"
    own.chat_template = {"default": "d", "tool_use": "u"}
    assert [find_template("t", name, own) for name in (None, "tool_use")] == ["d", "u"]


def test_templates_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task t: chat_template 'chatmI' is neither .* did you mean 'chatml'\?"):
        find_template("t", "chatmI", bytes_tokenizer(None))
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_template("t", str(tmp_path / "x"), bytes_tokenizer(None))


def test_prefixes_of_a_conversation() -> None:
    said = Chat(bytes_tokenizer(), CHATML).render({"messages": [USER, ANSWER, USER, ANSWER]}, "all_assistant")
    assert len(said.cuts) == 2 and said.cuts[1][1] is None and said.asked == said.cuts[1][0]
    assert all(said.whole.startswith(text) for cut in said.cuts for text in cut if text)
    assert said.whole[len(said.cuts[0][0]) : len(said.cuts[0][1] or "")] == "A<|im_end|>\n"


def test_variables_and_tools_reach_the_template() -> None:
    template = CHATML + "{% if tools %}{{ tools | length }} {{ flag }}{% endif %}"
    values = {"messages": [USER, ANSWER], "tools": [{"a": 1}], "chat_template_kwargs": {"flag": "on"}}
    assert Chat(bytes_tokenizer(), template).write([USER], values).endswith("1 on")


def test_a_template_with_a_fault_of_its_own() -> None:
    with pytest.raises(RowFault) as fault:
        Chat(bytes_tokenizer(), "{{ messages[0].nothing.more }}").write([USER], {})
    assert "cannot write its turns of user" in fault.value.found
