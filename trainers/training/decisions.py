"""What training decided per module: `decisions.parquet` beside an adapter, with one line per module and decision.

    when        UTC, ISO 8601: the end of the task's training
    run, task   team/name of the run that trained the task, also in a fork's copy; the task's name
    module      the layer
    decision    budget, protection or capacity
    rule        what decides, in words
    thresholds  JSON: what the rule compares with; keys of `adapter` keep their names
    inputs      JSON: what was measured
    outcome     JSON: what followed

The inputs of a budget are its `trajectory`, a sample of the training's steps: {"step", "loss", "rank", "tau", "g"}
with `g` the least |g|, its quartiles and the largest. `g` has |g| of all dimensions at the end, the largest first.
`off` says of each dimension that ended off from which logged step on it was (`step`), when it was on last (`after`;
null if in no logged step), and |g|, τ and the loss at that step. What is not known is null.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from cluster.errors import IntegrityError
from cluster.finite import finite
from trainers.method_config import MAX_OCCUPANCY, MethodConfig, OrthogonalityConfig

DECISIONS = "decisions.parquet"
MOST_SAMPLES = 24  # rows of a trajectory
JSON_COLUMNS = ("thresholds", "inputs", "outcome")
COLUMNS = ("when", "run", "task", "module", "decision", "rule", *JSON_COLUMNS)

NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "budget": {
        "thresholds": ("tau",), "inputs": ("steps", "trajectory", "g", "off"),
        "outcome": ("rank", "max_rank", "settled"),
    },
    "protection": {
        "thresholds": (), "inputs": ("tasks", "width", "written", "read", "overlap"),
        "outcome": ("written", "read", "dropped"),
    },
    "capacity": {
        "thresholds": ("max_occupancy",), "inputs": ("free",), "outcome": ("verdict", "side", "occupancy"),
    },
}  # fmt: skip

Kind = Literal["budget", "protection", "capacity"]
Told = Mapping[str, Any]  # as JSON has it
Shares = Mapping[str, Mapping[str, float]]  # module → figures, as in `methods.base`
Columns = Mapping[str, Sequence[Any]]  # of training.parquet


@dataclass(frozen=True, kw_only=True)
class ModuleDecision:
    """One line of the file."""

    when: str | None
    run: str
    task: str
    module: str
    decision: Kind
    rule: str
    thresholds: Told
    inputs: Told
    outcome: Told


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the decisions of a trained task are made from.

    `log` are the columns of its training log, perhaps with more rows, `budget` is its `Summary.budget`, `functional`
    the functional penalty of the last step, if the method has one. `before` and `after` are `Method.capacity` before
    and after it was added to the history; empty if that is not known. `overlaps` are the modules' own shares of output
    energy inside what the `earlier` tasks write.
    """

    when: str | None
    run: str
    task: str
    settings: MethodConfig
    log: Columns
    budget: Shares
    before: Shares
    after: Shares
    earlier: int
    overlaps: Mapping[str, float]
    functional: float | None = None

    def decisions(self) -> list[ModuleDecision]:
        """Those of all modules, module by module; none if the method decides nothing per module."""
        makers = (self.budget_of, self.protection_of, self.capacity_of)
        return [found for module in self.budget for make in makers if (found := make(module))]

    @property
    def head(self) -> dict[str, Any]:
        """The first columns of every line."""
        return {"when": self.when, "run": self.run, "task": self.task}

    def budget_of(self, module: str) -> ModuleDecision | None:
        """How many dimensions a module keeps, if the method lets layers differ."""
        if self.settings.chooses is None or f"rank/{module}" not in self.log:
            return None
        chosen, course = self.budget[module], Course.of(self.log, module)
        thresholds = {**choice(self.settings, module), "tau": chosen["tau"] if course.has_gates else None}
        inputs = {"steps": course.steps[-1], "trajectory": course.samples(), "g": course.final_g, "off": course.off()}
        outcome = {"rank": int(chosen["rank"]), "max_rank": int(chosen["max_rank"]), "settled": course.settled}
        return ModuleDecision(
            **self.head, module=module, decision="budget", rule=self.settings.chooses, thresholds=thresholds,
            inputs=inputs, outcome=outcome,
        )  # fmt: skip

    def protection_of(self, module: str) -> ModuleDecision | None:
        """Which directions earlier tasks keep of a module, and which ones this task adds."""
        if module not in self.after:
            return None
        width = self.width(module)
        then, now = (directions(shares.get(module), width) for shares in (self.before, self.after))
        inputs = {
            "tasks": self.earlier, "width": width, "written": then["written"], "read": then["read"],
            "overlap": self.overlaps.get(module), "functional": self.functional,
        }  # fmt: skip
        rule = "; ".join(self.settings.protects) or f"method {self.settings.method}"
        thresholds = self.settings.model_dump(mode="json", include={*self.settings.protection_keys})
        outcome = {**now, "dropped": self.after[module]["dropped"]}
        return ModuleDecision(
            **self.head, module=module, decision="protection", rule=rule, thresholds=thresholds, inputs=inputs,
            outcome=outcome,
        )  # fmt: skip

    def capacity_of(self, module: str) -> ModuleDecision | None:
        """How much room a module's bases have left."""
        ways, shares = self.settings.protection, self.after.get(module)
        if ways is None or shares is None:
            return None
        thresholds = {"max_occupancy": ways.max_occupancy, "saturation": ways.saturation}
        inputs = {**shares, "width": self.width(module), "counted": ways.counted}
        return ModuleDecision(
            **self.head, module=module, decision="capacity", rule=MAX_OCCUPANCY,
            thresholds=thresholds, inputs=inputs, outcome=room(ways, shares),
        )  # fmt: skip

    def width(self, module: str) -> int | None:
        """The width of a module: D, for free = D · (1 − the larger share); None if both bases are full, or unknown."""
        for shares in (each[module] for each in (self.before, self.after) if module in each):
            if left := 1 - max(shares["written"], shares["read"]):
                return round(shares["free"] / left)
        return None


