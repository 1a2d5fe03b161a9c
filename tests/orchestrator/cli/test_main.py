"""What users type and see. Every failure is an exit code and one readable message; nothing here starts Ray."""

import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import GuardStop, IntegrityError, Interrupted, TrainingError
from cluster.storage import LocalStore
from orchestrator.cli.common import echo, print_json
from orchestrator.config.run import load_config
from orchestrator.run.controller import Controller
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track
from tests.support.command_line import HAS_MINILM, LAYER, Orthoplex, command
from tests.support.disks import Disk

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
        '  tasks.1.source: "file": use one of docstrings, cl_benchmark, files, hub, imported, superni, trace; '
        "did you mean 'files'?\n"
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
        ("{name: a, source: files, train: none.csv, test: none.csv}", [], "train 'none.csv' does not exist in '/"),
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
        2, "none/x.yaml: cannot be written: No such file or directory; make that folder, or choose another path",
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
    assert shown["trained_parameters"] == 2 * 8 * 384 + 8 + 1  # W1, W2, g, τ
    assert shown["most_kept_parameters"] == 2 * 8 * 384 + 8  # W1, W2, γ
    # 12 rows, one carved for validation: 11 rows are one batch of 32, three epochs
    assert shown["steps"] == [3, 3]
    assert [task["rows"] for task in shown["tasks"]] == [{"train": 11, "validation": 1, "test": 12}] * 2
    assert all(task["tokens"]["rows"] == task["tokens"]["measured"] == 24 for task in shown["tasks"])
    assert shown["tasks"][0]["example"]["tokens"][0] == "[CLS]"
    assert shown["objections"] == []
    # both splits of both tasks after each task, and the untrained model on the test splits
    assert shown["evaluation"] == {
        "passes": 10, "rows": 2 * 2 * 13 + 24, "trained_rows": 3 * 22, "generated_tokens": 0, "kept_answers": 0,
    }  # fmt: skip
    assert not (config.parent / "store").exists()
    code, out, err = orthoplex("plan", config)
    assert (code, err) == (0, "") and "stream: not begun; 2 workers, ZeRO-2" in out and "adapted layers: 1" in out
    assert "method: oa; earlier tasks are protected: outputs on earlier tasks by a penalty (f" in out
    assert "one per task: adapter.safetensors" in out
    joint = orthoplex("plan", config, "--set", "train.joint=true", "--set", "cluster.num_workers=1")[1]
    assert "not begun; 1 worker, ZeRO" in joint and "one for all tasks: adapter.safetensors" in joint
    rows = [line.split("│")[1:-1] for line in joint.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a", "pending", "2", "11", "1", "12", "·"], ["b", "pending", "2", "11", "1", "12", "·"],
        ["all tasks at once", "pending", "·", "22", "2", "24", "3"],
    ]  # fmt: skip
    assert "trainable parameters of all tasks at once: " in joint
    replay = orthoplex("plan", config, "--set", "train.replay.share=0.2")[1]
    (title,) = [line for line in replay.splitlines() if line.startswith("┃")]
    assert "".join(title.split()) == "┃task┃state┃labels┃train┃replayed┃validation┃test┃steps┃"
    assert [line.split("│")[5].strip() for line in replay.splitlines() if line.startswith("│")] == ["0", "2"]
    assert "evaluation: 10 passes over splits, 76 rows beside 66 trained rows; evaluate.tasks, every and" in out
    assert "kept answers" not in out
    assert out.count("over all 24 rows; 0 (0.0%) cut at max_length 128") == out.count("  as tokens: [CLS] | ") == 2


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
        + "Put the configuration and the data back, or begin anew under another `name`, without --fork\n"
    )


# --- run


def test_a_finished_run_says_so(orthoplex: Orthoplex, config: Path, begun: Any) -> None:
    begun.append("finish")
    entries = len(begun.track.entries())
    code, out, err = orthoplex("run", config)
    assert (code, err) == (0, "")
    assert "default/stream: 2 of 2 tasks are committed already\n" in out
    assert "finished before; nothing is left to do\n" in out and "default/stream: finished, 2 of 2 tasks\n" in out
    assert re.search(r"AA \(average accuracy, macro\) +65\.0 ±\d+\.\d points\n", out)  # (0.7 + 0.6) / 2
    assert f"orthoplex status default/stream --store {begun.root} --json" in out
    assert len(begun.track.entries()) == entries


def test_fewer_tasks_than_are_committed(orthoplex: Orthoplex, config: Path, begun: Any) -> None:
    begun.append("finish")
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, "tasks": content["tasks"][:1]}))
    code, out, err = orthoplex("run", config)
    assert "default/stream: 2 tasks, more than the 1 listed, are committed already\n" in out
    assert code == 2 and "tasks: had 2, now 1; tasks may only be appended" in err


