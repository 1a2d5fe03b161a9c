"""A hundred odd files: each is either read, to the last row, or refused in one line. Nothing else leaves the code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.errors import ConfigError
from tests.support.texts import bytes_tokenizer
from trainers.data.examples import settings_for
from trainers.data.generative.config import AnyTask
from trainers.data.generative.encoding import encode_task
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import DataConfig

U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
VALUES: list[Any] = [
    None, True, 0, -1.5, 10**400, float("nan"), "", " ", "\x00", "\ud83d", "\udc00x", "a" * 100_000, "é" * 100_000, [],
    {}, [None], ["x"], [[]], [{}], [{"role": "user"}], [U], [A], [A, A], [U, U], [U, A], [{**U, "role": 3}, A],
    [{**U, "role": "alien"}, A], [{"role": "system", "content": ""}, U, A], [U, {**A, "content": None}],
    [U, {**A, "content": [{"type": "text", "text": "t"}]}], [U, {**A, "content": {"a": 1}}],
    [U, {**A, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}], [U, {**A, "content": "<|im_end|>"}],
    '[{"role": "user"', '[{"role": "user", "content": "Q"}]', {"role": "user", "content": "Q"}, "<s>", "</s>", "\u202e",
]  # fmt: skip
BYTES = [
    b"", b"\n\n", b"\xff\xfe{\x00", b"\xef\xbb\xbf" + b'{"text": "a"}\n', b'{"text": "a"', b"[1, 2", b"{}", b"[]",
     b"null",
    b'{"text": "a"} {"text": "b"}', "{\"text\": \"ü\"}".encode("latin-1"), b"[" * 5_000,
     b'{"text": ' + b"9" * 5_000 + b"}",
    b"\x00" * 40, b"PAR1", b"text\n", b'text\n"a\n', b"text,text\na,b\n", b"text\n\xff\n", b'[{"text": "a"}, 3]',
    b'{"rows": [{"text": "a"}]}', b"\r\n".join([b'{"text": "a"}'] * 3), b"{'text': 'a'}", b'{"text": "\\ud800"}',
]  # fmt: skip


def odd_files() -> Iterator[tuple[str, str, bytes]]:
    """(format, suffix, content)"""
    for form, column in (("prompt_completion", "completion"), ("messages", "messages"), ("sharegpt", "conversations")):
        for value in VALUES:
            rows = [{"prompt": "p", "completion": "c", "messages": [U, A],
                     "conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": "a"}]}
                    for i in range(3)]  # fmt: skip
            rows[1][column] = value
            yield form, ".jsonl", "\n".join(map(json.dumps, rows)).encode()
    yield from (("text", (".jsonl", ".json", ".csv", ".parquet")[i % 4], content) for i, content in enumerate(BYTES))
    yield from (("text", suffix, content) for content in BYTES[:16] for suffix in (".jsonl", ".csv"))


FILES = [*odd_files()]


def test_there_are_a_hundred() -> None:
    assert len(FILES) >= 100


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return bytes_tokenizer()


@pytest.mark.parametrize("start", range(0, len(FILES), 40))
def test_each_is_read_or_refused_in_one_line(start: int, tokenizer: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    talk = [{"from": "human", "value": "z"}, {"from": "gpt", "value": "a"}]
    row = {"prompt": "z", "completion": "c", "text": "z", "messages": [{**U, "content": "z"}, A], "conversations": talk}
    good.write_text(json.dumps(row))
    read = 0
    for number, (form, suffix, content) in enumerate(FILES[start : start + 40]):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        given = {
            "name": "t",
            "source": "files",
            "format": form,
            "train": str(path),
            "test": str(good),
            "max_length": 999,
        }
        try:
            task: Any = TypeAdapter(AnyTask).validate_python(given)
            data = prepare_task(task, DataConfig(), None, 0)
            made = encode_task(task, data, tokenizer, settings_for(task, tokenizer, 99, vocabulary=400))
            assert [len(made[key]) for key in made] == [len(data.train), len(data.validation), len(data.test)]
            read += 1
        except ConfigError as error:
            assert str(error).startswith("task t: ") and "\n" not in str(error) and "; " in str(error), str(error)
            assert len(str(error)) < 900
        except ValidationError:
            raise AssertionError(content) from None
    assert read < 40


def test_a_good_file_is_read(tokenizer: Any, tmp_path: Path) -> None:
    for name, texts in (("a", "bcdef"), ("b", "xy")):
        lines = [json.dumps({"prompt": text, "completion": "1"}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    given = {"name": "t", "source": "files", "format": "prompt_completion", "train": str(tmp_path / "a.jsonl"),
             "test": str(tmp_path / "b.jsonl")}  # fmt: skip
    task: Any = TypeAdapter(AnyTask).validate_python(given)
    data = prepare_task(task, DataConfig(), None, 0)
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 1, 2)
