"""The search space: keys of a run's configuration, each with a distribution by Ray Tune's names, some under conditions.

    uniform: [low, high]      quniform: [low, high, step]      loguniform: [low, high]
    randint: [low, high)      qrandint: [low, high, step]      lograndint: [low, high)      choice: [a, b, …]

As in Ray Tune the upper bound of `randint` and `lograndint` is left out, that of the others is in.
"""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails

from cluster.schema import WHOLE, Frozen
from cluster.words import nearest
from orchestrator.config.errors import described, key_paths
from orchestrator.config.run import RunConfig
from trainers.config import OwnTraining

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Scalar = bool | int | float | str | None
DIGITS = 12  # of a value on a step: 0.1 + 2 · 0.1 is 0.3 for every sampler
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _number(value: Scalar) -> Scalar:
    """1e-3 is a string in YAML 1.1, and meant as a number."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


Given = Annotated[Scalar, BeforeValidator(_number)]
FIXED = (  # what the started workers hold, or what changes no result
    "adapter.method", "adapter.target_modules", "train.checkpoint_steps", "train.compile", "train.eval_batch_size",
    "train.gradient_accumulation_steps", "train.gradient_checkpointing", "train.logging_steps",
    "train.joint", "train.on_out_of_memory",
)  # fmt: skip
MAPPINGS = {"adapter.rank_pattern": "adapter.max_rank", "adapter.min_rank_pattern": "adapter.min_rank"}  # and instead


TASK_KEY = re.compile(rf"tasks\.(0|[1-9]\d{{0,8}})\.training\.({'|'.join(OwnTraining.model_fields)})")


class Parameter(Frozen):
    """One searched key: exactly one distribution. With `when` it is searched only if other searched keys have one of
    the given values, and is the run's own elsewhere."""

    uniform: tuple[float, float] | None = None
    quniform: tuple[float, float, float] | None = None
    loguniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None
    qrandint: tuple[int, int, int] | None = None
    lograndint: tuple[int, int] | None = None
    choice: Annotated[tuple[Given, ...], Field(min_length=1)] | None = None
    when: dict[str, list[Given]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> "Parameter":
        given = [name for name in type(self).model_fields if name != "when" and getattr(self, name) is not None]
        if len(given) != 1:
            kinds = ", ".join(name for name in type(self).model_fields if name != "when")
            raise ValueError(f"give one of {kinds}, not {' and '.join(given) or 'none'}")
        if self.kind != "choice":
            low, high, step = self.limits
            if low >= high or (step is not None and step <= 0) or ("log" in self.kind and low <= 0):
                raise ValueError(f"{self.shown()}: low must be below high, a step and a logarithm's low above 0")
        return self

    @property
    def kind(self) -> str:
        """The name of its distribution."""
        return next(name for name in type(self).model_fields if name != "when" and getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[Scalar, ...]:
        """The values behind the name."""
        found: tuple[Scalar, ...] = getattr(self, self.kind)
        return found

    @property
    def limits(self) -> tuple[float, float, float | None]:
        """Low, high and step (None without) of a distribution of numbers."""
        numbers = [each for each in self.bounds if isinstance(each, int | float)]
        return numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else None

    def shown(self) -> str:
        """As in YAML: uniform [0.1, 1.0]."""
        return f"{self.kind} [{', '.join(map(str, self.bounds))}]"

    def distribution(self) -> "BaseDistribution":
        """Optuna's."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.bounds)
        low, high, step = self.limits
        log = "log" in self.kind
        if "int" in self.kind:
            return IntDistribution(low, high if step else high - 1, log=log, step=step or 1)
        return FloatDistribution(low, high, log=log, step=step)

    def ends(self) -> tuple[Scalar, ...]:
        """Values that must suit the key: the choices, or both ends."""
        if self.kind == "choice":
            return self.bounds
        low, high, _ = self.limits
        return low, high - 1 if self.kind in ("randint", "lograndint") else high

    def holds(self, value: Scalar) -> bool:
        """Whether it can take the value; a float that is off the steps of a quantised one it cannot."""
        if self.kind == "choice":
            return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.bounds)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if "int" in self.kind and not isinstance(value, int):
            return False
        low, high, step = self.limits
        top = high - 1 if self.kind in ("randint", "lograndint") else high
        on_step = step is None or abs((value - low) / step % 1 - 0.5) > 0.5 - 1e-9
        return low <= value <= top and on_step

    def applies(self, values: Mapping[str, Scalar]) -> bool:
        """Whether it is searched if the other keys have these values."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())

    @property
    def finite(self) -> bool:
        """Whether a grid can go through it."""
        return self.kind not in ("uniform", "loguniform")


def suggested(space: Mapping[str, Parameter], trial: "Trial") -> dict[str, Scalar]:
    """Asks an Optuna trial for the values of a point, those of unmet conditions left out."""
    return active(space, lambda key: ask(trial, key, space[key]))


def active(space: Mapping[str, Parameter], value: Callable[[str], Scalar]) -> dict[str, Scalar]:
    """A point, key by key in the space's order; a condition on a key whose own is unmet is unmet too."""
    values: dict[str, Scalar] = {}
    for key, parameter in space.items():
        if parameter.applies(values):
            values[key] = value(key)
    return values


def ask(trial: "Trial", key: str, parameter: Parameter) -> Scalar:
    """One value."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    drawn = parameter.distribution()
    if isinstance(drawn, CategoricalDistribution):
        return trial.suggest_categorical(key, drawn.choices)
    if isinstance(drawn, IntDistribution):
        return trial.suggest_int(key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    value = trial.suggest_float(key, drawn.low, drawn.high, step=drawn.step, log=drawn.log)
    return value if drawn.step is None else round(value, DIGITS)


def space_faults(space: Mapping[str, Parameter], algorithm: str, run: RunConfig) -> list[str]:
    """One line per fault: a key that is not searchable, a value that does not suit it, a condition on a key that is not
    above it, a distribution without end in a grid."""
    faults: list[str] = []
    for key, parameter in space.items():
        where = f"search.space.{key}"
        if not searchable(key):
            faults.append(f"{where}: {unsearchable(key)}")
            continue
        if foreign := other_method(run, key) or other_task(run, key):
            faults.append(f"{where}: {foreign}")
            continue
        faults += [f"{where}: {fault}" for value in parameter.ends() if (fault := unfit(run, key, value))]
        above = list(space)[: list(space).index(key)]
        for other, values in parameter.when.items():
            if other not in above:
                faults.append(f"{where}: when: {other!r} is not searched above it; list it before, or leave it out")
            elif not all(space[other].holds(value) for value in values):
                faults.append(f"{where}: when: {other} cannot be one of {values}; it is {space[other].shown()}")
        if algorithm == "grid" and not parameter.finite:
            faults.append(f"{where}: {parameter.shown()} has no end; for algorithm grid use quniform or choice")
    return faults


def searchable(key: str) -> bool:
    """Whether trials may differ in a key: adapter and optimisation, a task's own too, but for what started workers
    hold."""
    if TASK_KEY.fullmatch(key):
        return True
    sections = {"adapter.functional", "adapter.orthogonality", "train.replay", "train.replay.share"}
    leaves = set(key_paths(RunConfig)) - sections
    section, dot, _ = key.partition(".")
    return key in leaves and section in ("adapter", "train") and dot == "." and key not in (*FIXED, *MAPPINGS)


def other_method(run: RunConfig, key: str) -> str:
    """Why the run's method does not have a key, empty if it has it."""
    section, _, rest = key.partition(".")
    if section != "adapter" or rest in key_paths(type(run.adapter)):
        return ""
    return f"adapter.method {run.adapter.method} has no such key; use {', '.join(own_keys(run))}"


def other_task(run: RunConfig, key: str) -> str:
    """Why the run does not have the task of a key, empty if it has it or the key is not a task's."""
    found = TASK_KEY.fullmatch(key)
    if found is None or int(found[1]) < len(run.tasks):
        return ""
    return f"run.tasks has no item {found[1]}; its items are 0 to {len(run.tasks) - 1}"


def own_keys(run: RunConfig) -> list[str]:
    """The searchable keys of the run's method."""
    return [path for path in key_paths(type(run.adapter), "adapter.") if searchable(path)]


def unsearchable(key: str) -> str:
    """The message for a key that is not searchable."""
    if key in FIXED:
        return "cannot be searched: all trials share workers that hold it; set it under run"
    for mapping, instead in MAPPINGS.items():
        if f"{key}.".startswith(f"{mapping}."):
            return f"cannot be searched: {mapping} is a mapping; search {instead}, and set {mapping} under run"
    task = re.match(r"tasks\.\d+\.", key)
    own = [f"{task[0]}training.{name}" for name in OwnTraining.model_fields] if task else []
    known = own or [path for path in key_paths(RunConfig) if searchable(path)]
    same = [path for path in known if path.endswith(f".{key.rpartition('.')[2]}")]
    near = same[0] if same else nearest(key, known)
    return f"cannot be searched; did you mean {near!r}?" if near else f"cannot be searched; use {', '.join(known)}"


def unfit(run: RunConfig, key: str, value: Scalar) -> str:
    """The reason why a key cannot have the value; empty if it can."""
    content, errors = with_values(run.model_dump(mode="json", context=WHOLE), {key: value}), list[ErrorDetails]()
    try:
        RunConfig.model_validate(content)
    except ValidationError as error:
        errors = list(error.errors())
    return "; ".join(described(RunConfig, errors, content).lines)


def with_values(content: Mapping[str, JsonValue], values: Mapping[str, Scalar]) -> dict[str, JsonValue]:
    """The configuration with dotted keys set, list items by number; unchanged itself."""
    found = deepcopy(dict(content))
    for key, value in values.items():
        *sections, last = key.split(".")
        target: Any = found
        for section in sections:
            place: Any = int(section) if isinstance(target, list) else section
            if isinstance(target, dict) and target.get(section) is None:
                target[section] = {}
            target = target[place]
        target[last] = value
    return found


def short(key: str) -> str:
    """A key for people, by its last part: threshold; a task's with its task: tasks.0 learning_rate."""
    found = TASK_KEY.fullmatch(key)
    return f"tasks.{found[1]} {found[2]}" if found else key.rpartition(".")[2]


def shown_values(values: Mapping[str, Scalar]) -> str:
    """A point on one line: threshold 0.5, side both."""
    return ", ".join(
        f"{short(key)} {format(value, '.4g') if isinstance(value, float) else value}" for key, value in values.items()
    )
