import json
from pathlib import Path

from benchmarks.methods import results


def test_lines_come_back_by_key_and_the_last_of_equal_keys_counts(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "found.jsonl"
    assert results.read(path) == {}
    for line in ({"key": "a", "error": "no room"}, {"key": "b", "aa": 0.5}, {"key": "a", "aa": 0.25}):
        results.append(path, line)
    assert results.read(path) == {"a": {"key": "a", "aa": 0.25}, "b": {"key": "b", "aa": 0.5}}
    assert path.read_text().splitlines()[1] == json.dumps({"aa": 0.5, "key": "b"})


def test_a_line_that_was_cut_is_passed_over_and_the_next_begins_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    results.append(path, {"key": "a", "aa": 1})
    with path.open("ab") as file:
        file.write(b'{"aa": 1, "ke')
    results.append(path, {"key": "c", "aa": 0})
    assert [*results.read(path)] == ["a", "c"]


def test_merging_adds_what_is_absent_or_failed(tmp_path: Path) -> None:
    here, other = tmp_path / "here.jsonl", tmp_path / "other.jsonl"
    for line in ({"key": "a", "aa": 1}, {"key": "b", "error": "out of memory"}):
        results.append(here, line)
    for line in ({"key": "a", "aa": 0}, {"key": "b", "aa": 0.5}, {"key": "c", "aa": 0.25}):
        results.append(other, line)
    assert results.merge(here, [other]) == 2
    assert {key: line["aa"] for key, line in results.read(here).items()} == {"a": 1, "b": 0.5, "c": 0.25}
    assert results.merge(here, [other]) == 0
