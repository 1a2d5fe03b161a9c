"""What users and others give, made odd: configurations, data, bases, and what lies in a store."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file

from cluster.storage import FileRecord, LocalStore, download_files
from orchestrator.config.file import override, read_mapping
from orchestrator.config.run import parse_config
from tests.fuzz.harness import Case
from tests.support.tiny_models import save_tiny, tiny
from trainers.config import ModelConfig
from trainers.data.cleaning import DataConfig
from trainers.data.generative.config import AnyTask
from trainers.data.generative.preparing import prepare_task
from trainers.data.tasks import load_task
from trainers.models.loading import check_model, load_reader

Json = Any
ODD: tuple[Json, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, -(2**70), 10**400, 1e308, -0.0, float("nan"), float("inf"), "", "x",
    "\0", "\x1b[2J",
    "\x9b31m", "\u202e", "\ud800", "x" * 3_000, "~nosuchuser/x", "../" * 600, "(a*)*b", "[" * 200,
    "http://a:hunter2@b/c", [],
    {}, [None], {"": 1}, {"a": {"b": {"c": []}}}, [[[]]] * 3, "2024-99-99", b"\xff", "s3://x/y", "/dev/zero",
    "9" * 5_000,
)  # fmt: skip
TASKS: tuple[Json, ...] = (
    {"name": "a", "source": "docstrings", "task": "library"},
    {"name": "b", "source": "files", "train": "a.csv", "test": "b.csv", "labels": ["x", "y"]},
    {"name": "c", "source": "files", "format": "messages", "train": "a.jsonl", "test": "b.jsonl",
    "decoding": {"stop": ["\n"]}},
    {"name": "d", "source": "superni", "path": "task1", "training": {"epochs": 2}},
)  # fmt: skip
RUN: Json = {
    "name": "stream", "store": "s3://bucket/x", "model": {"name": "docs-lm", "task_type": "CAUSAL_LM",
    "max_length": 64},
    "adapter": {"target_modules": ["q_proj"], "rank_pattern": {"a": 3}, "orthogonality": {"side": "both"}},
    "train": {"epochs": 2, "learning_rate": 0.001}, "guards": {"max_forgetting": 0.1},
    "evaluate": {"tasks": "seen", "every": 2}, "tracking": {"mlflow": "http://host"}, "cluster": {"num_workers": 2},
    "tasks": [*TASKS],
}  # fmt: skip


def configurations(draw: random.Random, folder: Path) -> Iterator[Case]:
    """YAML with odd keys and values, cut and joined lines, and odd overrides. No message holds a password."""
    path = folder / "c.yaml"
    while True:
        content = odd(RUN, draw, draw.choice([0.0, 0.003, 0.01, 0.06]))
        text = yaml.safe_dump(jsonable(content), allow_unicode=draw.random() < 0.5, sort_keys=False)
        if draw.random() < 0.2:
            text = scrambled(text, draw)
        assignments = [f"{draw.choice(KEYS)}={draw.choice(TEXTS)}" for _ in range(draw.randrange(3))]

        def work(text: str = text, assignments: list[str] = assignments) -> None:
            path.write_text(text, "utf-8", errors="surrogateescape" if draw.random() < 0.1 else "replace")
            found = read_mapping(path)
            for each in assignments:
                override(found, each)
            config = parse_config(found, str(path))
            assert "hunter2" not in config.model_dump_json(), "a password would be stored"

        yield Case(f"configuration: {text[:3_000]} {str(assignments)[:500]}", silent(work, "hunter2"))


def silent(work: Callable[[], object], secret: str) -> Callable[[], object]:
    """The work, whose errors may not quote a secret."""

    def watched() -> object:
        try:
            return work()
        except Exception as error:
            assert secret not in str(error), "the secret is quoted"
            raise

    return watched


KEYS = (
    "name", "tasks.0.name", "tasks.99.name", f"tasks.{'9' * 5_000}.name", "train", "train.epochs", "a.b.c.d", "tasks",
    ".".join("a" * 300), "adapter.target_modules", "model.name", "store", "\x1b[2J", "x" * 3_000, "tracking.mlflow",
)  # fmt: skip
TEXTS = (
    "1", "[", "{a: *b}", "9" * 5_000, "x" * 3_000, "\x1b[2J", "null", "[a, b]", "http://a:hunter2@b", "1e999",
    "0x" + "f" * 600,
    "1:1:1", "!!binary x", "!!python/name:os.system", "&a [*a]", "\udcff", "2024-99-99", "- - - -", "'", "(a*)*b",
)  # fmt: skip


def odd(value: Json, draw: random.Random, chance: float = 0.06) -> Json:
    """A copy in which values are odd, and keys renamed, removed or added."""
    if draw.random() < chance:
        return draw.choice(ODD)
    if isinstance(value, dict):
        made = {key: odd(inner, draw, chance) for key, inner in value.items() if draw.random() > chance / 4}
        if draw.random() < chance:
            made[draw.choice(["x", "x" * 3_000, "nmae", "\x1b[2J", "", "task"])] = draw.choice(ODD)
        return made
    if isinstance(value, list):
        return [odd(inner, draw, chance) for inner in value] * (
            draw.choice([1, 1, 1, 1, 0, 300]) if draw.random() < chance else 1
        )
    return value


def jsonable(value: Json) -> Json:
    """What YAML can write of it."""
    if isinstance(value, dict):
        return {key: jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def scrambled(text: str, draw: random.Random) -> str:
    """A text with lines or characters removed, doubled or replaced."""
    parts = text.splitlines(keepends=True) if draw.random() < 0.5 else list(text)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(parts))
        parts[at] = draw.choice(
            ["", parts[at] * 2, "\t", "- ", "&a ", "*a ", "? ", "{", "]", "!x ", "\0", "\x85", "'", "<<: "]
        )
    return "".join(parts)


# ---------------------------------------------------------------- data

ROWS = [
    {"text": f"text {i}", "label": "ab"[i % 2], "prompt": f"q{i}", "completion": f"a{i}", "messages": [
        {"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"},
    ]}
    for i in range(12)
]  # fmt: skip
READERS: tuple[Json, ...] = (
    {},
    {"format": "prompt_completion"},
    {"format": "messages"},
    {"format": "text"},
    {"labels": ["a", "b"]},
)


def data(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Files of every form with odd rows and bytes, and places that are no files."""
    test = folder / "good.jsonl"
    others = [dict(row) for row in ROWS]
    for i, row in enumerate(others):
        asked = {"role": "user", "content": f"v{i}"}
        row |= {"text": f"u{i}", "prompt": f"v{i}", "messages": [asked, ROWS[i]["messages"][1]]}
    test.write_text("".join(json.dumps(row) + "\n" for row in others))
    while True:
        suffix = draw.choice([".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"])
        path = folder / f"train{suffix}"
        path.unlink(missing_ok=True)
        says = written(path, draw) if draw.random() < 0.9 else no_file(path, draw)
        places = (
            {"train": str(path), "test": str(test)} if draw.random() < 0.8 else {"train": str(test), "test": str(path)}
        )
        given = {"name": "t", "source": "files", **places, **draw.choice(READERS)}

        def work(given: Json = given) -> None:
            task: Any = TypeAdapter(AnyTask).validate_python(given)
            prepare: Callable[..., Any] = prepare_task if "format" in given else load_task
            prepare(task, DataConfig(), None, 0)

        yield Case(f"{path.name} as {given.get('format')}: {says}", work)