def choice(settings: MethodConfig, module: str) -> dict[str, Any]:
    """The keys by which a module's dimensions are chosen, with its own values by pattern."""
    found: dict[str, Any] = settings.model_dump(mode="json", include={*settings.choice_keys})
    for key, patterns in settings.patterns.items():
        if patterns and (name := key.removesuffix("_pattern")) in found:
            from trainers.methods.targets import by_pattern  # imports torch

            found[name] = by_pattern(module, patterns, found[name])
    return found


def directions(shares: Mapping[str, float] | None, width: int | None) -> dict[str, int | None]:
    """How many directions of a module's width are written and read; before a first task none."""
    found = shares or {"written": 0.0, "read": 0.0}
    return {side: None if width is None else round(found[side] * width) for side in ("written", "read")}


def room(ways: OrthogonalityConfig, shares: Mapping[str, float]) -> dict[str, Any]:
    """The fuller of the bases that count, and what that means: `unbounded` if none counts, `full`, `above`
    max_occupancy, `dropped` if directions were let go of, else `room`."""
    sides = ways.counted
    if not sides:
        return {"verdict": "unbounded", "side": None, "occupancy": None}
    side = max(sides, key=lambda each: shares[each])
    occupancy, bound = shares[side], ways.max_occupancy
    verdict = "full" if occupancy >= 1 else "above" if occupancy > bound else "dropped" if shares["dropped"] else "room"
    return {"verdict": verdict, "side": side, "occupancy": occupancy}


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a module's dimensions went over n logged steps: `ranks` (n,), and with a threshold `taus` (n,) and `sizes`,
    |g| (n, R)."""

    steps: Sequence[int]
    losses: Sequence[float | None]
    ranks: Sequence[int]
    taus: Sequence[float] = ()
    sizes: Sequence[Sequence[float]] = ()

    @classmethod
    def of(cls, log: Columns, module: str) -> "Course":
        """That of a module in a training log."""
        taus, gates = log.get(f"tau/{module}", ()), log.get(f"g/{module}", ())
        return cls(
            steps=[int(step) for step in log["step"]],
            losses=log.get("loss", [None] * len(log["step"])),
            ranks=[int(rank) for rank in log[f"rank/{module}"]],
            taus=taus if gates else (),
            sizes=[[abs(g) for g in row] for row in gates] if taus else (),
        )

    @property
    def has_gates(self) -> bool:
        """Whether a threshold decided."""
        return bool(self.taus)

    @property
    def final_g(self) -> list[float] | None:
        """|g| at the end, the largest first; None without a threshold."""
        return sorted(self.sizes[-1], reverse=True) if self.has_gates else None

    @property
    def settled(self) -> int:
        """The logged step from which on the rank stood."""
        last = max((i for i, (one, next_) in enumerate(pairwise(self.ranks), 1) if one != next_), default=0)
        return self.steps[last]

    def samples(self) -> list[dict[str, Any]]:
        """At most MOST_SAMPLES rows, evenly, with the first and the last."""
        return [self.row(index) for index in evenly(len(self.steps), MOST_SAMPLES)]

    def row(self, index: int) -> dict[str, Any]:
        """One row of the trajectory."""
        gates = {"tau": self.taus[index], "g": quartiles(self.sizes[index])} if self.has_gates else {}
        return {"step": self.steps[index], "loss": self.losses[index], "rank": self.ranks[index], **gates}

    def off(self) -> list[dict[str, Any]] | None:
        """The dimensions whose |g| ended at or below τ, in the order in which they fell; None without a threshold."""
        if not self.has_gates:
            return None
        fell = {d: self.fell(d) for d, size in enumerate(self.sizes[-1]) if size <= self.taus[-1]}
        return [
            {
                "dimension": dimension, "step": self.steps[i], "after": self.steps[i - 1] if i else None,
                "g": self.sizes[i][dimension], "tau": self.taus[i], "loss": self.losses[i],
            }
            for dimension, i in sorted(fell.items(), key=lambda item: (item[1], item[0]))
        ]  # fmt: skip

    def fell(self, dimension: int) -> int:
        """The logged row from which on a dimension stayed off."""
        on = [i for i, tau in enumerate(self.taus) if self.sizes[i][dimension] > tau]
        return on[-1] + 1 if on else 0


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers from 0 to `count` − 1, evenly, with both ends."""
    taken = min(count, most)
    return [round(i * (count - 1) / max(1, taken - 1)) for i in range(taken)]


