"""A predictor gives what the run's own evaluation gave, of the same rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import ConfigError, DataError, IntegrityError
from orchestrator.delivery.evaluating import evaluate_files
from orchestrator.delivery.predictor import Predictor
from orchestrator.registry.samples import samples
from orchestrator.track.state import RunState
from orchestrator.track.track import Track
from tests.support.tiny_models import save_encoder, save_tiny
from tests.support.untrained_runs import WORDS, answered, classification, generative, labelled, run_of, spoken
from trainers.models.loading import load_backbone

Run = tuple[RunState, Path]
GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def labels(labels_run: Run) -> Predictor:
    return Predictor("team/run", store=str(labels_run[1] / "store"))


def test_labels_are_those_of_the_runs_own_evaluation(labels: Predictor, labels_run: Run) -> None:
    """Every task's test split, by all versions."""
    state, folder = labels_run
    assert labels.reference == "team/run@v2" and labels.tasks == ("a", "b")
    for version, tasks in ((1, "a"), (2, "ab")):
        predictor = labels if version == 2 else Predictor("team/run@v1", store=str(folder / "store"))
        for index, task in enumerate(tasks):
            rows = labelled(WORDS[index], 23, "test")
            found = predictor.classify([row["text"] for row in rows], task=task)
            right = sum(each.label == row["label"] for each, row in zip(found, rows, strict=True))
            score = state.commits[version - 1].test[index]
            assert len({each.label for each in found}) > 1
            assert (right, len(rows)) == (score.correct, score.rows)
            for each in found:
                assert sum(each.scores.values()) == pytest.approx(1) and set(each.scores) == set(WORDS[index])
                assert each.probability == max(each.scores.values()) == each.scores[str(each.label)]


@pytest.mark.slow
def test_an_adapter_per_task_and_an_encoder_decoder(tmp_path: Path) -> None:
    """LoRA per task answers each task with its own; labels that are generated, and answers of a T5."""
    base = save_tiny("t5", tmp_path / "base")
    tasks = [
        classification(tmp_path, "a", WORDS[0]),
        classification(tmp_path, "b", WORDS[0]),
        generative(tmp_path, "qa", "prompt_completion", metrics=["edit_similarity"], too_long="cut"),
    ]
    model = {"name": str(base), "task_type": "SEQ_2_SEQ_LM", "max_length": 12, "prompt": "{text} is"}
    adapter = {"method": "lora", "mode": "per_task", "target_modules": ["q", "v", "wo"], "rank": 4}
    state = run_of(tmp_path, model, tasks, adapter=adapter)
    predictor = Predictor("team/run@v3", store=str(tmp_path / "store"))
    for index, task in enumerate(predictor.tasks):
        (path,) = tmp_path.glob(f"{task}-test.*")
        made, score = evaluate_files(predictor, [path], task=task), state.commits[-1].test[index]
        assert made.rows == score.rows and made.interval == pytest.approx(score.bounds())
    texts = [row["text"] for row in labelled(WORDS[0], 12, "new")]
    assert predictor.classify(texts, task="a") != predictor.classify(texts, task="b")
    with pytest.raises(ConfigError, match="name the one that is asked"):
        predictor.classify(texts)


def test_labels_that_are_generated(tmp_path: Path) -> None:
    """A label that is no word of the task is none, but its probabilities are there."""
    model = {
        "name": str(save_tiny("llama", tmp_path / "base")), "task_type": "CAUSAL_LM", "scoring": "generation",
        "prompt": "{text} :",
    }  # fmt: skip
    adapter = {"target_modules": ["o_proj"], "max_rank": 4, "threshold": 0.0}
    state = run_of(tmp_path, model, [classification(tmp_path, "a", WORDS[0])], adapter=adapter)
    predictor = Predictor("team/run", store=str(tmp_path / "store"))
    made = evaluate_files(predictor, [tmp_path / "a-test.csv"])
    score = state.commits[0].test[0]
    assert (made.metrics["accuracy"] * made.rows, made.rows) == (score.correct, score.rows)
    (found,) = predictor.classify(["test"])
    assert found.label is None and found.probability is None and sum(found.scores.values()) == pytest.approx(1)
    assert sum(row[-1] for row in made.confusion) > 0


