"""What quick imports leave behind: nothing but what was imported."""

import gc
import importlib
import sys

import pytest

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
