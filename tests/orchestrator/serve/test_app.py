"""What the HTTP side answers: by OpenAI's words, by the version that is named, and with clear refusals."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from orchestrator.delivery.predictor import Predictor
from orchestrator.registry.aliases import promote, rollback
from orchestrator.serve.app import Service
from tests.support.served import Run, client, service_of, track_of
from tests.support.untrained_runs import WORDS, labelled

TEXTS = [row["text"] for row in labelled(WORDS[0], 12, "new")]


def said(service: Service, path: str, body: Any, status: int = 200, **more: Any) -> dict[str, Any]:
    answer = client(service).post(path, json=body, **more)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_labels_are_those_of_predict(labels: Service, labels_run: Run) -> None:
    """Of the version that the alias names, which body and header name."""
    answer = client(labels).post("/v1/classify", json={"model": "team/run@live", "input": TEXTS, "task": "a"})
    body = answer.json()
    assert answer.headers["x-orthoplex-version"] == body["model"] == "team/run@v1" and body["task"] == "a"
    state, folder = labels_run
    assert body["system_fingerprint"] == f"fp_{state.commits[0].manifest_sha256[:16]}"
    expected = Predictor("team/run@v1", store=str(folder / "store")).classify(TEXTS, task="a")
    for found, own in zip(body["data"], expected, strict=True):
        assert found["label"] == own.label and found["probability"] == pytest.approx(own.probability, abs=1e-5)
        assert found["scores"] == pytest.approx(own.scores, abs=1e-5)
    one = said(labels, "/v1/classify", {"input": TEXTS[3]})
    assert [each["label"] for each in one["data"]] == [expected[3].label]


def test_a_moved_alias_is_followed_and_rolled_back(labels_run: Run) -> None:
    _, folder = labels_run
    promote(track_of(folder), 1, "moving")
    service = service_of(folder, "team/run@moving", "run@v2")
    own = {
        name: Predictor(f"team/run@{name}", store=str(folder / "store")).classify(TEXTS, task="a")
        for name in ("v1", "v2")
    }
    assert own["v1"] != own["v2"]

    def answered(version: str) -> bool:
        body = said(service, "/v1/classify", {"model": "team/run@moving", "input": TEXTS, "task": "a"})
        found = [each["probability"] for each in body["data"]]
        return body["model"] == f"team/run@{version}" and found == pytest.approx(
            [each.probability for each in own[version]], abs=1e-5
        )

    assert answered("v1")
    promote(track_of(folder), 2, "moving")
    assert answered("v1")
    service.adapters.refresh()
    assert answered("v2") and len(service.adapters.loaded) == 1
    rollback(track_of(folder), "moving")
    service.adapters.refresh()
    assert answered("v1") and len(service.adapters.loaded) == 2
    service.close()


def test_models(texts: Service) -> None:
    listed = client(texts).get("/v1/models").json()
    first, second = listed["data"]
    assert listed["object"] == "list" and (first["id"], first["version"]) == ("team/run", "team/run@v3")
    assert (second["id"], second["follows"]) == ("team/run@v2", None)
    assert [task["name"] for task in first["tasks"]] == ["a", "qa", "chat"]
    assert first["tasks"][0]["labels"] == sorted(WORDS[0])
    assert client(texts).get("/v1/models/team/run@v2").json() == second
    assert client(texts).get("/v1/models/nobody").status_code == 404


def test_completions_are_those_of_generate(texts: Service, texts_run: Run) -> None:
    prompts = ["new number 3 is ", "new number 4 more more is "]
    own = Predictor("team/run@v3", store=str(texts_run[1] / "store")).generate(prompts, task="qa")
    body = said(texts, "/v1/completions", {"model": "team/run", "prompt": prompts, "task": "qa"})
    assert [each["text"] for each in body["choices"]] == [each.answer for each in own]
    assert [each["finish_reason"] for each in body["choices"]] == [each.finish_reason for each in own]
    assert body["object"] == "text_completion" and body["model"] == "team/run@v3"
    used = body["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"] and used["completion_tokens"] > 1


def test_chats_are_answered(texts: Service, texts_run: Run) -> None:
    turns = [
        {"role": "user", "content": "hello"}, {"role": "assistant", "content": "well"},
        {"role": "user", "content": [{"type": "text", "text": "what is 4"}]},
    ]  # fmt: skip
    plain = [*turns[:2], {"role": "user", "content": "what is 4"}]
    own = Predictor("team/run@v3", store=str(texts_run[1] / "store")).generate([plain], task="chat")
    body = said(texts, "/v1/chat/completions", {"model": "team/run", "messages": turns, "task": "chat"})
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": own[0].answer, "refusal": None}
    assert body["object"] == "chat.completion"


def test_what_a_request_says_of_decoding_counts(texts: Service) -> None:
    def text(**keys: Any) -> dict[str, Any]:
        body = said(texts, "/v1/completions", {"model": "team/run", "prompt": "new is ", "task": "qa", **keys})
        return dict(body["choices"][0], used=body["usage"]["completion_tokens"])

    assert text(max_tokens=2)["used"] == 2 and text(max_tokens=2)["finish_reason"] == "length"
    drawn = [text(temperature=5, seed=seed, max_tokens=6)["text"] for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len({*drawn}) > 1
    assert text(temperature=0, seed=7, top_p=0.5)["text"] == text()["text"]
    whole = text(temperature=5, seed=1, max_tokens=6)["text"]
    stopped = text(temperature=5, seed=1, max_tokens=6, stop=[whole[2:5]])
    assert stopped["text"] == whole[: whole.find(whole[2:5])] and stopped["finish_reason"] == "stop"


def events(service: Service, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client(service).post(path, json={"model": "team/run", **body, "stream": True})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-orthoplex-version"] == "team/run@v3"
    *lines, last = answer.text.strip().split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_stream_says_what_a_whole_answer_says(texts: Service) -> None:
    asked = {"prompt": "new number 3 is ", "task": "qa", "max_tokens": 8, "temperature": 3, "seed": 4}
    whole = said(texts, "/v1/completions", {"model": "team/run", **asked})
    found = events(texts, "/v1/completions", {**asked, "stream_options": {"include_usage": True}})
    pieces = [each["choices"][0]["text"] for each in found[:-1]]
    assert "".join(pieces) == whole["choices"][0]["text"] and len([piece for piece in pieces if piece]) > 2
    assert found[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert found[-1]["usage"] == whole["usage"] and found[-1]["choices"] == []
    assert {each["model"] for each in found} == {"team/run@v3"} and len({each["id"] for each in found}) == 1


def test_a_chat_is_streamed(texts: Service) -> None:
    asked = {"messages": [{"role": "user", "content": "what is 4"}], "task": "chat", "max_tokens": 8, "seed": 1}
    whole = said(texts, "/v1/chat/completions", {"model": "team/run", **asked})["choices"][0]
    found = events(texts, "/v1/chat/completions", asked)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [each["choices"][0]["delta"].get("content", "") for each in found]
    assert "".join(deltas) == whole["message"]["content"] and found[-1]["choices"][0]["finish_reason"]
    assert {each["object"] for each in found} == {"chat.completion.chunk"}


def test_a_stream_that_cannot_begin_is_a_plain_error(texts: Service) -> None:
    body = {"model": "team/run", "prompt": "word " * 200, "task": "qa", "stream": True}
    assert "shorten it" in said(texts, "/v1/completions", body, 400)["error"]["message"]


CHAT, COMPLETE, CLASSIFY = "/v1/chat/completions", "/v1/completions", "/v1/classify"
HI = [{"role": "user", "content": "hi"}]
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    (CLASSIFY, {"model": "nobody", "input": "x"}, 404, "model 'nobody': is not served here"),
    (CLASSIFY, {"model": "team/rum", "input": "x"}, 404, "did you mean 'team/run'"),
    (CLASSIFY, {"input": "x"}, 400, "model: is missing"),
    (CLASSIFY, {"model": "team/run"}, 400, "input: Field required"),
    (CLASSIFY, {"model": "team/run", "input": []}, 400, "input"),
    (CLASSIFY, {"model": "team/run", "input": [1]}, 400, "input"),
    (CLASSIFY, {"model": "team/run", "input": "x", "taks": "a"}, 400, "taks: is not known here; did you mean 'task'"),
    (CLASSIFY, {"model": "team/run", "input": "x", "task": "qa"}, 400, "it generates answers, and has no labels"),
    (CLASSIFY, {"model": "team/run", "input": "x", "task": "z"}, 400, "has learned no such task"),
    (CLASSIFY, {"model": "team/run", "input": "x", "task": "a", "union": True}, 400, "give one of them"),
    (CLASSIFY, {"model": "team/run", "input": ["x"] * 300}, 400, "max_texts"),
    (COMPLETE, {"model": "team/run", "prompt": "x"}, 400, "task: team/run@v3 has learned qa, chat; name one"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "a"}, 400, "it chooses one of its labels"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "n": 2}, 400, "n: Input should be 1"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "stop": [""]}, 400, "none of them empty"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "max_tokens": 9999}, 400, "max_tokens: 9999"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "max_tokens": 0}, 400, "max_tokens"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "max_tokens": True}, 400, "max_tokens: Input"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "temperature": "1"}, 400, "temperature: In"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "top_p": 0}, 400, "top_p"),
    (COMPLETE, {"model": "team/run", "prompt": "x", "task": "qa", "temperature": -1}, 400, "temperature"),
    (COMPLETE, {"model": "team/run", "prompt": ["x", "y"], "task": "qa", "stream": True}, 400, "answers one prompt"),
    (COMPLETE, {"model": "team/run", "prompt": "", "task": "qa"}, 400, "prompt: has no characters"),
    (COMPLETE, {"model": "team/run", "prompt": ["x", ""], "task": "qa"}, 400, "prompt: number 2 has no characters"),
    (CHAT, {"model": "team/run", "messages": [], "task": "chat"}, 400, "messages"),
    (CHAT, {"model": "team/run", "messages": [{"role": "x", "content": "y"}], "task": "chat"}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": " "}], "model": "team/run", "task": "chat"}, 400, "messages: has"),
    (CHAT, {"model": "team/run", "messages": HI, "task": "chat", "tools": [{}]}, 400, "tools"),
    (CHAT, {"model": "team/run", "messages": [*HI, *HI], "task": "qa"}, 400, "task qa"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), WRONG)
def test_what_is_asked_wrongly_is_refused(
    texts: Service, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    error = said(texts, path, body, status)["error"]
    assert message in error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_json_object(texts: Service, data: bytes) -> None:
    for path in (CLASSIFY, COMPLETE, CHAT):
        answer = client(texts).post(path, content=data)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_half_a_character_is_refused(texts: Service) -> None:
    for path, content in (
        (CLASSIFY, b'{"model": "team/run", "task": "a", "input": "\\ud800"}'),
        (COMPLETE, b'{"model": "team/run", "task": "qa", "prompt": "\\ud800"}'),
        (CHAT, b'{"model": "team/run", "task": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}'),
        (CLASSIFY, b'{"model": "\\ud800", "task": "a", "input": "x"}'),
        (CLASSIFY, b'{"model": "team/run", "task": "\\ud800", "input": "x"}'),
    ):
        assert client(texts).post(path, content=content).status_code in (400, 404), content


def test_paths_and_methods_that_there_are_not(texts: Service) -> None:
    for answer, status in ((client(texts).get("/v2"), 404), (client(texts).get(CLASSIFY), 405)):
        assert answer.status_code == status and answer.json()["error"]["message"]


def test_texts_without_characters_have_no_label(labels: Service) -> None:
    (found,) = said(labels, CLASSIFY, {"input": "  "})["data"]
    assert found == {"index": 0, "label": None, "probability": None, "scores": {}}


def test_health_and_figures(texts: Service) -> None:
    assert client(texts).get("/health").json() == {"status": "ok", "behind": 0}
    said(texts, CLASSIFY, {"model": "team/run", "input": "x", "task": "a"})
    figures = client(texts).get("/metrics").text
    assert 'orthoplex_requests_total{path="/v1/classify",status="200"}' in figures
    assert 'orthoplex_answers_total{version="team/run@v3"}' in figures and "orthoplex_versions_in_memory 2.0" in figures


def test_a_server_whose_thread_has_ended_is_not_healthy(labels_run: Run) -> None:
    service = service_of(labels_run[1], "team/run@v1")
    service.close()
    assert client(service).get("/health").status_code == 503


def test_requests_at_once_get_their_own_answers(labels: Service) -> None:
    """Requests that come together share forward passes."""
    one_by_one = [said(labels, CLASSIFY, {"input": text})["data"][0] for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: said(labels, CLASSIFY, {"input": text})["data"][0], TEXTS * 4))
    for together, alone in zip(found, one_by_one * 4, strict=True):
        assert together["label"] == alone["label"]
        assert together["probability"] == pytest.approx(alone["probability"], abs=1e-5)