def written(path: Path, draw: random.Random) -> str:
    """Writes odd rows; returns what they are."""
    chance = draw.choice([0.0, 0.002, 0.02])
    rows = [odd(row, draw, chance) for row in ROWS]
    if path.suffix == ".parquet":
        columns = {name: [row[name] for row in ROWS] for name in draw.sample(sorted(ROWS[0]), draw.randrange(1, 6))}
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        path.write_text("text,label,prompt\n" + "".join(f"{i},{'ab'[i % 2]},q{i}\n" for i in range(12)))
    else:
        texts = [json.dumps(row, default=str) for row in rows]
        path.write_text("\n".join(texts) if path.suffix != ".json" else f"[{','.join(texts)}]")
    if draw.random() < 0.5:
        return changed(path, draw)
    return f"{rows!r}"[:2_000]


def changed(path: Path, draw: random.Random) -> str:
    """Changes bytes of a file; returns how."""
    content = bytearray(path.read_bytes())
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(content) + 1)
        content[at : at + draw.randrange(5)] = draw.choice(
            [
                b"",
                b"\0",
                b"\xe9",
                b"\xff\xfe",
                b"[" * 3_000,
                b"null",
                b"{",
                b'"',
                b"9" * 5_000,
                b"\n",
                b"\x1b[2J",
                draw.randbytes(6),
            ]
        )
    if draw.random() < 0.2:
        content = content[: draw.randrange(len(content) + 1)]
    path.write_bytes(content)
    return f"bytes {bytes(content[:1_000])!r}"


