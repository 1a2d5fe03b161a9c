"""What one machine says of itself, also if it lacks a GPU, a filesystem, a package or the store."""

import hashlib
import os
from pathlib import Path

import pytest

from cluster.doctor.node_facts import gather_node, installed, list_gpus, probe_store, usage
from cluster.storage import PROBE_KEY, LocalStore, probe


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, the first on the path; a test writes what it does."""
    path = tmp_path / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def test_gpus_by_name(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\nprintf ' NVIDIA H200 \\n\\nNVIDIA A10\\n'\n")
    assert list_gpus() == ["NVIDIA H200", "NVIDIA A10"]


def test_a_driver_that_fails_shows_no_gpu(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA H200'\nexit 9\n")
    assert list_gpus() == []
    monkeypatch.setenv("PATH", "/nowhere")
    assert list_gpus() == []


def test_what_is_not_there(tmp_path: Path) -> None:
    assert installed("no-such-distribution") is None and installed("pytest") == pytest.__version__
    assert usage(str(tmp_path / "none")) == (0, 0)
    total, free = usage(str(tmp_path))
    assert 0 < free <= total


def test_facts_of_this_machine(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    facts = gather_node(["pytest", "no-such-distribution"])
    assert facts["packages"] == {"pytest": pytest.__version__} and facts["auth_mode"] == "token"
    assert (facts["gpus"], facts["cuda"], facts["store"], facts["project"]) == ([], None, None, True)


def test_a_store_from_here(tmp_path: Path) -> None:
    """It is looked at, never made; what stands under the probe's key tells two folders apart."""
    unseen = {"error": None, "seen": None, "checked": True}
    assert probe_store(str(tmp_path / "none")) == unseen and not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    assert probe_store(str(tmp_path / "empty")) == unseen and list((tmp_path / "empty").iterdir()) == []
    store = LocalStore(tmp_path / "store")
    probe(store)
    seen = hashlib.sha256(store.get(PROBE_KEY)).hexdigest()
    assert probe_store(store.uri) == {"error": None, "seen": seen, "checked": True}
    assert "gs://x" in probe_store("gs://x")["error"]
