"""Every error is listed at once, each with its path, its value and the likely fix."""

import re
from collections.abc import Callable

import pytest

from tests.support.configurations import BASE, TASK, Load, lines

WRONG = {
    "trian: {epochs: 3}": "trian: unknown key; did you mean 'train'?",
    "train: {epoch: 3}": "train.epoch: unknown key; did you mean 'epochs'?",
    "seed: 3": "seed: unknown key; did you mean 'train.seed'?",
    "energy: 0.5": "energy: unknown key; did you mean 'adapter.orthogonality.energy' or 'adapter.energy'?",
    "guards: {x: 1}": "guards.x: unknown key; known here: confidence, max_active_parameters, max_cost, "
    "max_forgetting, max_nll_increase, max_task_forgetting, max_task_parameters, min_average_accuracy, "
    "min_capacity_left, min_new_accuracy",
    '"a\\e[31m": 1': '"a\\u001b[31m": unknown key; known here: adapter, cluster, cost, data, data_dir, deepspeed, '
    "evaluate, guards, model, name, store, tasks, team, tracking, train",
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
    "null": "adapter: null: should be a mapping of keys, with the key target_modules",
    "{target_modules: []}": "adapter.target_modules: name at least one module, for instance [output.dense]",
    "{target_modules: ['']}": "adapter.target_modules: name at least one module, for instance [output.dense]",
    "{target_modules: 3}": "adapter.target_modules: 3: should be a list of strings or a string",
    "{target_modules: [3, a]}": 'adapter.target_modules: [3, "a"]: should be a list of strings or a string',
    "{target_modules: {a: 1}}": 'adapter.target_modules: {"a": 1}: should be a list of strings or a string',
    "{target_modules: '('}": "adapter.target_modules: '(' is not a regex: missing ), unterminated subpattern at "
    "position 0",
    "{target_modules: a, min_rank: 17}": "adapter: min_rank 17 is above max_rank 8; lower min_rank",
    "{target_modules: a, orthogonality: {side: botth}}": 'adapter.orthogonality.side: "botth": use one of output, '
    "input, both, none; did you mean 'both'?",
    "{target_modules: a, orthogonality: {energy: 1}}": "adapter.orthogonality.energy: 1: should be less than 1",
}


@pytest.mark.parametrize("value", WRONG_ADAPTERS)
def test_a_wrong_adapter(refused: Callable[..., str], value: str) -> None:
    assert lines(refused(BASE.replace("{target_modules: [output.dense]}", value))) == [WRONG_ADAPTERS[value]]


