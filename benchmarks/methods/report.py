"""docs/results.md, made from the results file alone: what is not there is listed as missing."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.methods import pictures, tables
from benchmarks.methods.plan import Cell, Line, Plan, cells

INTRODUCTION = """\
# Results: methods beside each other

Made by `python -m benchmarks.methods --write` from
`benchmarks/results/methods.jsonl`; not to be edited. Methods, settings, orders and seeds are those of
`benchmarks/methods.yaml`. A line of the file is one run of a stream, by the real controller and a real store. To
measure what is missing:

    PYTHONPATH=. python -m benchmarks.methods --data-dir PATH --jobs 16

All methods have the same rows, steps and model. Settings were tuned on order 1 of four tasks, on validation, at most
four per method. The test rows are those of the benchmark's files at hand; dbpedia, yelp, IMDB and MultiRC are re-split
from what is public, so figures are not comparable with papers.
"""


def report(plan: Plan, lines: Mapping[str, Line], path: Path) -> str:
    """The page; draws its pictures into a folder of its name beside it."""
    parts = [INTRODUCTION, measured_on(plan, lines), tables.LEGEND]
    for group in plan.groups():
        parts.append(f"## {group}\n\n{orders(plan, group)}\n\n{tables.table(plan, group, lines)}")
        drawn = pictures.draw(plan, group, lines, path.with_suffix(""))
        parts += [f"![{picture.stem}]({picture.relative_to(path.parent).as_posix()})" for picture in drawn]
    parts.append(
        f"## What tuning chose\n\nOn {plan.tune_on}, seed 0, by AA on validation.\n\n{tables.choices(plan, lines)}"
    )
    parts.append(f"## What is missing\n\n{tables.absent(plan, lines) or 'Nothing.'}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def orders(plan: Plan, group: str) -> str:
    """The streams of a group, a line each."""
    listed = []
    for name in plan.groups()[group]:
        tasks = [task if isinstance(task, str) else task["name"] for task in plan.streams[name].tasks]
        shown = tasks if len(tasks) <= 20 else [*tasks[:6], "…", f"{len(tasks)} in all"]
        listed.append(f"- {name}: {', '.join(shown)}")
    return "\n".join(listed)


def measured_on(plan: Plan, lines: Mapping[str, Line]) -> str:
    """On which machines, with which versions and commits, how many cells; and whether bases differ."""
    asked = {each.key for each in cells(plan, lines) if isinstance(each, Cell)}
    there = [line for key, line in lines.items() if key in asked and "wall_s" in line]
    wheres = Counter(
        f"{line['machine']}, torch {line['torch']}, transformers {line['transformers']}, "
        f"DeepSpeed {line['deepspeed']}, commit {line['commit']}, {line['day']}, {line['beside']} at once"
        for line in there
    )
    listed = [f"- {where}: {count} cell{'s' * (count > 1)}" for where, count in sorted(wheres.items())]
    bases = {(line["stream"], line["base"]) for line in there}
    mixed = sorted(stream for stream in plan.streams if sum(each == stream for each, _ in bases) > 1)
    if mixed:
        listed.append(f"- The weights of the base differ among cells of {', '.join(mixed)}.")
    return "\n".join(["Measured on:", "", *(listed or ["- nothing yet"])])
