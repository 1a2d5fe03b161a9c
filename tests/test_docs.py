"""What the documentation says that can be checked without running it: links, messages, commands, configurations. The
site itself is built by `make docs`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli.main import app
from orchestrator.config.examples import examples, folder
from orchestrator.config.run import load_config
from orchestrator.sweeps.config import load_sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("orthoplex", "orchestrator", "trainers", "cluster")
LEAST = 7  # characters of a fragment of a message that must be found; shorter ones say nothing


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it of the headings here."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def strings(node: ast.AST) -> Iterator[str]:
    """The strings in a module's code, with … for what f-strings put in; those that stand beside each other are one."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for inner in ast.iter_child_nodes(node):
        yield from strings(inner)


def unknown_fragments(message: str, known: str) -> list[str]:
    """The parts of a message between … that no string of the code has."""
    return [part for part in map(str.strip, message.split("…")) if len(part) >= LEAST and part not in known]


def test_messages_to_look_up_are_messages_of_the_code() -> None:
    modules = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    known = "\n".join(each for path in modules for each in strings(ast.parse(path.read_text("utf-8"))))
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    messages = [found.strip("`") for found in re.findall(r"^### (.*)$", page, re.MULTILINE)]
    assert len(messages) > 30
    assert {message: lost for message in messages if (lost := unknown_fragments(message, known))} == {}
    assert unknown_fragments("this is said by … nothing at all", known) == ["this is said by", "nothing at all"]


def verbs(command: Any, path: str = "") -> dict[str, set[str]]:
    found = {path: {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}}
    for name, inner in getattr(command, "commands", {}).items():
        found |= verbs(inner, f"{path} {name}".strip())
    return found


def commands(page: str) -> Iterator[str]:
    """Commands of `orthoplex` in blocks of code, and in spans."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"(?<!`)`(orthoplex [^`\n]+)`(?!`)", page)
    for line in [*lines, *spans]:
        words = re.sub(r"^\s*(?:\$ )?", "", line)
        if words.startswith("orthoplex "):
            yield re.split(r"\s{2,}|\s#\s|\s*[|>;]\s", words.removeprefix("orthoplex "))[0]


def faults(command: str, known: dict[str, set[str]]) -> list[str]:
    """The words of a command that are neither its verb nor one of its options."""
    words = command.split()
    if words[0].startswith("-"):
        return sorted({*words} - known[""])
    groups = {verb.partition(" ")[0] for verb in known if " " in verb}
    verb = " ".join(words[: 2 if words[0] in groups else 1])
    if verb not in known and words[-1] != "…":
        return [words[-1] if len(words) < 3 else verb]
    given = {word.strip("[]…,.)").partition("=")[0] for word in words if word.lstrip("[").startswith("--")}
    return sorted(given - known.get(verb, set()) - {"--help"})


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_have_verbs_and_options_that_exist(page: Path) -> None:
    if page.name in ("experiment_log.md", "changelog.md"):
        return  # what was run then
    known = verbs(typer.main.get_command(app))
    wrong = {each: found for each in commands(page.read_text("utf-8")) if (found := faults(each, known))}
    assert wrong == {}


def test_a_wrong_command_is_seen() -> None:
    known = verbs(typer.main.get_command(app))
    block = "```\n$ orthoplex plan x --sett a=1   # c\northoplex plam\n```\n"
    page = f"{block}and `orthoplex adapters lift`, `orthoplex run X`\n"
    assert [faults(each, known) for each in commands(page)] == [["--sett"], ["plam"], ["lift"], []]


def test_every_example_is_a_configuration() -> None:
    assert {"quickstart", "quickstart_llm", "sweeps/quickstart"} <= {*examples()}
    for name in examples():
        path = folder() / f"{name}.yaml"
        assert (load_sweep(path) if name.startswith("sweeps/") else load_config(path)).name
    tutorial = ROOT / "docs/examples/tutorial.yaml"
    assert load_config(tutorial).tasks[0].name == "library"
    assert f"```yaml\n{tutorial.read_text()}```\n" in (ROOT / "docs/tutorial.md").read_text()
