"""What quick imports leave behind: nothing but what was imported."""

import gc
import importlib
import os
import stat
import sys
from pathlib import Path

import pytest

from trainers import keep_compiled
from trainers.imports import UNUSED, quick_imports


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_as_it_was(collecting: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), quick_imports():
            assert not gc.isenabled()
            _ = 1 / 0
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_mlflow_is_not_found_in_the_block_and_is_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, UNUSED, raising=False)
    with quick_imports(), pytest.raises(ImportError):
        importlib.import_module(UNUSED)
    assert UNUSED not in sys.modules
    there = object()
    monkeypatch.setitem(sys.modules, UNUSED, there)
    with quick_imports():
        assert sys.modules[UNUSED] is there
    assert sys.modules[UNUSED] is there


def test_what_torch_compiles_is_kept_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv(place, "/chosen")
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "state"))
    keep_compiled()
    assert os.environ[place] == "/chosen" and not [*tmp_path.iterdir()]
    monkeypatch.delenv(place)
    keep_compiled()
    assert os.environ[place] == str(tmp_path / "state/compiled")
    assert stat.S_IMODE((tmp_path / "state/compiled").stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORTHOPLEX_STATE", str(tmp_path / "file"))
    monkeypatch.delenv(place)
    keep_compiled()
    assert place not in os.environ
