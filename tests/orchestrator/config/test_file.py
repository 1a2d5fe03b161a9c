"""What is no YAML file gets one line and no traceback; `--set` changes one key."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from orchestrator.config.run import load_config
from tests.support.configurations import BASE, TASK, Load, lines, tasks


def test_encodings_and_merge_keys(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + BASE.encode()) == load(BASE)
    merged = load(tasks(f"&a {TASK}", "{<<: *a, name: b}", "{<<: [*a, {max_test_rows: 3}], name: c}"))
    assert [(task.name, task.source, task.max_test_rows) for task in merged.tasks] == [
        ("a", "docstrings", None), ("b", "docstrings", None), ("c", "docstrings", 3),
    ]  # fmt: skip


NOT_YAML = {
    "name: a\nname: b\n": "line 2, column 1: the key 'name' is given twice",
    "train: {seed: 1, seed: 2}\n": "line 1, column 18: the key 'seed' is given twice",
    "? [a, b]\n: 3\n": 'line 1, column 3: the key ["a", "b"] is not a string; quote it',
    "? {a: b}\n: 3\n": 'line 1, column 3: the key {"a": "b"} is not a string; quote it',
    "3: x\n": "line 1, column 1: the key 3 is not a string; quote it",
    "on: x\n": "line 1, column 1: the key true is not a string; quote it",
    "a: {<<: 3}\n": "line 1, column 9: while constructing a mapping, expected a mapping or list of mappings",
    "a: *b\n": "line 1, column 4: found undefined alias 'b'",
    "a: &a {b: *a}\n": "line 1, column 4: found unconstructable recursive node",
    "a: [b\nc: }\n": "line 2, column 2: while parsing a flow sequence, expected ',' or ']', but got ':'",
    "a: 1\n\tb: 2\n": "line 2, column 1: while scanning for the next token, found character '\\t'",
    "a: 1\n---\nb: 2\n": "line 2, column 1: expected a single document in the stream, but found another document",
    "a: !tag 3\n": "line 1, column 4: could not determine a constructor for the tag '!tag'",
    "a: !!python/object/apply:os.system ['true']\n": "line 1, column 4: could not determine a constructor for the tag",
    "a: 2024-99-99\n": 'line 1, column 4: "2024-99-99" cannot be read as a number or a date; quote it',
    f"a: {'9' * 5000}\n": 'line 1, column 4: "9999',
    "a: !!bool maybe\n": 'line 1, column 4: "maybe" cannot be read',
    "a: !!timestamp never\n": 'line 1, column 4: "never" cannot be read',
    "a: b\0c\n": "unacceptable character #x0000",
    f"a: {'[' * 3000}{']' * 3000}\n": "nested too deeply",
}


@pytest.mark.parametrize("text", NOT_YAML, ids=lambda text: repr(text[:30]))
def test_what_is_no_yaml(refused: Callable[..., str], text: str) -> None:
    message = refused(text)
    assert message.startswith(f"c.yaml: not valid YAML: {NOT_YAML[text]}")
    assert "\n" not in message and "unicode string" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "c.yaml: expected a mapping of keys at the top, found nothing"),
        (b"- a\n", 'c.yaml: expected a mapping of keys at the top, found ["a"]'),
        (b"hello\n", 'c.yaml: expected a mapping of keys at the top, found "hello"'),
        (b"name: \xe9\n", "c.yaml: byte 6 is not UTF-8; save the file as UTF-8"),
        ("name: a\n".encode("utf-16"), "c.yaml: byte 0 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_other_files(refused: Callable[..., str], content: bytes, message: str) -> None:
    assert refused(content) == message


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; `orthoplex init` writes one"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; give a YAML file"):
        load_config(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_config(tmp_path / "file" / "c.yaml")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.epochs=5", "train.epochs", 5),
        ("train.learning_rate=1e-3", "train.learning_rate", 0.001),
        ("train={epochs: 2, seed: 7}", "train.seed", 7),
        ("adapter.target_modules=[query, value]", "adapter.target_modules", ["query", "value"]),
        ("adapter.orthogonality.side=both", "adapter.orthogonality.side", "both"),
        ("guards.max_forgetting=0.1", "guards.max_forgetting", 0.1),
        ("data_dir=a=b", "data_dir", "a=b"),
        ("data_dir='@x'", "data_dir", "@x"),
        ("cluster.address=null", "cluster.address", None),
        ("tasks.0.name=other", "tasks.0.name", "other"),
        (f"tasks=[{TASK}, {TASK.replace('a,', 'b,')}]", "tasks.1.name", "b"),
    ],
)
def test_overrides(load: Load, override: str, key: str, value: Any) -> None:
    found: Any = load(BASE, override)
    for part in key.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    assert found == value


def test_the_last_override_counts_and_empty_sections_fill(load: Load, refused: Callable[..., str]) -> None:
    assert load(BASE, "train.epochs=5", "train.epochs=6", "train.seed=1").train.epochs == 6
    assert load(BASE + "train:\n", "train.epochs=5").train.epochs == 5
    assert load(BASE, "train={epochs: 2}", "train.seed=4").train.model_dump()["epochs"] == 2
    assert lines(refused(BASE, "train.epoch=5")) == ["train.epoch: unknown key; did you mean 'epochs'?"]
    assert lines(refused(BASE, "train.epochs.x=5")) == ['train.epochs: {"x": 5}: should be a whole number']


def test_an_override_changes_one_place_of_a_shared_anchor(load: Load) -> None:
    text = "name: s\nadapter: {target_modules: a}\ntasks: [&a {name: a, source: docstrings, task: area}, *a]\n"
    assert [task.name for task in load(text, "tasks.1.name=b").tasks] == ["a", "b"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected KEY=VALUE with a dotted key, as in train.epochs=1"),
        ("=3", "expected KEY=VALUE"),
        ("train..epochs=3", "expected KEY=VALUE"),
        (".=3", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("tasks.1.name=x", "tasks has items 0 to 0, not '1'"),
        ("tasks.-1.name=x", "tasks has items 0 to 0, not '-1'"),
        ("tasks.²=x", "tasks has items 0 to 0, not '²'"),
        ("name.x=3", "name is a value and has no key 'x'"),
        ("train.epochs=[", "not valid YAML: line 1, column 2: while parsing a flow node"),
        ("data_dir=@x", "not valid YAML: line 1, column 1: while scanning for the next token, found character '@'"),
        ("train={seed: 1, seed: 2}", "not valid YAML: line 1, column 11: the key 'seed' is given twice"),
    ],
)
def test_overrides_that_are_refused(refused: Callable[..., str], override: str, message: str) -> None:
    said = refused(BASE, override)
    assert said.startswith(f"--set {override!r}: {message}") and "\n" not in said


def test_an_override_into_an_empty_list(refused: Callable[..., str]) -> None:
    said = refused(BASE, "tasks=[]", "tasks.0.name=x")
    assert said == "--set 'tasks.0.name=x': tasks is an empty list and has no item, not '0'"


def nested(levels: int) -> str:
    """A list whose aliases stand for 10^levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


