"""Answers name one version, in OpenAI's words."""

from orchestrator.serve.bodies import Envelope, labels, usage
from orchestrator.serve.ways import Text
from trainers.objectives.answering import Labelled

TEXTS = [
    Text(text="a", finish_reason="stop", prompt_tokens=3, completion_tokens=2),
    Text(text="b", finish_reason="length", prompt_tokens=4, completion_tokens=1),
]


def test_whole_answers() -> None:
    envelope = Envelope("text_completion", "t/r@v1", "fp_1")
    body = envelope.chosen(TEXTS)
    assert body["model"] == "t/r@v1" == envelope.headers["x-orthoplex-version"] and body["system_fingerprint"] == "fp_1"
    assert [each["index"] for each in body["choices"]] == [0, 1] and body["object"] == "text_completion"
    assert body["usage"] == usage(TEXTS) == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert body["id"] != Envelope("text_completion", "t/r@v1", "fp_1").id


def test_labels() -> None:
    found = labels(Envelope("classify", "t/r@v1", "f"), None, [Labelled(label="x", probability=0.7, scores={"x": 0.7})])
    assert found["data"] == [{"index": 0, "label": "x", "probability": 0.7, "scores": {"x": 0.7}}]
    assert (found["object"], found["task"]) == ("classify", None)