def test_label_words_are_the_bases(labels: Predictor, labels_run: Run) -> None:
    """The adapted model would give them other vectors, and other answers."""
    alone = load_backbone(labels_run[0].completed().model)
    held = labels._classifiers["a"].labels
    assert torch.equal(held, alone.encode_labels(sorted(WORDS[0])))  # type: ignore[arg-type]
    assert not torch.allclose(held, labels.base.encode_labels(sorted(WORDS[0])), atol=1e-2)  # type: ignore[arg-type]


def test_a_store_of_an_older_orthoplex_answers_as_it_did(tmp_path: Path) -> None:
    """Recorded adapters, trained over Ray; the scores stand in the log."""
    shutil.copytree(GOLDEN / "store", tmp_path / "store")
    predictor = Predictor("golden/stream@v2", store=str(tmp_path / "store"), say=lambda _: None)
    commit = predictor.repertoire.version.commit
    for index, task in enumerate(predictor.tasks):
        found = evaluate_files(predictor, [GOLDEN / f"data/{task}-test.csv"], task=task)
        assert round(found.metrics["accuracy"] * found.rows) == commit.test[index].correct
        assert found.rows == commit.test[index].rows


def test_the_order_of_texts_and_their_number_do_not_matter(labels: Predictor) -> None:
    rows = [row["text"] for row in labelled(WORDS[0], 11, "new")]
    found = labels.classify(["", *rows, "  "], task="a")
    assert (found[0].label, found[-1].label, found[0].scores) == (None, None, {})
    told: list[int] = []
    backwards = labels.classify(rows[::-1], task="a", told=told.append)
    assert [each.label for each in backwards] == [each.label for each in found[-2:0:-1]] and sum(told) == 11
    assert labels.classify([], task="a") == []


def test_the_union_of_labels(labels: Predictor) -> None:
    (found,) = labels.classify(["test 1 hot end"], union=True)
    assert list(found.scores) == [*sorted(WORDS[0]), *sorted(WORDS[1])] and sum(found.scores.values()) == pytest.approx(
        1
    )


def test_which_task_is_asked(labels: Predictor, texts: Predictor) -> None:
    with pytest.raises(ConfigError, match="has learned a, b; name the one that is asked, or choose over the union"):
        labels.classify(["x"])
    with pytest.raises(ConfigError, match="no such task; it has a, b"):
        labels.classify(["x"], task="zzz")
    with pytest.raises(ConfigError, match="task 'qa': it generates answers, and has no labels; labels have a"):
        texts.classify(["x"], task="qa")
    with pytest.raises(ConfigError, match="task 'a': it chooses one of its labels"):
        texts.generate(["x"], task="a")
    assert "team/run@v2" in repr(labels)


def test_one_label_set_needs_no_task(tmp_path: Path) -> None:
    tasks = [classification(tmp_path, name, WORDS[0]) for name in "ab"]
    run_of(tmp_path, {"name": str(save_encoder(tmp_path / "base")), "max_length": 16}, tasks)
    predictor = Predictor("run", store=str(tmp_path / "store"))
    rows = [row["text"] for row in labelled(WORDS[0], 5, "test")]
    assert predictor.classify(rows) == predictor.classify(rows, task="b")