def test_what_libraries_print_during_a_run_is_not_on_standard_output(
    orthoplex: Orthoplex, config: Path, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DeepSpeed's log of its accelerator, which goes to what is standard output when it is imported."""
    begun.append("finish")
    whole = Controller.run

    def run(self: Controller) -> RunState:
        print("[INFO] [real_accelerator.py] Setting ds_accelerator to cpu")
        return whole(self)

    monkeypatch.setattr(Controller, "run", run)
    code, out, err = orthoplex("run", config)
    assert code == 0 and "finished before; nothing is left to do" in out and "ds_accelerator" not in out
    assert err == "[INFO] [real_accelerator.py] Setting ds_accelerator to cpu\n"


def test_a_run_whose_driver_died_after_the_last_task(orthoplex: Orthoplex, config: Path, resumable: Any) -> None:
    code, out, err = orthoplex("run", config)
    assert (code, err) == (0, "") and resumable.state.status == "finished"
    assert re.search(r"^finished in \d+ s$", out, re.MULTILINE)


def test_a_guard_ends_with_3(
    refused: Callable[..., tuple[int, str]], orthoplex: Orthoplex, config: Path, resumable: Any
) -> None:
    code, _, err = orthoplex("run", config, "--set", "guards.max_forgetting=0.1")  # validation: 0.9 − 0.7 = 0.2
    assert code == 3
    assert "forgetting of 20.00 points is above guards.max_forgetting 0.1 (10.00 points)" in err
    assert err.count("\n") == 1
    assert resumable.state.status == "stopped"
    assert (
        "reason: stopped by a guard: forgetting of 20.00 points"
        in orthoplex("status", "stream", "--store", resumable.root).out
    )


def test_a_run_begun_otherwise(orthoplex: Orthoplex, config: Path, begun: Any) -> None:
    code, _, err = orthoplex("run", config, "--set", "adapter.threshold=0.25")
    assert code == 2 and "  adapter.threshold: was 0.2, is now 0.25\n" in err


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
        "│ (untrained)    │ 50.0       │  5.0       │",
        "│ a              │ 80.0 ±17.5 │ 25.0       │",  # of 20 rows: 12 to 19 right ones of Binomial(20, 0.8)
        "│ b              │ 70.0 ±20.0 │ 60.0 ±20.0 │",
        "  BWT (backward transfer)            -10.0 ±26.6 points\n",  # 0.7 − 0.8; √(0.175² + 0.2²)
        "  FWT (forward transfer)              20.0 ±",  # 0.25 − 0.05
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


def test_tables_are_never_cut_off(orthoplex: Orthoplex, fake_run: Callable[..., Any]) -> None:
    names = [f"a-task-with-a-long-name-{number}" for number in range(9)]
    run = fake_run(*names)
    run.commit([0.5] * 9)
    out = orthoplex("status", "stream", "--store", run.root).out
    assert "…" not in out and all(f" {name} " in out for name in names)


def test_explain(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("explain", "stream", "--store", begun.root, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out, parse_constant=pytest.fail)  # called for NaN and Infinity
    assert [part["task"] for part in shown] == ["a", "b"]
    assert shown[0]["training"]["loss"] == [0.5, None] and shown[0]["training"]["overlap"] == [None, 0.25]
    assert shown[0]["budget"]["layer.0.dense"] == {"rank": 3, "max_rank": 4, "tau": 0.5}
    code, out, err = orthoplex("explain", "stream", "--store", begun.root)
    assert (code, err) == (0, "")
    assert re.search(r"│ layer\.1\.dense │ 4 → 3 +│ 20 +│", out)


def test_explain_before_the_first_task(orthoplex: Orthoplex, fake_run: Callable[..., Any]) -> None:
    run = fake_run("a")
    assert orthoplex("explain", "stream", "--store", run.root) == (
        0, "default/stream: running; no task is committed yet, so no budget is chosen\n", "",
    )  # fmt: skip
    assert json.loads(orthoplex("explain", "stream", "--store", run.root, "--json").out) == []


# --- as other programs see it


@pytest.mark.parametrize("argv", [["status", "stream", "--json"], ["status", "stream"], ["adapters", "list"]])
def test_a_reader_that_leaves(begun: Any, argv: list[str]) -> None:
    child = command(*argv, "--store", begun.root)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert (child.stderr.read(), child.wait()) == (b"", 1)
    child.stderr.close()


def test_a_full_disk_behind_standard_output(begun: Any, disk: Disk) -> None:
    disk.fill()
    with (disk.path / "out").open("wb") as full:
        child = command("status", "stream", "--json", "--store", begun.root, stdout=full)
        _, err = child.communicate()
    said = b"orthoplex: cannot write a file; full now: standard output: No space left on device; free some space there"
    assert child.returncode == 1 and err.startswith(said) and err.count(b"\n") == 1


def test_a_terminal_that_knows_ascii_only(begun: Any) -> None:
    out, err = command("explain", "stream", "--store", begun.root, PYTHONIOENCODING="ascii").communicate()
    assert err == b"" and b"starting from \\u03c4\\u2080 = 0.2" in out
    out, err = command("run", b"\xff.yaml".decode(errors="surrogateescape")).communicate()
    assert (out, err.count(b"\n")) == (b"", 1) and b"no such file" in err


def test_the_track_reads_what_was_written(begun: Any) -> None:
    """The fixtures above are runs as the registry knows them."""
    track = Track(LocalStore(begun.root), "default", "stream")
    assert replay("default", "stream", track.entries()) == begun.state


def test_nothing_that_is_printed_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2J\x9b\u202eb\x7f"
    echo(evil)
    assert capsys.readouterr().out == "a\\x1b[2J\\x9b\\u202eb\\x7f\n"
    print_json({"a": evil, "b": ["ü τ"]})
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable() and json.loads(said) == {"a": evil, "b": ["ü τ"]}
