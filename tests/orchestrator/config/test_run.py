"""What users write: every error at once, each with its path, its value and the likely fix; no file gets a traceback."""

import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cluster.errors import ConfigError
from orchestrator.config.errors import key_paths
from orchestrator.config.run import RunConfig, load_config
from trainers.data.sources import ClBenchmarkTask, DocstringsTask, FilesTask, HubTask

ROOT = Path(__file__).parents[3]
TASK = "{name: a, source: docstrings, task: library}"
BASE = f"name: stream\nadapter: {{target_modules: [output.dense]}}\ntasks: [{TASK}]\n"
Load = Callable[..., RunConfig]


def tasks(*items: str) -> str:
    return f"name: stream\nadapter: {{target_modules: [output.dense]}}\ntasks: [{', '.join(items)}]\n"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str | bytes, *overrides: str) -> RunConfig:
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides)

    return load


@pytest.fixture
def refused(load: Load, tmp_path: Path) -> Callable[..., str]:
    """The message, without the folder of the file."""

    def refused(text: str | bytes, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        assert caught.value.exit_code == 2
        return str(caught.value).replace(f"{tmp_path}/", "")

    return refused


def lines(message: str) -> list[str]:
    """The errors listed in a message, whose heading counts them."""
    heading, *listed = message.split("\n")
    assert heading == f"c.yaml: {len(listed)} error{'s' if len(listed) > 1 else ''} in the configuration"
    assert all(line.startswith("  ") for line in listed)
    return [line[2:] for line in listed]


# --- what is accepted


def test_the_least_configuration(load: Load) -> None:
    config = load(BASE)
    assert (config.team, config.model.name, config.adapter.max_rank, config.deepspeed.zero_stage) == (
        "default", "minilm", 16, 2,
    )  # fmt: skip
    assert config.store == str(Path.cwd() / ".orthoplex/store")
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", [p.relative_to(ROOT) for p in ROOT.glob("configs/**/*.yaml") if "sweeps" not in p.parts]
)
def test_shipped_configurations_load(path: Path) -> None:
    load_config(ROOT / path)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train: {learning_rate: 1e-3}", "train.learning_rate", 0.001),  # a text in YAML 1.1
        ("train: {epochs: '3'}", "train.epochs", 3),
        ("train: {epochs: 3.0}", "train.epochs", 3),
        ("train: {learning_rate: 1}", "train.learning_rate", 1.0),
        ("cluster: {use_gpu: yes}", "cluster.use_gpu", True),
        ("guards: {max_forgetting: null}", "guards.max_forgetting", None),
        ("store: s3://bucket/prefix/", "store", "s3://bucket/prefix"),
        ("store: /a/b/../c", "store", "/a/c"),
        ('data_dir: "a b: c"', "data_dir", "a b: c"),
        ("team: 2024.a_b-c", "team", "2024.a_b-c"),
    ],
)
def test_values(load: Load, text: str, key: str, value: Any) -> None:
    found: Any = load(BASE + text)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_every_kind_of_task(load: Load) -> None:
    config = load(
        tasks(
            TASK,
            "{name: b, source: cl_benchmark, dataset: TC/agnews, max_train_rows: 5}",
            "{name: c, source: files, train: a.csv, test: b.jsonl, labels: [x, 'no']}",
            "{name: d, source: hub, dataset: ag_news, config_name: null}",
        )
    )
    assert [type(task) for task in config.tasks] == [DocstringsTask, ClBenchmarkTask, FilesTask, HubTask]


def test_encodings_and_merge_keys(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + BASE.encode()) == load(BASE)
    merged = load(tasks(f"&a {TASK}", "{<<: *a, name: b}", "{<<: [*a, {max_test_rows: 3}], name: c}"))
    assert [(task.name, task.source, task.max_test_rows) for task in merged.tasks] == [
        ("a", "docstrings", None), ("b", "docstrings", None), ("c", "docstrings", 3),
    ]  # fmt: skip


