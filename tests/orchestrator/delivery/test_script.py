"""The `predict.py` of exported folders answers as `Predictor` does, in a process with transformers and peft alone."""

import json
import os
import runpy
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from cluster.errors import ConfigError
from cluster.storage import LocalStore
from orchestrator.delivery.asked import framed
from orchestrator.delivery.export import Format, export
from orchestrator.delivery.predictor import Predictor
from orchestrator.delivery.repertoire import version_of
from orchestrator.delivery.script import ROW, script
from orchestrator.track.state import RunState
from tests.support.tiny_models import save_tiny
from tests.support.tiny_tokenizers import KINDS, real
from tests.support.untrained_runs import WORDS, answered, classification, generative, labelled, run_of
from trainers.data.prompts import Prompt
from trainers.models.causal import Causal
from trainers.models.encoder import LabelEmbedding
from trainers.models.seq2seq import Seq2Seq
from trainers.models.words import seam

Run = tuple[RunState, Path]
READER = """
import contextlib, io, json, runpy, sys
sys.path.append(sys.argv[1])
for name in ("orthoplex", "orchestrator", "trainers", "cluster", "ray", "deepspeed", "datasets"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} can be imported")
found = []
for words in json.load(open(sys.argv[2])):
    sys.argv, said = words, io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(words[0], run_name="__main__")
    found.append([json.loads(line) for line in said.getvalue().splitlines()])
print(json.dumps(found))
"""

TURNS = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


class Case(NamedTuple):
    """A store's run, exported in a form: what a task's texts get."""

    folder: Path
    form: Format
    task: str
    texts: list[str]


def expected(case: Case, predictors: dict[Path, Predictor]) -> list[str | None]:
    predictor = predictors.setdefault(case.folder, Predictor("team/run", store=str(case.folder / "store")))
    if predictor.repertoire.tasks[case.task].generative:
        return [each.answer for each in predictor.generate(case.texts, task=case.task)]
    return [each.label for each in predictor.classify(case.texts, task=case.task)]


