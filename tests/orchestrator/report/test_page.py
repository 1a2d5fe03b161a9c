"""A report as HTML: whole, harmless, within its size, of any run; and where it is written."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.storage import open_store
from orchestrator.report.blocks import Grid, Page, Picture, Section, Tile, Verbatim, Words
from orchestrator.report.page import html_of, report_of, write
from tests.golden.golden import copy_to
from tests.orchestrator.report.conftest import NAMES, Read, fourteen

HOSTILE = "<script>alert(1)</script>\x1b[31m\x00"
MOST_BYTES = 3_000_000


def page(*blocks: Any, **more: Any) -> str:
    sections = [Section("one", HOSTILE, blocks, "nothing & none")]
    made = Page(HOSTILE, "running", [HOSTILE], [Tile(HOSTILE, HOSTILE, HOSTILE)], sections, [HOSTILE], **more)
    return html_of(made, datetime(2026, 1, 2, 3, 4, tzinfo=UTC))


def test_what_others_wrote_is_harmless() -> None:
    table = Grid(HOSTILE, (HOSTILE, "n"), [[HOSTILE, HOSTILE]], frozenset({1}), folded=True)
    found = page(Words([HOSTILE]), Verbatim(HOSTILE, HOSTILE), table, Picture(HOSTILE, HOSTILE, "<svg></svg>", table))
    read = Read(found)
    assert read.all("script") == [] and "\x1b" not in found and "\x00" not in found
    assert read.text.count("<script>alert(1)</script>\\x1b[31m\\x00") > 10
    assert read.all("meta")[2]["content"] and "default-src 'none'" in str(read.all("meta")[2]["content"])
    assert "Made 2026-01-02 03:04 UTC" in read.text


def test_the_form_of_the_parts() -> None:
    table = Grid("Numbers", ("task", "score"), [["a", "1.0"]], frozenset({1}))
    read = Read(page(table, Picture("A name", "what it shows", "<svg></svg>")))
    assert [each.get("scope") for each in read.all("th")] == ["col", "col", "row"]
    (picture,) = (each for each in read.all("div") if each.get("role") == "img")
    ids = {each["id"] for _, each in read.elements if "id" in each}
    assert {picture["aria-labelledby"], picture["aria-describedby"]} <= ids
    assert read.all("html")[0]["lang"] == "en" and read.all("a")[0]["href"] == "#main"
    assert "nothing & none" in Read(page()).text


def test_a_run_of_fourteen_tasks(tmp_path: Path) -> None:
    fourteen(tmp_path / "store")
    found = report_of(open_store(str(tmp_path / "store")), "stream")
    read = Read(found)
    assert len(found.encode()) < MOST_BYTES and read.all("script") == [] and len(read.all("svg")) >= 7
    ids = [each["id"] for _, each in read.elements if "id" in each]
    assert len(ids) == len({*ids})
    assert {str(each["href"]).removeprefix("#") for each in read.all("a")} <= {*ids}
    for name in NAMES:
        assert name.replace("\u202e", "\\u202e") in read.text
    assert not [each for each in read.all("image") if not str(each.get("xlink:href")).startswith("data:")]


@pytest.mark.parametrize("name", ["stream", "diverged", "unread", "published", "grid"])
def test_old_stores(name: str, tmp_path: Path) -> None:
    """Of the first version: runs that finished, failed, or hold operations of later versions; published versions; a
    sweep."""
    read = Read(report_of(open_store(copy_to(tmp_path).store), f"golden/{name}"))
    assert f"golden/{name}" in read.text and read.all("h2")


def test_where_it_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str], s3_bucket: str) -> None:
    target = tmp_path / "r.html"
    write("τ <p>", str(target))
    write("newer", str(target))
    assert target.read_text("utf-8") == "newer" and [*tmp_path.iterdir()] == [target]
    write("τ <p>", "-")
    assert capfd.readouterr().out == "τ <p>"
    write("τ", f"s3://{s3_bucket}/reports/r.html")
    assert open_store(f"s3://{s3_bucket}").get("reports/r.html") == "τ".encode()
    for wrong, said in (
        (tmp_path / "no" / "r.html", "cannot be written"),
        (tmp_path, "Is a directory"),
        (".", "Is a directory"),
        (f"s3://{s3_bucket}", "names no object"),
    ):
        with pytest.raises(ConfigError, match=said):
            write("x", str(wrong))
