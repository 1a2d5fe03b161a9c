"""Relative model folders: what the driver says, and what a worker makes of it. Ray itself is in tests/e2e."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.errors import ConfigError
from cluster.text_files import at_home
from tests.support.tiny_models import save_tiny
from trainers import folders
from trainers.config import ModelConfig
from trainers.folders import for_workers, located, model_folder, scratch, started_in
from trainers.models.loading import check_model, load_backbone
from trainers.workers.pool import packed
from trainers.workers.worker import Worker


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, but at once


def in_session(monkeypatch: pytest.MonkeyPatch, start: Path | None = None) -> None:
    """As inside a Ray session; of a job with a working directory whose copy is `start`, if that is given."""
    environment: dict[str, Any] = {"working_dir": "gcs://_ray_pkg_1.zip"} if start else {"env_vars": {}}
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env=environment))
    monkeypatch.setattr(folders, "start_here", lambda: start)


def test_a_driver_says_where_its_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path / "org")
    monkeypatch.setenv("HOME", str(tmp_path))
    in_session(monkeypatch)
    for name in ("model", "./model", "~/org/model", str(tmp_path / "org/model")):
        found = Path(str(for_workers(model_folder(name))))
        assert found.is_absolute() and found.samefile("model"), name
    for name in ("org/model", "minilm", "sentence-transformers/all-MiniLM-L6-v2", "~nobody-here/model"):
        assert for_workers(model_folder(name)) is None, name
    monkeypatch.chdir(tmp_path)
    assert model_folder("org/model") == tmp_path / "org/model"  # shaped like a hub id, but it is there
    assert model_folder("minilm") is None  # the name has a meaning of its own


def test_in_a_job_the_path_is_within_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, mounted = tmp_path / "copy", tmp_path / "mounted"
    for folder in (copy / "models/base", copy / "sub/own", mounted):
        folder.mkdir(parents=True)
    in_session(monkeypatch, copy)
    monkeypatch.chdir(copy / "sub")  # where the job's entry point may have gone
    found = {
        name: for_workers(model_folder(name))
        for name in ("own", "../models/base", "../../mounted", str(mounted), "base")
    }
    assert found == {
        "own": "sub/own", "../models/base": "models/base", "../../mounted": f"{copy}/sub/../../mounted",
        str(mounted): str(mounted), "base": None,
    }  # fmt: skip


def test_a_worker_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its scratch folder, where the name as written leads nowhere."""
    save_tiny("llama", tmp_path / "models/base")
    asked = ModelConfig.model_validate({"name": "models/base", "task_type": "CAUSAL_LM", "max_length": 16})
    monkeypatch.chdir(tmp_path)
    whole = load_backbone(asked).digest
    worker: Any = object.__new__(Worker)
    with scratch(str(tmp_path)) as start:
        assert start == tmp_path and Path.cwd().parent == tmp_path
        for folder in ("models/base", str(tmp_path / "models/base")):
            job = SimpleNamespace(model=asked, folder=folder, base=None, deepspeed=SimpleNamespace(zero_stage=2))
            worker.job, worker.device, worker.start = job, "cpu", start
            assert worker.base().digest == whole
        job.folder = None
        with pytest.raises(ConfigError, match=r"model\.name: 'models/base' cannot be loaded"):
            worker.base()
        assert packed(asked, str(tmp_path / "models/base")).backbone("cpu").digest == whole
    assert Path.cwd() == tmp_path and packed(asked, "models/base").backbone("cpu").digest == whole
    assert asked.name == "models/base"
    assert located(asked, None) is asked and located(asked, "/a").name == "/a"


def test_scratch_elsewhere_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError), scratch(str(tmp_path / "on-another-node")):
        left = Path.cwd()
        assert left.parent != tmp_path
        raise KeyError
    assert Path.cwd() == tmp_path and not left.exists()


@pytest.mark.parametrize("name", ["base", "./base", "models/base", "models/large/base"])
def test_an_absent_relative_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a run resumed from another directory than it was begun in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        check_model(ModelConfig(name=name))
    assert str(error.value).startswith(f"model.name: {name!r} cannot be loaded (")
    assert str(error.value).endswith("; a relative folder starts where the command is run")


@pytest.mark.parametrize("name", ["/none/base", "~nobody-here/base", "~/none"])
def test_an_absent_absolute_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded \(no such folder\); give a folder or a hub id"):
        check_model(ModelConfig(name=name))


def test_a_home_that_is_not_there() -> None:
    assert at_home("~nobody-here/base") == Path("~nobody-here/base")


def test_a_copy_that_was_unpacked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a second node on this machine, under a process that stands in it."""
    copy = tmp_path / "copy"
    copy.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("PWD", str(copy))
    copy.rmdir()
    copy.mkdir()
    with scratch(str(tmp_path)) as start:
        assert start == copy and Path.cwd().parent == tmp_path
    assert started_in() == Path.cwd() == copy
