"""Reports in a real browser: no message on the console, no request, no violation that axe-core finds; wide and narrow,
light and dark, and on paper. Without Chromium it is skipped; `make test-report` fetches one."""

import json
from collections.abc import Iterator

import pytest

from cluster.storage import open_store
from orchestrator.report.page import report_of
from tests.golden.golden import copy_to
from tests.orchestrator.report.conftest import fourteen
from tests.support.answering import done, generative
from tests.support.begun_sweeps import TRIALS_DONE, begun
from tests.support.browser import ABSENT, AXE, Browser, browser
from tests.support.fake_workers import without_ray
from tests.support.sweeps import in_store

pytestmark = pytest.mark.skipif(ABSENT is not None, reason=f"{ABSENT}")
VIOLATIONS = (
    "axe.run().then(found => JSON.stringify(found.violations.map("
    "each => [each.id, each.help, each.nodes.slice(0, 3).map(node => node.html.slice(0, 200))])))"
)
OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of reports by what they are of."""
    folder, found = tmp_path_factory.mktemp("reports"), {}
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        fourteen(folder / "fourteen")
        done(generative(folder / "generative"))
    begun(in_store(str(folder / "sweep")), TRIALS_DONE)
    (folder / "old").mkdir()
    copy_to(folder / "old")
    asked = {
        "fourteen": ("fourteen", "stream"), "generative": ("generative", "stream"), "sweep": ("sweep", "s"),
        "unread": ("old/store", "golden/unread"),
    }  # fmt: skip
    for key, (store, name) in asked.items():
        path = folder / f"{key}.html"
        path.write_text(report_of(open_store(str(folder / store)), name), "utf-8")
        found[key] = path.as_uri()
    return found


@pytest.mark.parametrize("key", ["fourteen", "generative", "sweep", "unread"])
def test_no_complaint_and_no_violation(chromium: Browser, reports: dict[str, str], key: str) -> None:
    for width, scheme in ((1440, "light"), (390, "dark")):
        chromium.open(reports[key], width, 900, {"prefers-color-scheme": scheme})
        chromium.evaluate(OPEN_ALL)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width
        assert chromium.complaints == []
        chromium.evaluate(AXE.read_text("utf-8") + "; 0")
        assert json.loads(chromium.evaluate(VIOLATIONS)) == []


def test_a_script_in_a_name_does_not_run(chromium: Browser, reports: dict[str, str]) -> None:
    chromium.open(reports["fourteen"])
    assert chromium.evaluate("document.scripts.length") == 0
    assert "<script>alert(1)</script>" in chromium.evaluate("document.body.innerText")


def test_by_keyboard(chromium: Browser, reports: dict[str, str]) -> None:
    """The first stop leads to the report; what scrolls can be reached."""
    chromium.open(reports["fourteen"])
    for kind in ("keyDown", "keyUp"):
        chromium.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert chromium.evaluate("document.activeElement.className") == "skip"
    unreached = "[...document.querySelectorAll('.scroll')].filter(each => each.tabIndex !== 0).length"
    assert chromium.evaluate(unreached) == 0


def test_on_paper(chromium: Browser, reports: dict[str, str]) -> None:
    chromium.open(reports["generative"])
    assert chromium.pdf().startswith(b"%PDF-")
    chromium.ask("Emulation.setEmulatedMedia", media="print")
    assert chromium.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