def test_generated_answers_are_those_that_the_run_kept(texts: Predictor, texts_run: Run) -> None:
    """Greedy and drawn ones; their reasons to end too."""
    state, _ = texts_run
    track = Track(texts.repertoire.version.track.store, "team", "run")
    rows: dict[str, list[Any]] = {
        "qa": [row["prompt"] for row in answered(9, "test")],
        "chat": [row["messages"][:-1] for row in spoken(9, "test")],
    }  # fmt: skip
    for task, prompts in rows.items():
        found = texts.generate(prompts, task=task)
        for kept in samples(track, state, task):
            last = kept.answers[-1]
            assert last.learned == 3 and found[kept.row].answer == last.answer
            assert (found[kept.row].finish_reason == "length") == (last.cut is not None)
    assert {each.finish_reason for each in found} == {"stop", "length"}  # of drawn answers with a stop string


def test_log_probabilities_are_the_models_own(texts: Predictor) -> None:
    """Of the first prompt's answer, token by token through transformers."""
    (found,) = texts.generate(["test number 3 is "], task="qa")
    known = texts.repertoire.tasks["qa"]
    writer = texts.writer(known)
    from orchestrator.delivery.repertoire import source_row

    (ids,) = writer.asked([source_row(known, {}, "x", 1, "test number 3 is ")])
    with texts.method.answering(known.index), torch.no_grad():
        said = writer.base.speak([ids], writer.most, writer.ends, writer.decoding)[0]
        whole = torch.tensor([[*ids, *said.tokens]])
        logp = writer.base.model(input_ids=whole).logits[0].log_softmax(-1)
    places = range(len(ids) - 1, whole.shape[1] - 1)
    assert said.said.text == found.answer and len(said.tokens) > 0
    assert found.logprob == pytest.approx(sum(float(logp[i, whole[0, i + 1]]) for i in places), abs=1e-3)


def test_what_a_log_does_not_say_of_answers_is_read_from_the_data(
    texts: Predictor, texts_run: Run, tmp_path: Path
) -> None:
    """As of a run of an older Orthoplex: the log has no `answers`; a changed data file is noticed."""
    known = texts.repertoire.tasks["qa"]
    told = known.description.answers
    assert told is not None and texts.repertoire.tasks["chat"].description.answers.template  # type: ignore[union-attr]
    assert texts._from_data(known.task, known) == told  # type: ignore[arg-type]
    path = Path(known.task.train)  # type: ignore[union-attr]
    before = path.read_text()
    try:
        path.write_text(before + json.dumps({"prompt": "and", "completion": "one more"}) + "\n")
        with pytest.raises(
            ConfigError, match=r"its rows differ from those the run was begun with.*; give max_new_tokens"
        ):
            texts._from_data(known.task, known)  # type: ignore[arg-type]
    finally:
        path.write_text(before)


def test_prompts_that_do_not_fit(texts: Predictor, texts_run: Run) -> None:
    long = "word " * 90
    with pytest.raises(DataError, match=r"task qa: prompts row 2: .* more than|cuts its answer away; shorten it"):
        texts.generate(["short", long], task="qa")
    with pytest.raises(DataError, match="prompts row 1: messages"):
        texts.generate([[]], task="chat")
    cutting = Predictor("team/run@v3", store=str(texts_run[1] / "store"), too_long="cut", max_new_tokens=2)
    (found,) = cutting.generate([long], task="qa")
    assert found.finish_reason in ("stop", "length")


def test_a_changed_file_is_refused(labels_run: Run, tmp_path: Path) -> None:
    shutil.copytree(labels_run[1] / "store", tmp_path / "store")
    (path, *_) = (tmp_path / "store").rglob("adapter.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="sha256"):
        Predictor("team/run", store=str(tmp_path / "store"))


def test_what_is_no_list_of_texts_is_refused(labels: Predictor, texts: Predictor) -> None:
    """A string alone would be answered character by character."""
    for ask in (labels.classify, texts.generate):
        with pytest.raises(DataError, match=r"^'red' is one of what is asked for in a list; write \['red'\]$"):
            ask("red", task="a")
    for text, told in ((None, "None"), ("\ud800", r"'\\ud800'")):
        with pytest.raises(DataError, match=rf"^texts: number 2 is {told}, which is not a string; repair it, or leave"):
            labels.classify(["red", text], task="a")  # type: ignore[list-item]
