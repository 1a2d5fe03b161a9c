"""What a report reads: gaps and faults instead of errors."""

from pathlib import Path

from orchestrator.report.source import Angles, Source
from tests.orchestrator.report.conftest import source_of


def test_files_are_read_by_version(three: Source) -> None:
    assert [*three.manifests] == [1, 2, 3] and [*three.logs] == [1, 2, 3]
    assert three.manifests[3].principal_angles == (Angles(smallest=90.0, mean=90.0),) * 2
    assert three.manifests[1].code.packages["ray"]
    assert [each.task for each in three.curves] == ["a", "b", "c"] and three.answers == {} and three.faults == []


def test_what_is_damaged_is_a_fault(three: Source, tmp_path: Path) -> None:
    one, two = (tmp_path / "store" / three.state.commits[index].prefix for index in (0, 1))
    (one / "manifest.json").write_text("{}")
    (two / "training.parquet").unlink()
    found = source_of(tmp_path / "store")
    assert [*found.manifests] == [2, 3] and [*found.logs] == [3]
    assert len(found.faults) == 3
    assert "stream@v1: " in found.faults[0] and "was changed" in found.faults[0]
    assert any("stream@v2: " in each and "is missing" in each for each in found.faults)


def test_without_a_configuration(tmp_path: Path) -> None:
    from cluster.storage import open_store
    from orchestrator.registry.publish import publish
    from orchestrator.track.events import Learned
    from orchestrator.track.track import Track

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "adapter.safetensors").write_bytes(b"x")
    publish(Track(open_store(str(tmp_path / "store")), "team", "shared"), tmp_path / "files", Learned(task="t"), {})
    found = source_of(tmp_path / "store", "team/shared")
    assert (found.config, found.curves, found.answers) == (None, [], {}) and found.names == ["t"]