def no_file(path: Path, draw: random.Random) -> str:
    """Puts something else than a file at a path; returns what."""
    kind = draw.choice(["pipe", "zero", "self", "folder", "absent", "empty"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind in ("zero", "self"):
        path.symlink_to("/dev/zero" if kind == "zero" else path.name)
    elif kind == "empty":
        path.touch()
    return kind


# ---------------------------------------------------------------- bases


def bases(draw: random.Random, folder: Path) -> Iterator[Case]:
    """A base with odd values in its JSON files, and changed, cut or absent files."""
    sound, base = folder / "sound", folder / "base"
    save_tiny("llama", sound)
    base.mkdir()
    files = {path.name: path.read_bytes() for path in sound.iterdir()}
    config = ModelConfig.model_validate({"name": str(base), "task_type": "CAUSAL_LM", "max_length": 32})
    while True:
        for path in base.iterdir():
            path.unlink()
        for name, content in files.items():
            (base / name).write_bytes(content)
        says = damage_base(base, draw)
        yield Case(f"base: {says}", lambda: load_reader(config, check_model(config)))


def damage_base(base: Path, draw: random.Random) -> str:
    """Changes one file of a base; returns what was done."""
    path = draw.choice(sorted(base.iterdir()))
    if path.suffix == ".json" and draw.random() < 0.7:
        content = odd(json.loads(path.read_text()), draw, 0.08 if path.name != "tokenizer.json" else 0.002)
        path.write_text(json.dumps(content, default=str))
        return f"{path.name}: {str(content)[:2_000]}"
    if draw.random() < 0.2:
        path.unlink()
        return f"{path.name}: {no_file(path, draw)}"
    if draw.random() < 0.1:
        for each in base.glob("model*"):
            each.unlink()
        if draw.random() < 0.5:
            torch.save(tiny("llama").state_dict(), base / "pytorch_model.bin")
            return f"pytorch_model.bin: {changed(base / 'pytorch_model.bin', draw)}"
        save_file({"x": torch.ones(2)}, base / "model.safetensors")
        return "other weights"
    return f"{path.name}: {changed(path, draw)}"


# ---------------------------------------------------------------- stores


def places(draw: random.Random, folder: Path) -> Iterator[Case]:
    """A store in which files were replaced by pipes, links and devices, cut, or grown: what is got is what was put."""
    while True:
        root = folder / f"s{draw.getrandbits(64):x}"
        store, content = LocalStore(root), draw.randbytes(draw.randrange(1, 40))
        store.put("t/a/x", content)
        record = FileRecord("x", len(content), __import__("hashlib").sha256(content).hexdigest())
        path = root / "t/a/x"
        says = "grown" if draw.random() < 0.3 else "cut" if draw.random() < 0.2 else ""
        if says:
            os.truncate(path, 20 << 30 if says == "grown" else draw.randrange(len(content)))
        else:
            path.unlink()
            says = no_file(path, draw)

        def work(store: LocalStore = store, record: FileRecord = record, root: Path = root) -> None:
            download_files(store, "t/a", [record], root / "out")
            raise AssertionError("a changed file was taken")

        yield Case(f"store: {says}", work)
        yield Case(f"store: put over {says}", lambda store=store: store.put("t/a/x", b"new"))
        yield Case("store: listed", lambda store=store: store.list(""))
