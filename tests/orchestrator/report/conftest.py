"""Runs whose reports are read: of many tasks with hostile names, of generative tasks; and a reader of HTML."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import open_store
from orchestrator.registry.references import find_track
from orchestrator.report.source import Source
from orchestrator.report.svg import drawing
from orchestrator.run.controller import Controller
from tests.orchestrator.conftest import ROWS, FakeRun, config_of
from tests.support.fake_workers import FakeWorkers, Told, run_config, without_ray

NAMES = (
    "dbpedia", "agnews", "<script>alert(1)</script>", "yelp $x^2", "a&b\"'", "café \u202e", "imdb", "sst2", "mnli",
    "qqp", "boolq", "rte", "wic", "cb",
)  # fmt: skip
VOID = {"meta", "br", "link"}


class Read(HTMLParser):
    """The elements of a page, as (tag, attributes), and its text outside styles. Ends must match their beginnings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def committed(store: Path, tasks: Any = ("a", "b", "c"), **sections: Any) -> Source:
    """A finished run of classification tasks, of which the first is forgotten by nobody and the second is always half
    right."""
    config = run_config(store, tasks, **sections)
    accuracy = {index: 0.4 + 0.04 * index for index in range(len(tasks))}
    Controller(config, Told(), workers=FakeWorkers(config, accuracy=accuracy)).run()
    return source_of(store)


def fourteen(store: Path) -> Source:
    """A run of fourteen tasks whose names and labels are hostile, as a log may have them that others wrote."""
    tame = [f"t{place}" for place in range(len(NAMES))]
    priced = {"gpu_hour": 1.0, "base_flops": 1e20}
    config = config_of(tame, store=str(store), cost=priced, guards={"max_forgetting": 0.5}, cluster={"use_gpu": True})
    run = FakeRun(store, NAMES, team="default", name="stream", config=config)
    told = {"rows": ROWS, "labels": [NAMES[2], "\x07"], "fingerprint": "f" * 64, "warnings": [NAMES[2]]}
    run.open(NAMES, [{"name": name, **told, "floors": {"rows": 9, "scores": {NAMES[2]: 0.2}}} for name in NAMES])
    for learned in range(1, len(NAMES) + 1):
        run.commit([0.8 - 0.02 * (learned - task) if task < learned else 0.3 for task in range(len(NAMES))])
    run.append("fail", {"reason": f"{NAMES[2]} \x1b[31m"})
    return source_of(store)


def source_of(store: Path, name: str = "stream") -> Source:
    return Source.of(find_track(open_store(str(store)), name))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


@pytest.fixture
def drawn() -> Iterator[None]:
    """Pictures are drawn as in a report."""
    with drawing():
        yield


@pytest.fixture
def three(tmp_path: Path, no_ray: None, drawn: None) -> Source:
    """A finished run of three tasks."""
    return committed(tmp_path / "store")