SOURCES = "docstrings, cl_benchmark, files, hub, imported, superni, trace"


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
        'tasks.0.labels: "hi": should be a list: ["hi"]',
        "tasks.0.train: 'a.txt' ends in '.txt'; use a folder, or one of .jsonl, .json, .csv, .tsv, .parquet",
        "tasks.0.test: 3: should be a path, or a list of paths",
    ],
    "tasks: [{name: a, source: files, train: a.csv, test: b.csv, labels: [x, no]}]": [
        "tasks.0.labels.1: false: should be a string; quote it"
    ],
    "tasks: [{name: a, source: files, train: a.csv, test: b.csv, fromat: messages}]": [
        "tasks.0.fromat: unknown key; did you mean 'format'?"
    ],
    "tasks: [{name: a, source: files, train: a.csv, test: b.csv, zzz: 1}]": [
        "tasks.0.zzz: unknown key; known here: classes, format, instruction, label_column, labels, max_length, "
        "max_test_rows, max_train_rows, name, resources, source, test, test_share, text_column, train, training, "
        "validation",
    ],
    "tasks: [{name: Foo Bar, source: docstrings, task: area}]": [
        'tasks.0.name: "Foo Bar": use a-z, 0-9 and . _ -, with a letter or digit first'
    ],
    "tasks: [{name: a, source: docstrings, task: area, training: {epoch: 2, weight_decay: 1, zzz: 1}}]": [
        "tasks.0.training.epoch: unknown key; did you mean 'epochs'?",
        "tasks.0.training.weight_decay: unknown key; did you mean 'train.weight_decay'?",
        "tasks.0.training.zzz: unknown key; known here: batch_size, epochs, learning_rate, max_steps, min_steps",
    ],
    "tasks: [{name: a, source: docstrings, task: area, training: {epochs: 0, learning_rate: fast, max_steps: yes}}]": [
        "tasks.0.training.epochs: 0: should be greater than 0",
        'tasks.0.training.learning_rate: "fast": should be a number',
        "tasks.0.training.max_steps: true: should be a whole number",
    ],
    "tasks: [{name: a, source: docstrings, task: area, training: {min_steps: 9, max_steps: 8}}]": [
        "tasks.0.training: min_steps 9 is above max_steps 8; lower min_steps, or raise max_steps"
    ],
    "train: {min_steps: 9}\ntasks: [{name: a, source: docstrings, task: area, training: {max_steps: 8}}]": [
        "tasks.0.training: min_steps 9 of `train` is above max_steps 8; lower min_steps, "
        "or raise max_steps"
    ],
    "train: {replay: 0.1}\ntasks: [{name: a, source: docstrings, task: area}]": [
        "train.replay: 0.1: should be a mapping of keys; write {share: 0.1}"
    ],
    "train: {replay: 3}\ntasks: [{name: a, source: docstrings, task: area}]": [
        "train.replay: 3: should be a mapping of keys, with the key share"
    ],
    "train: {joint: true}\ntasks: [{name: a, source: docstrings, task: area}]": [
        "train.joint: one task has nothing to be joined with; remove train.joint, or add a task"
    ],
    "tasks: [{name: a, source: docstrings, task: area, training: 3, max_length: 2}]": [
        "tasks.0.max_length: 2: should be greater than or equal to 4",
        "tasks.0.training: 3: should be a mapping of keys",
    ],
    "tasks: [{name: a, source: docstrings, task: area, epochs: 3}]": [
        "tasks.0.epochs: unknown key; did you mean 'tasks.0.training.epochs'?"
    ],
    "tasks: [{name: a, source: files, train: {epochs: 3}, test: b.csv}]": [
        "tasks.0: train is a file; what a task has in place of the run's `train` stands under `training`"
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


def test_of_a_long_list_what_fits_is_listed(refused: Callable[..., str]) -> None:
    unknown = "".join(f"key_{number}: {number}\n" for number in range(60))
    heading, *listed, last = refused(BASE + unknown).split("\n")
    assert heading == "c.yaml: 60 errors in the configuration" and len(listed) > 10
    assert [line.strip().partition(":")[0] for line in listed] == [f"key_{n}" for n in range(len(listed))]
    assert last == f"  and {60 - len(listed)} more; correct these first"


def test_a_password_is_not_repeated(refused: Callable[..., str]) -> None:
    message = refused(BASE + "store: s3://AKIA123:hunter2@bucket/x")
    assert "hunter2" not in message and "AKIA123" not in message
    assert lines(message) == ["store: a URI with '@' may hold a password and is refused; give AWS_PROFILE instead"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tracking", "{mlflow: 'http://me:hunter2@host'}"), ("tracking", "{mlflow: 'https://hunter2@host/x?y=@'}"),
        ("tracking", "{jsonl: 's3://hunter2@host/f'}"), ("model", "{name: 'https://me:hunter2@host/base'}"),
        ("data_dir", "'https://hunter2@host'"), ("cluster", "{address: 'ray://me:hunter2@host:1'}"),
        ("store", "'http://me:hunter2@host'"),
    ],
)  # fmt: skip
def test_a_user_in_a_url_is_neither_stored_nor_repeated(refused: Callable[..., str], key: str, value: str) -> None:
    message = refused(BASE + f"{key}: {value}")
    assert "hunter2" not in message and f"  {key}" in message


def test_a_url_without_a_user_stays(load: Load) -> None:
    assert load(BASE + "tracking: {mlflow: 'http://host/a@b'}").tracking.mlflow == "http://host/a@b"


def test_no_message_has_types_of_the_language(refused: Callable[..., str]) -> None:
    for value in ("3", "{a: 1}", "[[1]]", "null", "2024-01-01", "[null]", "true"):
        for key in (
            "adapter", "train", "tasks", "cluster", "model", "guards", "data", "tracking", "evaluate", "deepspeed",
            "name",
            "store", "adapter: {rank_pattern", "adapter: {target_modules", "cluster: {num_workers", "train: {replay",
            "adapter: {method: osft, target_modules: a, effective_rank", "tasks: [{name: a, source: files, train",
        ):  # fmt: skip
            closing = "}" * key.count("{") + "]" * key.count("[")
            without = "\n".join(line for line in BASE.splitlines() if not line.startswith(key.partition(":")[0]))
            message = refused(f"{without}\n{key}: {value}{closing}\ntrian: 1\n")
            assert not re.search(r"\b(str|int|float|dict|list\[|tuple|NoneType|bool|Annotated|Mapping)\b", message), (
                message
            )
