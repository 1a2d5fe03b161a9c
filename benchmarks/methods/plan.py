"""What is to be measured: the file of methods and streams, the cells that it asks for, and those that are missing.

A cell is a method with its settings on one stream with one seed. Settings are merged in this order, later ones win:
`common`, the stream's, the method's, the tuned values. Its key holds a digest of the settings as they are written, so
a default that changes in the product does not make a new cell; the line of a cell names the commit that measured it.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

from pydantic import Field, ValidationError

from cluster.errors import ConfigError, OrthoplexError
from cluster.schema import Frozen
from orchestrator.config.file import read_mapping
from orchestrator.config.run import RunConfig, parse_config

Settings = dict[str, Any]
Line = Mapping[str, Any]
HERE = Path(__file__).parents[1]
PLAN, RESULTS = HERE / "methods.yaml", HERE / "results" / "methods.jsonl"
MOST_TUNED = 4  # settings per method


class Stream(Frozen):
    """One order of tasks. `group` is the table in which it stands. Of each method at most `seeds` seeds are run.
    `names` are the values that `$name` has in the `adapter` section of methods; `$tasks` is the number of tasks. Values
    that were tuned hold for it if it is `tuned`; values in `override` win over the method's own. `olora` is the number
    of parameters that O-LoRA keeps at rank 16.
    `estimate_s` is how long a cell takes as long as none was measured."""

    group: str
    tasks: tuple[str | dict[str, Any], ...]
    names: dict[str, Any]
    settings: Settings = Field(default_factory=dict)
    override: Settings = Field(default_factory=dict)
    tuned: bool = True
    seeds: int | None = None
    methods: tuple[str, ...] | None = None
    olora: int | None = None
    estimate_s: float = 300.0


class Method(Frozen):
    """One row of the table. Each of `tune` is a setting by dotted keys; the best on validation is used everywhere.
    `streams` limits it to some. A `bound` is no rival: it knows the task, or sees all tasks at once. `assumed` are
    defaults of the product on which the settings rest: they are merged below all, and are no part of a cell's digest,
    so they can be written down once a default changes."""

    label: str
    settings: Settings
    assumed: Settings = Field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    tune: tuple[dict[str, Any], ...] = ()
    streams: tuple[str, ...] | None = None
    bound: bool = False


class Plan(Frozen):
    """The whole file. `ours` is the method that others are compared with; tuning is on the stream `tune_on`, seed 0."""

    ours: str
    tune_on: str
    common: Settings
    tasks: dict[str, dict[str, Any]]
    streams: dict[str, Stream]
    methods: dict[str, Method]

    def groups(self) -> dict[str, list[str]]:
        """The names of streams by group, in the order of the file."""
        found: dict[str, list[str]] = {}
        for name, stream in self.streams.items():
            found.setdefault(stream.group, []).append(name)
        return found

    def seeds(self, method: str, stream: str) -> tuple[int, ...]:
        """The seeds of a method on a stream; none if it is not asked for there."""
        asked, place = self.methods[method], self.streams[stream]
        if asked.streams is not None and stream not in asked.streams:
            return ()
        if asked.streams is None and place.methods is not None and method not in place.methods:
            return ()
        return asked.seeds[: place.seeds]


def read_plan(path: Path) -> Plan:
    """The plan in a YAML file.

    Raises:
        ConfigError: it cannot be read, a key or value is wrong, or it names what is not in it.
    """
    try:
        plan = Plan.model_validate(read_mapping(path))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ConfigError("\n  ".join([f"{path}: {len(lines)} errors", *lines])) from None
    for name, there in (("ours", plan.methods), ("tune_on", plan.streams)):
        known(f"{path}: {name}", [getattr(plan, name)], there)
    for name, stream in plan.streams.items():
        known(f"{path}: streams.{name}.tasks", [task for task in stream.tasks if isinstance(task, str)], plan.tasks)
        known(f"{path}: streams.{name}.methods", stream.methods or (), plan.methods)
    for name, method in plan.methods.items():
        known(f"{path}: methods.{name}.streams", method.streams or (), plan.streams)
        if len(method.tune) > MOST_TUNED:
            raise ConfigError(f"{path}: methods.{name}.tune: {len(method.tune)} settings; at most {MOST_TUNED}")
    return plan


def known(where: str, names: Collection[str], there: Collection[str]) -> None:
    """Raises ConfigError if one of the names is not there."""
    if absent := [name for name in names if name not in there]:
        raise ConfigError(f"{where}: {absent[0]!r} is not there; there are {', '.join(there)}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method with tuned `values` on a stream with a seed; `settings` are those of the run, as they are written, over
    what is `assumed` of defaults."""

    method: str
    stream: str
    seed: int
    values: Settings
    settings: Settings
    assumed: Settings = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of the sha256 of the settings that say what is learned: of all but
        `evaluate`."""
        learned = {key: value for key, value in self.settings.items() if key != "evaluate"}
        return hashlib.sha256(json.dumps(learned, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def key(self) -> str:
        """Equal keys, equal cells."""
        return f"{self.method}/{self.stream}/{self.seed}/{self.digest}"

    def config(self, **more: Any) -> RunConfig:
        """The run's configuration; `more` are top-level keys, and sections to be merged with the cell's.

        Raises:
            ConfigError: this Orthoplex does not know a method, a key or a value.
        """
        return parse_config(merged(merged({"name": self.name, **self.assumed}, self.settings), more), self.key)

    @property
    def name(self) -> str:
        """The name of its run."""
        return self.key.replace("/", "-").lower()

    @property
    def fault(self) -> str | None:
        """Why it cannot be run by this Orthoplex; None if it can."""
        return _fault(self)

    def named(self) -> Settings:
        """What a line says of which cell it is."""
        return {
            "key": self.key, "method": self.method, "stream": self.stream, "seed": self.seed, "values": self.values,
            "digest": self.digest,
        }  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.key)


@cache
def _fault(cell: Cell) -> str | None:
    try:
        cell.config()
    except OrthoplexError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        return lines[min(1, len(lines) - 1)]
    return None


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> Settings:
    """`base` with the values of `more`; sections are merged key by key."""
    both = {**base, **more}
    for key in base.keys() & more.keys():
        if isinstance(base[key], Mapping) and isinstance(more[key], Mapping):
            both[key] = merged(base[key], more[key])
    return both


def nested(values: Mapping[str, Any]) -> Settings:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    found: Settings = {}
    for key, value in values.items():
        *path, last = key.split(".")
        inner = {last: value}
        for each in reversed(path):
            inner = {each: inner}
        found = merged(found, inner)
    return found


def cell(plan: Plan, method: str, stream: str, seed: int, values: Mapping[str, Any]) -> Cell:
    """The cell with these tuned values."""
    place = plan.streams[stream]
    settings = merged(plan.common, place.settings)
    for part in (plan.methods[method].settings, nested(values), place.override, {"train": {"seed": seed}}):
        settings = merged(settings, part)
    names = {"tasks": len(place.tasks), **place.names}
    adapter = {key: named_value(value, names) for key, value in settings["adapter"].items()}
    tasks = [{"name": task, **plan.tasks[task]} if isinstance(task, str) else task for task in place.tasks]
    return Cell(
        method=method,
        stream=stream,
        seed=seed,
        values=dict(values),
        settings={**settings, "adapter": adapter, "tasks": tasks},
        assumed=plan.methods[method].assumed,
    )


def named_value(value: Any, names: Mapping[str, Any]) -> Any:
    """The value that `$name` stands for. Raises ConfigError if there is no such name."""
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    known("methods", [value[1:]], names)
    return names[value[1:]]


def grid(plan: Plan, method: str) -> list[Cell]:
    """The cells on which a method is tuned; none if it is not."""
    return [cell(plan, method, plan.tune_on, 0, values) for values in plan.methods[method].tune]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What tuning found: the values that were best on validation, and the validation AA of all that were tried."""

    method: str
    values: Settings
    tried: Sequence[tuple[Settings, float | None]]

    def line(self, plan: Plan) -> Settings:
        """As the results file has it."""
        tried = [{"values": values, "validation_aa": score} for values, score in self.tried]
        digest = hashlib.sha256(json.dumps(tried, sort_keys=True).encode()).hexdigest()[:12]
        return {
            "key": f"choice/{self.method}/{digest}", "method": self.method, "stream": plan.tune_on, "seed": 0,
            "chosen": self.values, "tried": tried,
        }  # fmt: skip