def test_data_folder(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORTHOPLEX_DATA_DIR", raising=False)
    assert load(BASE).data_folder is None
    monkeypatch.setenv("ORTHOPLEX_DATA_DIR", "~/elsewhere")
    assert load(BASE).data_folder == Path.home() / "elsewhere"
    assert load(BASE, "data_dir=/here").data_folder == Path("/here")
    with pytest.raises(ConfigError, match=r"data_dir: '~nobody-of-that-name/x': no such home folder"):
        _ = load(BASE, "data_dir=~nobody-of-that-name/x").data_folder


# --- what is refused: keys and values

WRONG = {
    "trian: {epochs: 3}": "trian: unknown key; did you mean 'train'?",
    "train: {epoch: 3}": "train.epoch: unknown key; did you mean 'epochs'?",
    "seed: 3": "seed: unknown key; did you mean 'train.seed'?",
    "energy: 0.5": "energy: unknown key; did you mean 'adapter.orthogonality.energy'?",
    "guards: {x: 1}": "guards.x: unknown key; known here: max_active_parameters, max_forgetting, min_average_accuracy",
    '"a\\e[31m": 1': '"a\\u001b[31m": unknown key; known here: adapter, cluster, data, data_dir, deepspeed, guards, '
    "model, name, store, tasks, team, tracking, train",
    "train: {epochs: yes}": "train.epochs: true: should be a whole number",
    "train: {learning_rate: false}": "train.learning_rate: false: should be a number",
    "guards: {max_forgetting: true}": "guards.max_forgetting: true: should be a number",
    "deepspeed: {zero_stage: true}": "deepspeed.zero_stage: true: use one of 0, 1, 2, 3",
    "deepspeed: {zero_stage: 4}": "deepspeed.zero_stage: 4: use one of 0, 1, 2, 3",
    "deepspeed: {zero_stage: '2'}": 'deepspeed.zero_stage: "2": use one of 0, 1, 2, 3',
    "train: {epochs: 1.5}": "train.epochs: 1.5: should be a whole number",
    "train: {epochs: abc}": 'train.epochs: "abc": should be a whole number',
    "train: {epochs: 0}": "train.epochs: 0: should be greater than 0",
    "train: {epochs: null}": "train.epochs: null: should be a whole number",
    "train: {learning_rate: .nan}": "train.learning_rate: NaN: should be a finite number",
    "train: {learning_rate: fast}": 'train.learning_rate: "fast": should be a number',
    "cluster: {use_gpu: 2}": "cluster.use_gpu: 2: should be true or false",
    "train: 3": "train: 3: should be a mapping of keys",
    "train:": "train: null: should be a mapping of keys",
    "train: [1]": "train: [1]: should be a mapping of keys",
    "model: {dtype: float16}": "model.dtype: \"float16\": use one of float32, bfloat16; did you mean 'bfloat16'?",
    "model: {name: 3}": "model.name: 3: should be a string; quote it",
    "model: {name: null}": "model.name: null: should be a string",
    "data_dir: {a: 1}": 'data_dir: {"a": 1}: should be a string',
    "team: Foo Bar": 'team: "Foo Bar": use a-z, 0-9 and . _ -, with a letter or digit first',
    "team: 2024-01-01": "team: 2024-01-01: should be a string; quote it",
    "store: gs://bucket/x": "store 'gs://bucket/x': use a path, file:///path, s3://bucket or s3://bucket/prefix",
    "store: ''": "store '': use a path, file:///path, s3://bucket or s3://bucket/prefix",
    f"train: {{epochs: {'x' * 500}}}": f'train.epochs: "{"x" * 58}…: should be a whole number',
    'train: {epochs: "a\\nb\\e[31m"}': 'train.epochs: "a\\nb\\u001b[31m": should be a whole number',
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_a_wrong_key_or_value(refused: Callable[..., str], text: str) -> None:
    assert lines(refused(BASE + text)) == [WRONG[text]]


WRONG_ADAPTERS = {
    "{}": "adapter.target_modules: required, but not given",
    "null": "adapter: null: should be a mapping of keys",
    "{target_modules: []}": "adapter.target_modules: name at least one module, for instance [output.dense]",
    "{target_modules: ['']}": "adapter.target_modules: name at least one module, for instance [output.dense]",
    "{target_modules: 3}": "adapter.target_modules: 3: should be list[str] or str",
    "{target_modules: [3, a]}": 'adapter.target_modules: [3, "a"]: should be list[str] or str',
    "{target_modules: {a: 1}}": 'adapter.target_modules: {"a": 1}: should be list[str] or str',
    "{target_modules: a, min_rank: 17}": "adapter: min_rank 17 is above max_rank 16; lower min_rank",
    "{target_modules: a, orthogonality: {side: botth}}": 'adapter.orthogonality.side: "botth": use one of output, '
    "input, both; did you mean 'both'?",
    "{target_modules: a, orthogonality: {energy: 1}}": "adapter.orthogonality.energy: 1: should be less than 1",
}


@pytest.mark.parametrize("value", WRONG_ADAPTERS)
def test_a_wrong_adapter(refused: Callable[..., str], value: str) -> None:
    assert lines(refused(BASE.replace("{target_modules: [output.dense]}", value))) == [WRONG_ADAPTERS[value]]


SOURCES = "docstrings, cl_benchmark, files, hub"
WRONG_TASKS = {
    "tasks: []": ["tasks: name at least one task"],
    "": ["tasks: required, but not given"],
    "tasks:": ["tasks: null: should be a list"],
    "tasks: hello": ['tasks: "hello": should be a list'],
    "tasks: {a: {source: hub}}": ['tasks: {"a": {"source": "hub"}}: should be a list'],
    "tasks: [hello, null]": [
        'tasks.0: "hello": should be a mapping of keys', "tasks.1: null: should be a mapping of keys",
    ],
    "tasks: [{name: a}]": [f"tasks.0.source: required, but not given; use one of {SOURCES}"],
    "tasks: [{name: a, source: docstring}]": [
        f"tasks.0.source: \"docstring\": use one of {SOURCES}; did you mean 'docstrings'?"
    ],
    "tasks: [{name: a, source: 3}]": [f"tasks.0.source: 3: use one of {SOURCES}"],
    "tasks: [{name: a, source: [hub]}]": [f'tasks.0.source: ["hub"]: use one of {SOURCES}'],
    f"tasks: [{TASK}, {{name: b, source: docstrings, task: libary}}]": [
        "tasks.1.task: \"libary\": use one of library, section, kind, area; did you mean 'library'?"
    ],
    "tasks: [{name: a, source: docstrings, taks: area}]": [
        "tasks.0.task: required, but not given; use one of library, section, kind, area",
        "tasks.0.taks: unknown key; did you mean 'task'?",
    ],
    "tasks: [{name: a, source: docstrings, task: area, dataset: x}]": [
        "tasks.0.dataset: unknown key; it belongs to source cl_benchmark or hub",
    ],
    "tasks: [{name: a, source: docstrings, task: area, max_train_rows: true}]": [
        "tasks.0.max_train_rows: true: should be a whole number"
    ],
    "tasks: [{name: a, source: files, train: a.txt, test: 3, labels: hi}]": [
        'tasks.0.labels: "hi": should be a list',
        "tasks.0.train: 'a.txt' ends in '.txt'; use one of .jsonl, .json, .csv, .parquet",
        "tasks.0.test: 3: should be a path",
    ],
    "tasks: [{name: a, source: files, train: a.csv, test: b.csv, labels: [x, no]}]": [
        "tasks.0.labels.1: false: should be a string; quote it"
    ],
    "tasks: [{name: Foo Bar, source: docstrings, task: area}]": [
        'tasks.0.name: "Foo Bar": use a-z, 0-9 and . _ -, with a letter or digit first'
    ],
    f"tasks: [{TASK}, {TASK}]": ["tasks: task names must differ; repeated: a"],
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_TASKS)
def test_wrong_tasks(refused: Callable[..., str], text: str) -> None:
    assert lines(refused(f"name: stream\nadapter: {{target_modules: a}}\n{text}\n")) == WRONG_TASKS[text]


def test_all_errors_at_once(refused: Callable[..., str]) -> None:
    message = refused(
        "name: Foo\nadapter: {max_rank: 0}\ntrain: {epochs: yes, sede: 1}\nstore: ''\n"
        "tasks: [{name: a}, {source: hub}]\n"
    )
    assert sorted(line.partition(":")[0] for line in lines(message)) == [
        "adapter.max_rank", "adapter.target_modules", "name", "store ''", "tasks.0.source", "tasks.1.dataset",
        "tasks.1.name", "train.epochs", "train.sede",
    ]  # fmt: skip


def test_a_long_list_stays_a_line_an_error(refused: Callable[..., str]) -> None:
    unknown = "".join(f"key_{number}: {number}\n" for number in range(60))
    assert [line.partition(":")[0] for line in lines(refused(BASE + unknown))] == [f"key_{n}" for n in range(60)]


def test_a_password_is_not_repeated(refused: Callable[..., str]) -> None:
    message = refused(BASE + "store: s3://AKIA123:hunter2@bucket/x")
    assert "hunter2" not in message and "AKIA123" not in message
    assert lines(message) == ["store: a URI with '@' may hold a password and is refused; give AWS_PROFILE instead"]


# --- what is refused: files

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
    f"a: {'9' * 5000}\n": "line 1, column 4: \"9999",
    "a: !!bool maybe\n": 'line 1, column 4: "maybe" cannot be read',
    "a: !!timestamp never\n": 'line 1, column 4: "never" cannot be read',
    "a: b\0c\n": "unacceptable character #x0000",
    f"a: {'[' * 3000}{']' * 3000}\n": "nested too deeply",
}  # fmt: skip


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


# --- overrides


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


# --- the template of `orthoplex init`

TEMPLATE = files("orchestrator").joinpath("templates/config.yaml").read_text("utf-8")


def test_the_template_is_valid_as_it_is(load: Load) -> None:
    config = load(TEMPLATE)
    assert {task.source for task in config.tasks} == {"docstrings"}
    assert [task.name for task in config.tasks] == ["library", "section", "kind", "area"]


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_template_shows_every_key(load: Load) -> None:
    written = dict(leaves(yaml.safe_load(TEMPLATE)))
    sections = {path.rpartition(".")[0] for path in key_paths(RunConfig)} - {""}
    of_lora = {f"adapter.{key}" for key in ("rank", "alpha", "dropout", "mode")}
    assert set(written) == set(key_paths(RunConfig)) - sections - of_lora
    commented = re.sub(r"^  # (?=- name| )", "  ", TEMPLATE, flags=re.MULTILINE)
    config = load(commented)
    assert [task.source for task in config.tasks] == ["docstrings"] * 4 + ["cl_benchmark", "files", "hub"]
    limits = {"instruction", "max_train_rows", "max_test_rows", "resources"}  # shown once
    for task in config.tasks[4:]:
        assert type(task).model_fields.keys() - limits <= task.model_fields_set
    assert limits <= config.tasks[4].model_fields_set


def test_the_template_shows_the_defaults(load: Load) -> None:
    """A value is the default, or its line names the default, or says that there is none."""
    required = {"name": "x", "adapter": {"target_modules": "x"}, "tasks": [yaml.safe_load(TASK)]}
    defaults = dict(leaves(RunConfig.model_validate(required).model_dump(mode="json")))
    no_default = {"name", "adapter.target_modules", "tasks"}
    section: dict[int, str] = {}
    for line in TEMPLATE.splitlines():
        match = re.match(r"( *)(\w+):( \S+)?.*?(\(default (.+)\))?$", line)
        if not match or line.lstrip().startswith("#"):
            continue
        section[len(match[1])] = match[2]
        path = ".".join(section[depth] for depth in sorted(section) if depth <= len(match[1]))
        assert ("(no default)" in line) == (path in no_default), line
        if path in defaults and path not in no_default | {"store"}:
            value = yaml.safe_load(match[5] or line)
            assert (value if match[5] else value[match[2]]) == defaults[path], line