MANY = "more than 50,000 keys and values, aliases included"
TOO_MUCH = {
    "aliases of lists": (nested(9), MANY),
    "aliases of mappings": (
        "m0: &m0 {a: 1}\n"
        + "".join(f"m{n}: &m{n} {{{', '.join(f'k{i}: *m{n - 1}' for i in range(20))}}}\n" for n in range(1, 9)),
        MANY,
    ),
    "merged": (
        "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}\n" for n in range(1, 40)),
        MANY,
    ),
    "unknown keys": ("".join(f"key_{n}: {n}\n" for n in range(20_000)), "20,003 errors in the configuration\n"),
    "more unknown keys": ("".join(f"key_{n}: {n}\n" for n in range(60_000)), MANY),
    "tasks": ("tasks:\n" + "- {name: a, source: hub}\n" * 8_000, "8,002 errors"),
    "more tasks": ("tasks:\n" + "- {name: a, source: hub}\n" * 20_000, MANY),
    "one value": (f"name: {'x' * 100_000}\nadapter: {{target_modules: a}}\ntasks: []\n", 'name: "xxx'),
    "one key": (f"? {'x' * 100_000}\n: 1\n", "4 errors"),
    "a long list": (f"train: [{'1, ' * 30_000}]\n", "train: [1, 1"),
    "a deep sequence": ("- " * 50_000 + "x", "nested too deeply"),
    "a deep mapping": ("{a: " * 20_000, "nested too deeply"),
    "a sexagesimal": (f"train: {{epochs: 1{':1' * 50_000}}}\n", "cannot be read as a number"),
    "a hexadecimal": (f"train: {{epochs: 0x{'f' * 5_000}}}\n", "cannot be read as a number"),
    "10^400": (f"train: {{epochs: 1{'0' * 390}}}\n", "train.epochs: a whole number of 1,296 bits; use one of"),
    "an alias": (f"a: *{'b' * 100_000}\n", "found undefined alias"),
    "a tag": (f"a: !{'b' * 50_000} 3\n", "not valid YAML"),
    "a regex": (
        f"adapter: {{target_modules: '{'(' * 2_000}a{')' * 2_000}'}}\n",
        "has 4,001 characters; use at most 1,000",
    ),
    "a deep regex": (f"adapter: {{target_modules: '{'(' * 490}a{')' * 490}'}}\n", "errors in the configuration"),
    "a pattern": (f"adapter: {{target_modules: a, rank_pattern: {{'{'a{99999999999}'}': 3}}}}\n", "is not a regex"),
    "a text": ("x" * (5 << 20), "has more than 4,194,304 characters"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_refused_soon_and_briefly(name: str, refused: Callable[..., str]) -> None:
    text, told = TOO_MUCH[name]
    began = time.process_time()
    message = refused(text)
    assert time.process_time() - began < 2 and len(message.encode()) <= 2_000 and told in message


@pytest.mark.parametrize(
    "override",
    [
        f"tasks.{'9' * 5_000}.name=x", f"name={'x' * 100_000}", f"{'x' * 100_000}=3", ".".join("a" * 50_000) + "=3",
        f"train={'[' * 5_000}", "train.epochs=" + "9" * 5_000, f"tasks.0.{'x' * 50_000}=1", "train.epochs=\x1b[2J",
        "tasks.0.name=\udcff",
    ],
)  # fmt: skip
def test_overrides_are_bounded_too(override: str, refused: Callable[..., str]) -> None:
    began = time.process_time()
    message = refused(BASE, override)
    assert time.process_time() - began < 2 and len(message) <= 2_000 and message.replace("\n", "").isprintable()


def test_a_configuration_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="expected a mapping of keys at the top, found nothing"):
        load_config(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="/dev/zero: has more than"):
        load_config(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="File name too long"):
        load_config(Path("x" * 5_000))
    reader, writer = os.pipe()
    os.write(writer, BASE.encode())
    os.close(writer)
    assert load_config(Path(f"/dev/fd/{reader}")).name == "stream"
    os.close(reader)
