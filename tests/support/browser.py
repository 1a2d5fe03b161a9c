"""Chromium without a window, asked by the DevTools protocol over a pipe: JSON messages that end with a zero byte."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "report" / "chromium.sh"
ROOT = Path(os.environ.get("ORTHOPLEX_CHROMIUM_ROOT", "~/.cache/orthoplex/chromium")).expanduser()
NEEDED = (ROOT / "usr/lib/chromium/chromium-headless-shell", ROOT / "axe.min.js")
AXE = NEEDED[1]
ABSENT = None if all(each.is_file() for each in NEEDED) else f"no Chromium in {ROOT}; `make test-report` fetches it"


@dataclass
class Browser:
    """A page in a browser. `told` has the events so far, in order."""

    process: subprocess.Popen[bytes]
    told: list[dict[str, Any]] = field(default_factory=list)
    session: str = ""
    asked: int = 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while (answer := self._next()).get("id") != self.asked:
            self.told.append(answer)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        assert self.process.stdout
        data = bytearray()
        while (byte := self.process.stdout.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        message: dict[str, Any] = json.loads(data)
        return message

    def open(self, url: str, width: int = 1280, height: int = 900, media: Mapping[str, str] | None = None) -> None:
        """Goes to a page in a window of this size and waits until it is there."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": name, "value": value} for name, value in (media or {}).items()]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.told.clear()
        self.ask("Page.navigate", url=url)
        while not any(each.get("method") == "Page.loadEventFired" for each in self.told):
            self.told.append(self._next())

    def evaluate(self, code: str) -> Any:
        """The value of a JavaScript expression, or of what it promises."""
        found = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def complaints(self) -> list[str]:
        """What the page has put on the console or into its log, and what it has asked the network for."""
        found = []
        for each in self.told:
            told = each.get("params", {})
            match each.get("method"):
                case "Runtime.consoleAPICalled" | "Log.entryAdded" | "Runtime.exceptionThrown":
                    found.append(json.dumps(told))
                case "Network.requestWillBeSent" if not told["request"]["url"].startswith(("file:", "data:")):
                    found.append(told["request"]["url"])
        return found

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with one empty page, which ends with the block."""
    with tempfile.TemporaryDirectory(prefix="orthoplex-browser-") as profile:
        options = [
            "--no-sandbox",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--disable-gpu",
            "about:blank",
        ]
        command = ["bash", "-c", 'exec "$@" 3<&0 4>&1 1>&2', "bash", str(SCRIPT), "run", str(ROOT), *options]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            yield opened(Browser(process))
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(profile, ignore_errors=True)


def opened(found: Browser) -> Browser:
    """The same, attached to its page, whose events it takes."""
    (target,) = (each["targetId"] for each in found.ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
    found.session = found.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        found.ask(f"{domain}.enable")
    return found
