"""What the code's layout is measured by: `make measure` prints the table that stands in docs/design.md.

    folder modules     the most Python modules in one folder, __init__ left out
    Any per 1,000      mentions of Any, of aliases of Any, of `object` as a value's type, `cast` and `type: ignore`
    floors             import-linter's contracts in pyproject.toml, kept or broken
    circles            groups of modules that import each other while they are imported
    body keys          entry bodies indexed by string outside orchestrator/track/events.py
    function lines     median and longest, decorators and docstring included

Usage: python -m benchmarks.house [--json]. The exit code is 1 if a bound is broken.
"""

import argparse
import ast
import json
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("orthoplex", "orchestrator", "trainers", "cluster")
MOST_MODULES, MOST_ANY, MOST_MEDIAN, MOST_LINES = 16, 6.0, 7, 60
EVENTS = "orchestrator/track/events.py"
BODY_KEY = re.compile(r"\b(?:body|commit)(?:\[|\.get\(|\.pop\()\s*[\"']")
IGNORE = re.compile(r"#\s*type:\s*ignore")


@dataclass(frozen=True, kw_only=True)
class House:
    """The figures of one tree."""

    modules: int
    lines: int
    most_modules_in_a_folder: tuple[str, int]
    any_per_1000: dict[str, float]
    circles: list[list[str]]
    body_keys: list[str]
    median_function_lines: float
    longest_function: tuple[str, int]

    def faults(self) -> list[str]:
        """The bounds that are broken, one line each."""
        folder, most = self.most_modules_in_a_folder
        name, longest = self.longest_function
        found = [f"{folder}: {most} modules"] * (most > MOST_MODULES)
        found += [f"orchestrator: {self.any_per_1000['orchestrator']:.1f} Any per 1,000 lines"] * (
            self.any_per_1000["orchestrator"] >= MOST_ANY
        )
        found += [f"circle: {', '.join(circle)}" for circle in self.circles]
        found += [f"body key: {place}" for place in self.body_keys]
        found += [f"median function: {self.median_function_lines} lines"] * (self.median_function_lines > MOST_MEDIAN)
        return found + [f"{name}: {longest} lines"] * (longest > MOST_LINES)


def measure(root: Path = ROOT) -> House:
    """Reads every module of the three packages."""
    texts = {
        path.relative_to(root).as_posix(): path.read_text("utf-8")
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    trees = {name: ast.parse(text) for name, text in texts.items()}
    folders = Counter(str(Path(name).parent) for name in texts if not name.endswith("__init__.py"))
    sizes = [
        (f"{name}:{function.name}", lines(function)) for name, tree in trees.items() for function in functions(tree)
    ]
    return House(
        modules=len(texts),
        lines=sum(len(text.splitlines()) for text in texts.values()),
        most_modules_in_a_folder=folders.most_common(1)[0],
        any_per_1000={package: any_share(package, texts, trees) for package in PACKAGES},
        circles=circles(trees),
        body_keys=[
            f"{name}:{number}"
            for name, text in texts.items()
            if name.startswith("orchestrator/") and name != EVENTS
            for number, line in enumerate(text.splitlines(), start=1)
            if BODY_KEY.search(line)
        ],
        median_function_lines=statistics.median(size for _, size in sizes),
        longest_function=max(sizes, key=lambda item: item[1]),
    )


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, from its first decorator to its end."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def any_share(package: str, texts: dict[str, str], trees: dict[str, ast.Module]) -> float:
    """Uses per 1,000 lines of whatever switches the type checker off."""
    mine = [name for name in texts if name.startswith(f"{package}/")]
    aliases = {"Any"} | {alias for name in mine for alias in any_aliases(trees[name])}
    uses = sum(any_uses(trees[name], aliases) + len(IGNORE.findall(texts[name])) for name in mine)
    return 1000 * uses / sum(len(texts[name].splitlines()) for name in mine)


def any_aliases(tree: ast.Module) -> Iterator[str]:
    """Names that a module gives to Any or to something made of it."""
    made = (ast.Name, ast.Subscript, ast.BinOp)
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, made) and "Any" in _names(node.value):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def any_uses(tree: ast.Module, aliases: set[str]) -> int:
    """Mentions of Any and its aliases, `object` as the type of a value, and `cast` called."""
    found = sum(isinstance(node, ast.Name) and node.id in aliases for node in ast.walk(tree))
    found += sum(_annotates_object(node) for node in ast.walk(tree))
    return found + sum(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast"
        for node in ast.walk(tree)
    )


def _annotates_object(node: ast.AST) -> int:
    """How often an annotation is made of `object`. What only must exist, as *_ of __exit__, is none."""
    if isinstance(node, ast.arg):
        return int(not node.arg.startswith("_") and "object" in _names(node.annotation))
    return int(isinstance(node, ast.AnnAssign) and "object" in _names(node.annotation))


def _names(node: ast.AST | None) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} if node else set()


def circles(trees: dict[str, ast.Module]) -> list[list[str]]:
    """Groups of modules that import each other at their top level (Tarjan's components of two or more)."""
    names = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for name, tree in trees.items()}
    arrows = {name: {found for found in imported(tree) if found in names} for name, tree in names.items()}
    reach = {name: reachable(name, arrows) for name in arrows}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in arrows if a in reach[a]}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules, and members that may be modules, which a module's top level imports."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """What can be reached from `start` along one arrow or more."""
    found, waiting = set[str](), [*arrows[start]]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += arrows[name]
    return found


def main() -> int:
    """Prints the figures and what breaks a bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    house = measure()
    if parser.parse_args().json:
        print(json.dumps(asdict(house), indent=1))
    else:
        for name, value in asdict(house).items():
            print(f"{name:<26} {value}")
    linted = subprocess.run(["lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    print(next((line for line in linted.stdout.splitlines() if line.startswith("Contracts:")), linted.stderr))
    for fault in house.faults():
        print(f"broken: {fault}", file=sys.stderr)
    return int(bool(house.faults()) or linted.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