def quartiles(values: Sequence[float]) -> list[float]:
    """The least value, the three quartiles, and the largest, each the nearest value that there is."""
    ordered = sorted(values)
    return [ordered[round(part * (len(ordered) - 1) / 4)] for part in range(5)]


def write_decisions(path: Path, decisions: Iterable[ModuleDecision]) -> None:
    """Writes the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = [{**vars(each), **{key: as_json(getattr(each, key)) for key in JSON_COLUMNS}} for each in decisions]
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(lines, schema), path, compression="zstd")


def as_json(value: Told) -> str:
    """JSON, with null for what is not finite, and six digits of a number."""
    return json.dumps(rounded(finite(value)), ensure_ascii=False, allow_nan=False)


def rounded(value: Any) -> Any:
    """The value with at most six significant digits of each number that is not whole."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def read_decisions(data: bytes) -> list[ModuleDecision]:
    """The decisions in the bytes of such a file. Columns that are not known are left out.

    Raises:
        IntegrityError: it is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return [parsed(line) for line in pq.read_table(io.BytesIO(data), columns=[*COLUMNS]).to_pylist()]
    except (pa.ArrowException, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{DECISIONS}: is malformed ({error!r:.200}); restore it from a backup") from None


def parsed(line: Mapping[str, Any]) -> ModuleDecision:
    """A line of the file. Raises ValueError, KeyError or TypeError if it is none."""
    parts = {key: json.loads(line[key]) for key in JSON_COLUMNS}
    for key, needed in NEEDED[line["decision"]].items():
        if not isinstance(parts[key], dict) or {*needed} - {*parts[key]}:
            raise ValueError(f"{key} of a {line['decision']} is not what it should be")
    return ModuleDecision(**{**line, **parts})
