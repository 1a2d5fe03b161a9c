"""A report as HTML: one file without scripts, which asks the network for nothing.

Names, answers and reasons come from data and from logs that others write. Everything is escaped, characters that are
not shown become escapes, and the page's own policy forbids scripts, requests and forms.
"""

import io
import sys
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cluster.errors import ConfigError
from cluster.storage import Store
from cluster.storage.disk import refusal
from cluster.words import printable
from orchestrator.delivery.parts import Mirror
from orchestrator.delivery.tables import replacing
from orchestrator.log.chain import Log
from orchestrator.registry.references import find_log
from orchestrator.report.blocks import Page
from orchestrator.report.run import run_page
from orchestrator.report.source import Source
from orchestrator.report.svg import drawing
from orchestrator.report.sweep import sweep_page
from orchestrator.track.provenance import package_version
from orchestrator.track.track import Track
from trainers.data.files import S3

TEMPLATES = files("orchestrator").joinpath("templates")


def report_of(store: Store, name: str) -> str:
    """The report of the run, or else the sweep, with a name. Raises ConfigError if there is none."""
    found = find_log(store, name)
    with drawing():
        return html_of(page_of(store, found))


def page_of(store: Store, found: Log) -> Page:
    """What the report of a log says."""
    return run_page(Source.of(found)) if isinstance(found, Track) else sweep_page(store, found)


def html_of(page: Page, now: datetime | None = None) -> str:
    """The page. `now` is when it is made."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=harmless,
    )
    template = environment.from_string(TEMPLATES.joinpath("report.html").read_text("utf-8"))
    style = Markup(TEMPLATES.joinpath("report.css").read_text("utf-8"))
    made = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    return template.render(page=page, style=style, made=made, version=package_version("orthoplex"), svg=Markup)


def harmless(value: object) -> object:
    """What is put into the page; characters without a form become escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write(text: str, target: str) -> None:
    """Writes a page: to a file or an object, which appears whole, or to standard output (`-`).

    Raises:
        ConfigError: the file cannot be written, or the URI names no object. StoreError: the bucket cannot be written.
    """
    data = text.encode()
    if target == "-":
        sys.stdout.flush()
        out = sys.stdout.buffer if isinstance(sys.stdout, io.TextIOWrapper) else None
        sys.stdout.write(text) if out is None else out.write(data)
        return
    if target.startswith(S3):
        mirror = Mirror.of(target)
        mirror.store.put(mirror.key, data)
        return
    try:
        with replacing(Path(target)) as staging:
            staging.write_bytes(data)
    except OSError as error:
        raise ConfigError(str(refusal(f"--output {target}: cannot be written", error, "choose another"))) from None