def said(cases: Sequence[Case], packages: Path, tmp_path: Path) -> list[list[str | None]]:
    """What the exported scripts say, all in one process."""
    asked = []
    for number, case in enumerate(cases):
        made = tmp_path / str(number)
        export(version_of(LocalStore(case.folder / "store"), "team/run"), case.form, made)
        asked.append([str(made / "predict.py"), "--task", case.task, *case.texts])
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-I", "-S", "-c", READER, str(packages), str(tmp_path / "asked.json")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    found: list[list[str | None]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_the_scripts_answer_as_the_predictor(
    labels_run: Run, texts_run: Run, tmp_path: Path, only_transformers_and_peft: Path
) -> None:
    """Encoders and language models; label words by likelihood and generated, and generated answers; long texts."""
    seq2seq, named = tmp_path / "seq2seq", tmp_path / "named"
    for folder in (seq2seq, named):
        folder.mkdir()
    (named / "turns.jinja").write_text(TURNS)
    chat = {"chat_template": str(named / "turns.jinja"), "system": "be brief", "decoding": {"beams": 2}}
    run_of(
        seq2seq, {"name": str(save_tiny("t5", seq2seq / "base")), "task_type": "SEQ_2_SEQ_LM", "max_length": 12},
        [classification(seq2seq, "a", WORDS[0]), generative(seq2seq, "qa", "prompt_completion", too_long="cut")],
        adapter={"target_modules": ["o", "wo"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0},
    )  # fmt: skip
    run_of(
        named,
        {"name": str(save_tiny("gpt2", named / "base")), "task_type": "CAUSAL_LM", "scoring": "generation",
         "prompt": "text : {text} answer :", "max_length": 40},
        [classification(named, "a", WORDS[0]), generative(named, "chat", "messages", **chat)],
        adapter={"target_modules": ["mlp.c_proj"], "max_rank": 4, "threshold": 0.0, "budget_weight": 0.0},
    )  # fmt: skip
    texts = [row["text"] for row in labelled(WORDS[0], 12, "new")] + [" ", "long words " * 40]
    prompts = [row["prompt"] for row in answered(5, "test")]
    cases = [
        Case(labels_run[1], "peft", "a", texts),
        Case(labels_run[1], "merged", "b", texts),
        Case(texts_run[1], "peft", "a", texts),
        Case(texts_run[1], "merged", "a", texts),
        Case(texts_run[1], "peft", "qa", prompts),
        Case(seq2seq, "peft", "a", texts),
        Case(seq2seq, "merged", "qa", ["number 3 is", "what is " * 9]),
        Case(named, "peft", "chat", ["test what is 3", "hello more more"]),
        Case(named, "merged", "a", texts),
    ]
    predictors: dict[Path, Predictor] = {}
    found = said(cases, only_transformers_and_peft, tmp_path)
    for case, each in zip(cases, found, strict=True):
        assert each == expected(case, predictors), case
    assert len({*found[0]}) > 2 and len({*found[2]}) > 2


TEXTS = ["the film was good", "a bad film", " very 5 stars " * 9, "yes no maybe very good " * 5]
PROMPTS = [Prompt(), Prompt("Review: ", "\nAnswer:"), Prompt("<s>Review: ", " Answer: ")]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_texts_are_those_of_training(kind: str) -> None:
    """Token by token, for tokenizers of all kinds, with and without what they add, prompts, and cut texts."""
    cut = 0
    for ending, prompt, family in product(("", "bos", "bos eos"), PROMPTS, (LabelEmbedding, Seq2Seq, Causal)):
        base, words = family(None, real(kind, ending), 40 if kind == "byt5" else 16, ""), ("positive", "negative")
        how = framed(base, prompt)
        try:
            how["dropped"] = seam(base.tokenizer, prompt, words).dropped if family is Causal else 0
            expected = base.tokenize(TEXTS, prompt, words)
        except ConfigError:  # the prompt takes all the room, or is joined with a label
            continue
        given: dict[str, Any] = {"tokenizer": base.tokenizer, "how": how, "bisect_right": bisect_right}
        exec(ROW, given)
        found = [given["row"](text.strip(), prompt.before, prompt.after) for text in TEXTS]
        assert found == [*map(list, base.tokenize([text.strip() for text in TEXTS], prompt, words))], (ending, prompt)
        cut += sum(len(ids) >= base.max_length - 3 for ids in expected)
    assert cut


WAYS = [("AutoModel", ["nearest"])]
WAYS += [(auto, kinds) for auto in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
         for kinds in (["likeliest"], ["named"], ["text"], ["likeliest", "text"], ["named", "text"])]  # fmt: skip


def test_every_script_is_short_and_has_no_line_without_use(tmp_path: Path) -> None:
    """All of them side by side: imports are used, names defined."""
    for number, (auto, kinds) in enumerate(WAYS):
        for merged in (True, False):
            for plain in (True, False):
                made = tmp_path / f"{number}-{merged}-{plain}"
                made.mkdir()
                text = script(kinds, auto=auto, dtype="float32", merged=merged, plain=plain)
                (made / "predict.py").write_text(text)
                lines = [line for line in text.splitlines() if line.strip()]
                assert len(lines) <= 86 and "\0" not in text and "$" not in text
                assert ("peft" in text) is not merged and max(map(len, lines)) <= 120
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F,E9", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    encoder = script(["nearest"], auto="AutoModel", dtype="float32", merged=False, plain=True)
    assert len([line for line in encoder.splitlines() if line.strip()]) <= 54


def test_a_text_that_is_no_utf8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(["nearest"], auto="AutoModel", dtype="float32", merged=True, plain=True)
    (tmp_path / "predict.py").write_text(text)
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": {"t": {"kind": "nearest"}}}))
    monkeypatch.setattr(sys, "argv", ["predict.py", "good", "b\udcff"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tmp_path / "predict.py"))
    assert ended.value.code == 2 and "'b\\udcff' is not UTF-8; repair it" in capsys.readouterr().err


def test_a_base_that_cannot_be_loaded_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(["nearest"], auto="AutoModel", dtype="float32", merged=False, plain=True)
    (tmp_path / "predict.py").write_text(text)
    told = {"base": "some/model", "revision": None, "tasks": {"t": {"kind": "nearest"}}}
    (tmp_path / "tasks.json").write_text(json.dumps(told))
    monkeypatch.setattr(sys, "argv", ["predict.py", "--base", str(tmp_path / "none"), "a text"])
    with torch.no_grad(), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tmp_path / "predict.py"))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"--base {str(tmp_path / 'none')!r} cannot be loaded; say where the base is" in said
    assert "is not on this machine: asking the hub, unless HF_HUB_OFFLINE=1" in said
