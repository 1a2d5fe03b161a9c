"""What a server is given, and what it refuses to serve."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError
from orchestrator.serve import settings
from orchestrator.serve.settings import (
    KEYS,
    ServeSettings,
    check_answers,
    check_one_base,
    digest_of,
    key_digests,
    versions_of,
)
from tests.support.served import Run
from trainers.data.generative.config import GenerativeFilesTask

LONG = "a-key-of-sixteen-characters"


def test_keys_are_kept_as_digests() -> None:
    assert key_digests({}) == key_digests({KEYS: " , "}) == ()
    assert key_digests({KEYS: f"{LONG}, {LONG}2"}) == (digest_of(LONG), digest_of(f"{LONG}2"))
    assert LONG not in str(key_digests({KEYS: LONG}))


@pytest.mark.parametrize("key", ["short", f"{LONG} b", f"{LONG}\xe9", f"{LONG}\x00"])
def test_keys_that_no_header_holds(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{KEYS}: key number 2 .*secrets") as raised:
        key_digests({KEYS: f"{LONG},{key}"})
    assert key not in str(raised.value)


@pytest.mark.parametrize(
    "wrong", [{"adapters": ()}, {"max_concurrent": 0}, {"refresh_s": 0}, {"refresh_s": float("nan")}, {"adaptors": 1}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServeSettings.model_validate({"adapters": ("r@v1",), **wrong})


def test_adapters_of_two_bases_are_refused(labels_run: Run, texts_run: Run, tmp_path: Path) -> None:
    (first,), (second,) = (
        versions_of(ServeSettings(adapters=("team/run",), store=str(folder / "store")))
        for _, folder in (labels_run, texts_run)
    )
    check_one_base(first, first)
    with pytest.raises(
        ConfigError, match=r"'team/run@v3': it stands on another base than team/run@v2 \(model.task_type"
    ) as raised:
        check_one_base(first, second)
    assert "weights have sha256" in str(raised.value) and "at another port" in str(raised.value)


@pytest.mark.parametrize(("form", "served"), [("text", False), ("prompt_completion", True)])
def test_a_version_that_was_trained_on_plain_text_alone(
    form: str, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"name": "prose", "source": "files", "format": form, "train": "a.jsonl", "test": "b.jsonl"}
    task = GenerativeFilesTask.model_validate({**content, "metrics": ["nll"]})
    monkeypatch.setattr(settings, "Repertoire", lambda _: SimpleNamespace(tasks={"prose": SimpleNamespace(task=task)}))
    version: Any = SimpleNamespace(reference="t/r@v1")
    if served:
        check_answers(version)
        return
    with pytest.raises(ConfigError, match=r"'t/r@v1': cannot be served: it was trained on plain text alone \(prose\)"):
        check_answers(version)
