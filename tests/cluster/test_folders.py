"""A folder is there whole, or not at all."""

from pathlib import Path

import pytest

from cluster.folders import appearing


@pytest.mark.parametrize("empty", [False, True])
def test_it_appears_when_it_is_full(tmp_path: Path, empty: bool) -> None:
    target = tmp_path / "deep" / "made"
    if empty:
        target.mkdir(parents=True)
    with appearing(target) as staging:
        (staging / "file").write_text("x")
        assert not (target / "file").exists()
    assert (target / "file").read_text() == "x" and [*target.parent.iterdir()] == [target]


def test_nothing_is_left_if_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half"), appearing(tmp_path / "made") as staging:
        (staging / "file").write_text("x")
        raise ValueError("half")
    assert [*tmp_path.iterdir()] == []


def test_what_is_in_use_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").touch()
    with pytest.raises(OSError), appearing(tmp_path / "made"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "mine"]