def choice(plan: Plan, method: str, lines: Mapping[str, Line]) -> Choice | None:
    """The choice among a method's grid, the first of equals; None if cells are missing, or if all failed."""
    cells = grid(plan, method)
    if any(each.key not in lines and not each.fault for each in cells):
        return None
    tried = [(each.values, validation_aa(lines.get(each.key, {"error": each.fault}))) for each in cells]
    scored = [(score, -place) for place, (_, score) in enumerate(tried) if score is not None]
    return Choice(method=method, values=tried[-max(scored)[1]][0], tried=tried) if scored else None


def validation_aa(line: Line) -> float | None:
    """AA on validation after the last task; None if the cell failed."""
    return None if "error" in line else mean(line["validation"][-1])


def values_of(plan: Plan, method: str, stream: str, lines: Mapping[str, Line]) -> Settings | None:
    """The tuned values of a method on a stream: an empty mapping if it is not tuned, None if they are not known yet."""
    if not plan.methods[method].tune or not plan.streams[stream].tuned:
        return {}
    found = choice(plan, method, lines)
    return found.values if found else None


@dataclass(frozen=True)
class Asked:
    """A part of the plan; None is all of it."""

    methods: Collection[str] | None = None
    streams: Collection[str] | None = None
    seeds: Collection[int] | None = None

    def takes(self, method: str, stream: str, seed: int) -> bool:
        """Whether a cell is in it."""
        parts = ((self.methods, method), (self.streams, stream), (self.seeds, seed))
        return all(part is None or value in part for part, value in parts)


