"""Scores in a model card, read back with the Hub's own parsers."""

from pathlib import Path

import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from trainers.methods.card import Provenance, merged_readme, peft_readme
from trainers.methods.card_figures import Figures, TaskFigures, eval_results

LABELS = TaskFigures(
    task="topic", classification=True, metrics={"accuracy": 0.64, "macro_f1": 0.5}, interval=(0.57, 0.71), rows=200,
    data="org/topics", fingerprint="f" * 64, hub=True, config="en", split="test", floor=0.31,
)  # fmt: skip
TEXTS = TaskFigures(
    task="notes: x", classification=False, metrics={"nll": 1.2345}, interval=(1.1, 1.4), rows=1000, data="files",
    fingerprint="e" * 64,
)  # fmt: skip
FIGURES = Figures(
    reference="team/run@v2", seq=9, time="2026-11-28T22:00:00.000+00:00", manifest_sha256="d" * 64,
    tasks=[LABELS, TEXTS], stream={"aa": (0.64, 0.07), "forgetting": (0.0125, None)},
)  # fmt: skip
ORIGIN = Provenance(
    "team/run@v2", ("topic", "notes: x"), "CAUSAL_LM", "org/model", "d" * 64, licence="mit", figures=FIGURES
)


def test_the_hub_reads_the_cards(tmp_path: Path) -> None:
    for relation, text in (
        ("adapter", peft_readme(ORIGIN, "float32", biased=False, unbiased=[], notes=[], beside=[])),
        ("finetune", merged_readme(ORIGIN, "float32", [])),
    ):
        (tmp_path / "README.md").write_text(text)
        card = ModelCard.load(tmp_path / "README.md")
        assert (card.data.base_model, card.data.license) == ("org/model", "mit")
        assert card.data.to_dict()["base_model_relation"] == relation and card.data.model_name == "team/run@v2"
        assert [
            (
                each.task_name,
                each.task_type,
                each.dataset_type,
                each.dataset_config,
                each.metric_type,
                each.metric_value,
            )
            for each in card.data.eval_results or ()
        ] == [
            ("topic", "text-classification", "org/topics", "en", "accuracy", 0.64),
            ("topic", "text-classification", "org/topics", "en", "f1", 0.5),
            ("notes: x", "text-generation", "files", None, "nll", 1.2345),
        ]
        assert card.data.eval_results[0].dataset_args == {"rows": 200, "sha256": "f" * 64}  # type: ignore[index]


def test_tasks_of_the_hub_are_its_eval_results() -> None:
    (entry,) = parse_eval_result_entries(yaml.safe_load(yaml.safe_dump(eval_results(FIGURES))))
    assert (entry.dataset_id, entry.task_id, entry.value, entry.date) == ("org/topics", "en", 0.64, "2026-11-28")
    assert entry.notes == "accuracy on 200 rows of split test; team/run@v2"


def test_the_table_for_people() -> None:
    text = merged_readme(ORIGIN, "float32", [])
    assert "| topic | accuracy | 64.0 | 57.0 to 71.0 | 31.0 | 200 |" in text
    assert "| topic | macro F1 | 50.0 |  |  | 200 |" in text
    assert "| nll | 1.234 | 1.100 to 1.400 |  | 1,000 |" in text
    assert "Over all tasks: average accuracy 64.0 ±7.0 points, forgetting 1.2 points." in text
    assert "entry 9 of its log, 2026-11-28, manifest sha256 " + "d" * 64 in text


def test_a_card_without_scores_says_nothing_of_them() -> None:
    plain = Provenance("team/run@v2", ("a",), "CAUSAL_LM", "org/model", "d" * 64)
    text = merged_readme(plain, "float32", [])
    assert "Figures" not in text and "model-index" not in text
