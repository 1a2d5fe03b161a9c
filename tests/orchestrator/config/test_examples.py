"""Configurations that ship, as `orthoplex init --example` writes them."""

from pathlib import Path

import pytest

from cluster.errors import ConfigError
from orchestrator.config.examples import example_files, examples, folder, next_command
from orchestrator.config.run import load_config
from orchestrator.sweeps.config import load_sweep


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(name: str, path: Path | None = None) -> Path:
    files = example_files(name, path)
    for target, text in files.items():
        target.write_text(text, "utf-8")
    return next(iter(files))


@pytest.mark.parametrize("name", examples())
def test_each_can_be_read_where_it_is_written(name: str) -> None:
    path = written(name)
    assert path == Path(f"{name.replace('/', '-')}.yaml")
    (load_sweep if name.startswith("sweeps/") else load_config)(path)


def test_a_run_is_written_byte_for_byte(tmp_path: Path) -> None:
    path = written("quickstart", tmp_path / "mine.yaml")
    assert path.read_bytes() == (folder() / "quickstart.yaml").read_bytes()
    assert next_command({path: ""}) == f"orthoplex plan {path}"


def test_a_sweep_comes_with_the_run_that_it_names() -> None:
    Path("a b").mkdir()
    files = example_files("sweeps/budget", Path("a b/s.yaml"))
    assert [*files] == [Path("a b/s.yaml"), Path("a b/minilm_order1.yaml")]
    assert "base: minilm_order1.yaml" in files[Path("a b/s.yaml")]
    assert next_command(files) == "orthoplex sweep 'a b/s.yaml'"


def test_an_unknown_one_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="--example 'quikstart': did you mean 'quickstart'"):
        example_files("quikstart")