ALL = Asked()


def cells(plan: Plan, lines: Mapping[str, Line], asked: Asked = ALL) -> Iterator[Cell | tuple[str, str, int]]:
    """Every cell of the plan: first those of tuning, then the others. A cell whose tuned values are not known yet
    stands as (method, stream, seed)."""
    for method in plan.methods:
        if any(
            asked.takes(method, stream, seed) for stream, seed in places(plan, method) if plan.streams[stream].tuned
        ):
            yield from grid(plan, method)
    for stream in plan.streams:
        for method in plan.methods:
            for seed in plan.seeds(method, stream):
                if asked.takes(method, stream, seed):
                    values = values_of(plan, method, stream, lines)
                    yield (method, stream, seed) if values is None else cell(plan, method, stream, seed, values)


def places(plan: Plan, method: str) -> list[tuple[str, int]]:
    """The streams and seeds of a method."""
    return [(stream, seed) for stream in plan.streams for seed in plan.seeds(method, stream)]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What the results file lacks: cells that can be run now, those that wait for tuning, and those that this
    Orthoplex cannot run, with the reason."""

    ready: Sequence[Cell]
    waiting: Sequence[tuple[str, str, int]]
    faulty: Sequence[tuple[Cell, str]]


def missing(plan: Plan, lines: Mapping[str, Line], asked: Asked = ALL, *, retry: bool = False) -> Missing:
    """What is missing of a part of the plan. Cells that failed are missing if they are to be tried again."""
    found = list(dict.fromkeys(cells(plan, lines, asked)))
    there = [each for each in found if isinstance(each, Cell)]
    open_ = [each for each in there if each.key not in lines or (retry and "error" in lines[each.key])]
    return Missing(
        ready=[each for each in open_ if not each.fault],
        waiting=[each for each in found if not isinstance(each, Cell)],
        faulty=[(each, each.fault) for each in open_ if each.fault],
    )


def estimate_s(plan: Plan, stream: str, lines: Mapping[str, Line], gpu: bool) -> float:
    """Seconds that a cell is reckoned to take: the median of those of its stream that were measured from their begin,
    on a GPU or on a CPU; or what the plan says."""
    took = [
        line["wall_s"] for line in lines.values()
        if line.get("stream") == stream and "wall_s" in line and not line.get("resumed")
        and gpu == (line["peak_gpu_bytes"] is not None)
    ]  # fmt: skip
    return median(took) if took else plan.streams[stream].estimate_s
