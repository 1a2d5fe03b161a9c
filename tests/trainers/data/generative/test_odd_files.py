"""Two hundred odd files, folders and data sets: each is either read, to the last row, or refused in one line that names
the task and a fix. Nothing else leaves the code."""

import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

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


def packed() -> Iterator[tuple[str, str, bytes]]:
    """Compressed whole, cut short, damaged, named otherwise; other line ends and encodings."""
    text, rows = BYTES[3], b'{"text": "a"}\r{"text": "b"}\r'
    whole = gzip.compress(text)
    yield from (
        ("text", suffix, whole) for suffix in (".jsonl.gz", ".json.gz", ".csv.gz", ".jsonl", ".csv", ".parquet")
    )
    yield from (
        ("text", ".jsonl.gz", content) for content in (text, whole[:-4], whole[:12], whole[:9] + b"\xff" * 9, b"")
    )
    yield from (("text", ".jsonl.gz", gzip.compress(content)) for content in BYTES[:12])
    yield from (
        ("text", ".json", content) for content in (rows, b"[" + rows.replace(b"}\r{", b"},\r{") + b"]", b"{}\r")
    )
    yield from (
        ("text", ".csv", content)
        for content in (b"text\ra\rb\r", b"text;x\na;b\n", b'text\n"a\x00b"\n', b"\xef\xbb\xbf")
    )
    for encoding in ("utf-16", "utf-16-le", "utf-32", "cp1252", "shift_jis"):
        yield "text", ".jsonl", '{"text": "é"}'.encode(encoding, "replace") + b"\x8d"


def tables() -> Iterator[tuple[str, str, bytes]]:
    """Parquet of types that are no strings, or hold nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(pa.string()))])
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "tool_calls": None}]
    columns: list[tuple[str, str, Any]] = [
        ("text", "text", pa.array([1, 2])), ("text", "text", pa.array([b"a", b"\xff"])),
        ("text", "text", pa.array(["a", None])), ("text", "text", pa.array(["a", "b"]).dictionary_encode()),
        ("text", "text", pa.array([["a"], []])), ("text", "text", pa.nulls(2)),
        ("text", "text", pa.array([], pa.string())),
        ("text", "text", pa.array([1.5, float("nan")])),
        ("text", "text", pa.array(["x" * 100_000, "é"], pa.large_string())),
        ("messages", "messages", pa.array([talk, talk[::-1]], pa.list_(turn))),
        ("messages", "messages", pa.array([talk, None], pa.list_(turn))),
        ("messages", "messages", pa.array([talk, [None]], pa.list_(turn))),
        ("messages", "messages", pa.array([json.dumps(talk), "no"])),
        ("messages", "messages", pa.array([[{"role": "user", "content": 3}]])), ("text", "other", pa.array(["a"])),
        ("prompt_completion", "prompt", pa.array(["a", "b"])), ("sharegpt", "conversations", pa.array([talk])),
    ]  # fmt: skip
    for form, name, column in columns:
        file = io.BytesIO()
        pq.write_table(pa.table({name: column}), file)
        yield form, ".parquet", file.getvalue()


FILES = [*odd_files(), *packed(), *tables()]
FOLDERS: list[Mapping[str, bytes]] = [
    {}, {"a.jsonl": BYTES[3], "b.csv": b"text\nb\n", "README.md": b"#", "c.json": b'[{"text": "c"}]'},
    {"a.jsonl": BYTES[3], "b.jsonl": b""}, {"a.jsonl": BYTES[3], "b.csv": b"\xff"}, {"a.txt": b"a"},
    {"a.jsonl": BYTES[3], "b.parquet": b"PAR1"}, {"a.csv": b"text\na\n", "b.csv": b"other\nb\n"},
    {"train.jsonl": b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}', "test.jsonl": b'{"text": "z"}\n'},
    {"train.jsonl": b'{"messages": 3}\n', "test.jsonl": b'{"text": "z"}\n'},
    {"train.jsonl": b'{"text": 1}\n{"text": "a"}\n', "test.jsonl": b'{"text": "z"}\n'}, {"train.jsonl": b'{"text"'},
    {"train.csv": b"text\na\n", "test.csv": b"text\n\xff\n"}, {"state.json": b"{}"},
    {"dataset_dict.json": b'{"splits": 3}'},
]  # fmt: skip


def test_there_are_two_hundred() -> None:
    assert len(FILES) + 2 * len(FOLDERS) >= 200


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return bytes_tokenizer()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A test split of one row that is in every format."""
    path = tmp_path_factory.mktemp("good") / "good.jsonl"
    talk = [{"from": "human", "value": "z"}, {"from": "gpt", "value": "a"}]
    row = {"prompt": "z", "completion": "c", "text": "z", "messages": [{**U, "content": "z"}, A], "conversations": talk}
    path.write_text(json.dumps(row))
    return str(path)


def is_read(tokenizer: Any, **given: Any) -> bool:
    """Whether the task's rows are made examples; if not, it is refused as it should be."""
    task: Any = TypeAdapter(AnyTask).validate_python({"name": "t", "max_length": 999, **given})
    try:
        data = prepare_task(task, DataConfig(), None, 0)
        made = encode_task(task, data, tokenizer, settings_for(task, tokenizer, 99, vocabulary=400))
    except ConfigError as error:
        assert str(error).startswith("task t: ") and "\n" not in str(error) and "; " in str(error), str(error)
        assert len(str(error)) < 900
        return False
    assert [len(made[key]) for key in made] == [len(data.train), len(data.validation), len(data.test)]
    return True


@pytest.mark.parametrize("start", range(0, len(FILES), 40))
def test_each_is_read_or_refused_in_one_line(start: int, tokenizer: Any, good: str, tmp_path: Path) -> None:
    read = 0
    for number, (form, suffix, content) in enumerate(FILES[start : start + 40]):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        read += is_read(tokenizer, source="files", format=form, train=str(path), test=good)
    assert read < 40


@pytest.mark.parametrize("source", ["files", "hub"])
def test_each_folder_is_read_or_refused_in_one_line(source: str, tokenizer: Any, good: str, tmp_path: Path) -> None:
    read = 0
    for number, files in enumerate(FOLDERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        where = {"dataset": str(folder)} if source == "hub" else {"train": str(folder), "test": good}
        read += is_read(tokenizer, source=source, format="text", **where)
    assert read >= 1


def test_a_good_file_is_read(tokenizer: Any, tmp_path: Path) -> None:
    for name, texts in (("a", "bcdef"), ("b", "xy")):
        lines = [json.dumps({"prompt": text, "completion": "1"}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    given = {"name": "t", "source": "files", "format": "prompt_completion", "train": str(tmp_path / "a.jsonl"),
             "test": str(tmp_path / "b.jsonl")}  # fmt: skip
    task: Any = TypeAdapter(AnyTask).validate_python(given)
    data = prepare_task(task, DataConfig(), None, 0)
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 1, 2)
