"""`orthoplex adapters`: versions are listed, shown, pulled, promoted and rolled back by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Orthoplex


def test_adapters_list(orthoplex: Orthoplex, begun: Any) -> None:
    code, out, err = orthoplex("adapters", "list", "--store", begun.root, "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert (first["ref"], first["name"], first["version"]) == ("default/stream@v1", "default/stream", 1)
    assert first["aliases"] == [] and second["ref"] == "default/stream@v2"
    lines = orthoplex("adapters", "list", "--store", begun.root).out.splitlines()
    assert [line.split()[:7] for line in lines] == [
        ["default/stream@v1", "a", "AA", "80.0", "points", "100", "parameters"],
        ["default/stream@v2", "b", "AA", "65.0", "points", "100", "parameters"],
    ]  # fmt: skip


def test_adapters_list_in_an_empty_store(orthoplex: Orthoplex, tmp_path: Path) -> None:
    assert orthoplex("adapters", "list", "--store", tmp_path / "x") == (0, f"no adapters in {tmp_path / 'x'}\n", "")
    assert orthoplex("adapters", "list", "--store", tmp_path / "x", "--json").out == "[]\n"


def test_adapters_show(orthoplex: Orthoplex, begun: Any) -> None:
    shown = json.loads(orthoplex("adapters", "show", "stream@v2", "--store", begun.root, "--json").out)
    assert shown["task"] == "b" and [record["path"] for record in shown["manifest"]["files"]] == ["training.parquet"]
    code, out, err = orthoplex("adapters", "show", "default/stream@v1", "--store", begun.root)
    assert (code, err) == (0, "")
    assert "test accuracy of the tasks up to it: AA 80.0 ±17.5 points\n" in out
    assert "ref: default/stream@v1\n" in out and "overlap with earlier tasks: 25.00%\n" in out


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("stream@v3", "ADAPTER 'stream@v3': no such version; default/stream has v1, v2"),
        ("stream@v01", "ADAPTER 'stream@v01': no such version; default/stream has v1, v2"),
        ("stream", "ADAPTER 'stream': expected RUN@vN or RUN@ALIAS, as in quickstart@v1"),
        ("stream@latest", "ADAPTER 'stream@latest': no such alias; default/stream has none"),
        ("@v1", "ADAPTER '@v1': expected RUN@vN"),
        ("strem@v1", "RUN 'strem': not in the store"),
    ],
)
def test_unknown_adapters(refused: Callable[..., tuple[int, str]], begun: Any, reference: str, message: str) -> None:
    code, said = refused("adapters", "show", reference, "--store", begun.root)
    assert code == 2 and said.startswith(message)


def test_a_file_changed_in_the_store(refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    prefix = begun.state.commits[0].prefix
    (begun.root / prefix / "training.parquet").write_bytes(b"x")
    code, said = refused("explain", "stream", "--store", begun.root)
    assert code == 1 and "differs from its manifest" in said
    (begun.root / prefix / "manifest.json").unlink()
    code, said = refused("adapters", "show", "stream@v1", "--store", begun.root)
    assert code == 1 and "is missing" in said


def test_promote_list_and_roll_back(orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    store = ("--store", begun.root)
    first = orthoplex("adapters", "promote", "stream@v1", "--alias", "production", "--why", "first", *store)
    assert first == (0, "default/stream@production is v1 now (entry 5)\n", "")
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", "--expect", 5, *store)
    code, said = refused("adapters", "promote", "stream@v1", "--alias", "production", "--expect", 5, *store)
    assert code == 1 and "expected entry 5 to have moved it last, but entry 6" in said
    rows = json.loads(orthoplex("adapters", "list", "--json", *store).out)
    assert [row["aliases"] for row in rows] == [[], ["production"]]
    assert rows[1]["alias_revisions"] == {"production": 6}
    assert "production (moved by entry 6)" in orthoplex("adapters", "list", *store).out.splitlines()[1]
    assert json.loads(orthoplex("adapters", "show", "stream@production", "--json", *store).out)["version"] == 2
    out = orthoplex("adapters", "rollback", "default/stream@production", *store).out
    assert out == "default/stream@production is v1 again (entry 7)\n"
    assert "ref: default/stream@v1\n" in orthoplex("adapters", "show", "stream", "--alias", "production", *store).out
    code, said = refused("adapters", "rollback", "stream", *store)
    assert code == 2 and said.startswith("ALIAS 'stream': expected RUN@ALIAS")


def test_what_was_in_production(orthoplex: Orthoplex, refused: Callable[..., tuple[int, str]], begun: Any) -> None:
    store = ("--store", begun.root)
    orthoplex("adapters", "promote", "stream@v1", "--alias", "production", *store)
    moved = begun.track.head().time
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", *store)
    show = ("adapters", "show", "stream", "--alias", "production", *store)
    assert json.loads(orthoplex(*show, "--json", "--at", "2999-01-01").out)["version"] == 2
    assert json.loads(orthoplex(*show, "--json", "--at", moved).out)["version"] == 1
    code, said = refused(*show, "--at", "2000-01-01")
    assert code == 2 and "default/stream@production named nothing yet" in said
    code, said = refused("adapters", "show", "stream@v1", "--at", moved, *store)
    assert code == 2 and "always names the same version" in said


def test_the_tree(orthoplex: Orthoplex, begun: Any) -> None:
    orthoplex("adapters", "promote", "stream@v2", "--alias", "production", "--store", begun.root)
    lines = orthoplex("adapters", "show", "stream@v1", "--tree", "--store", begun.root).out.splitlines()
    assert lines[0] == f"minilm  sha256 {'b' * 64}"
    first, second = (line.split() for line in lines[1:])
    assert first[1:3] == ["default/stream@v1", "a"] and second[1:3] == ["default/stream@v2", "b"]
    assert second[-1] == "production" and first[3] == begun.state.commits[0].manifest_sha256[:12]


def test_pull(orthoplex: Orthoplex, begun: Any, tmp_path: Path) -> None:
    code, out, err = orthoplex("adapters", "pull", "stream@v2", tmp_path / "out", "--stream", "--store", begun.root)
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.parquet"))
    assert (code, out, err) == (0, f"{tmp_path / 'out'}: default/stream@v2, {size:,} bytes\n", "")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == [f"v0000000{n}/{name}" for n in (1, 2) for name in ("manifest.json", "training.parquet")]
