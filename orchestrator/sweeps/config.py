"""A sweep's configuration: the run of every trial, the search space, and the rules that end trials and choose one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from cluster.errors import ConfigError
from cluster.schema import WHOLE, Frozen
from orchestrator.config.bounds import Share
from orchestrator.config.errors import Faults, Yaml, described, refuse_unusable
from orchestrator.config.file import override, read_mapping
from orchestrator.config.run import RunConfig
from orchestrator.sinks.config import TrackingConfig
from orchestrator.sweeps.space import TASK_KEY, Given, Parameter, Scalar, active, space_faults, with_values

Count = Annotated[int, Field(gt=0)]
Hours = Annotated[float, Field(gt=0)]
PAPER: dict[
    str, Scalar
] = {  # Wan et al., arXiv:2505.22358: protection by a penalty on the output side, no pull on the budget
    "adapter.budget_weight": 0.0,
    "adapter.functional.weight": 0.0,
    "adapter.initial": "random",
    "adapter.train_down": True,
    "adapter.orthogonality.weight": 5.0,
    "adapter.orthogonality.side": "output",
    "adapter.orthogonality.mode": "penalty",
}


class BudgetConfig(Frozen):
    """What the sweep may spend; at least one bound. `hours` are of the clock, for one start of the command; `gpu_hours`
    are those of training and evaluation, over all starts."""

    trials: Count | None = None
    hours: Hours | None = None
    gpu_hours: Hours | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "BudgetConfig":
        if self.trials is self.hours is self.gpu_hours is None:
            raise ValueError("give a bound: trials, hours or gpu_hours")
        return self


class SearchConfig(Frozen):
    """Where trials come from. `first` are points to try before the sampler's own: `defaults` (the run's own values),
    `paper`, or values; what a point leaves out is sampled. `startup_trials` are drawn at random
    before TPE, and are the population of NSGA-II."""

    algorithm: Literal["tpe", "nsga2", "random", "grid"] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    startup_trials: Count = 10
    first: tuple[Literal["defaults", "paper"] | dict[str, Given], ...] = ("defaults",)
    space: dict[str, Parameter]

    @field_validator("space")
    @classmethod
    def _not_empty(cls, space: dict[str, Parameter]) -> dict[str, Parameter]:
        if not space:
            raise ValueError("name at least one key to search, for instance adapter.threshold: {uniform: [0.1, 1.0]}")
        return space


class AshaConfig(Frozen):
    """Asynchronous successive halving on tasks done (Li et al., arXiv:1810.05934): after `grace_tasks`,
    `grace_tasks`·`reduction_factor`, … tasks a trial goes on if its AA is among the best 1/`reduction_factor`."""

    grace_tasks: Count = 2
    reduction_factor: Annotated[float, Field(gt=1)] = 2


class StoppingConfig(Frozen):
    """When a trial is stopped before its last task; null or false switches a rule off.

    `dominated`: another trial kept no more parameters at the same number of tasks and has an AA higher by more than
    `margin`. No rule acts before `grace_tasks`. `max_forgetting` is the guard of that name.
    """

    asha: AshaConfig | None = AshaConfig()
    dominated: bool = True
    margin: Share = 0.0
    grace_tasks: Count = 1
    max_forgetting: Share | None = None


class ChoiceConfig(Frozen):
    """The point that is recommended, among finished trials with BWT ≥ `min_bwt`.

    `fewest_parameters`: the smallest within `within` of the best AA. `best_accuracy`: the best AA of those with at most
    `max_parameters`. Ties go to the other objective. AA and BWT are fractions, on the validation splits.
    """

    rule: Literal["fewest_parameters", "best_accuracy"] = "fewest_parameters"
    within: Share = 0.005
    min_bwt: Annotated[float, Field(ge=-1, le=1)] | None = None
    max_parameters: Count | None = None

    @model_validator(mode="after")
    def _own_keys(self) -> "ChoiceConfig":
        if self.max_parameters is not None and self.rule != "best_accuracy":
            raise ValueError(
                f"max_parameters {self.max_parameters}: belongs to rule best_accuracy; set that, or leave it"
            )
        return self


class SweepConfig(Frozen):
    """One sweep. Trials are runs `<team>/<name>-00001`, … in the run's store; its own log is beside them.

    `run` is what every trial is: a whole configuration, or the file `base` (relative to the sweep's) with changes.
    `tasks` is how many of its tasks a trial learns, null all; `start_from` (team/run@version or alias) is a stream that
    every trial begins as, to choose for the tasks after it alone. `concurrent` trials run at once, null as many as the
    cluster holds, `trials_per_gpu` of them on one GPU, null as many as its memory is reckoned to hold.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=90)]
    run: RunConfig
    tasks: Count | None = None
    start_from: str | None = None
    budget: BudgetConfig
    search: SearchConfig
    stopping: StoppingConfig = StoppingConfig()
    choice: ChoiceConfig = ChoiceConfig()
    concurrent: Count | None = None
    trials_per_gpu: Count | None = None
    tracking: TrackingConfig = TrackingConfig()

    def faults(self) -> list[str]:
        """The faults between its sections, one line per fault."""
        tasks, space = len(self.run.tasks), self.search.space
        faults = space_faults(space, self.search.algorithm, self.run)
        if self.run.train.joint:
            faults.append(
                "run.train.joint: a sweep compares streams task by task, and all are trained at once; remove it"
            )
        if self.tasks is not None and self.tasks > tasks:
            faults.append(f"tasks: {self.tasks}, but run.tasks has {tasks}; lower it, or null for all")
        unlearned = [
            key for key in space if (found := TASK_KEY.fullmatch(key)) and self.length <= int(found[1]) < tasks
        ]
        faults += [
            f"search.space.{key}: a trial learns {self.length} tasks (`tasks`); raise it, or leave the key out"
            for key in unlearned
        ]
        for point in self.search.first if not faults else ():
            name = point if isinstance(point, str) else "point"
            faults += point_faults(self._values(point), space, name)
        return faults

    @property
    def length(self) -> int:
        """Tasks of a trial's stream."""
        return self.tasks or len(self.run.tasks)

    def trial_name(self, number: int) -> str:
        """The run of trial `number`, counted from 1."""
        return f"{self.name}-{number:05d}"

    def trial(self, number: int, values: Mapping[str, Scalar]) -> RunConfig:
        """The configuration of a trial: the run's with these values, and the first tasks.

        Raises ConfigError if the values do not go together.
        """
        config = self.with_name(self.trial_name(number), values)
        guards = config.guards
        if self.stopping.max_forgetting is not None:
            guards = guards.model_copy(update={"max_forgetting": self.stopping.max_forgetting})
        return config.model_copy(update={"tasks": config.tasks[: self.length], "guards": guards})

    def with_name(self, name: str, values: Mapping[str, Scalar]) -> RunConfig:
        """The run's configuration with these values under another name, all its tasks."""
        content = with_values({**self.run.model_dump(mode="json", context=WHOLE), "name": name}, values)
        try:
            return RunConfig.model_validate(content)
        except ValidationError as error:
            faults = described(RunConfig, error.errors(), content)
            raise ConfigError(f"trial {name}: {'; '.join(faults.lines)}") from None

    def first_points(self) -> list[dict[str, Scalar]]:
        """`search.first` as values, each once."""
        points = [self._values(point) for point in self.search.first]
        return [point for index, point in enumerate(points) if point not in points[:index]]

    def _values(self, point: str | Mapping[str, Scalar]) -> dict[str, Scalar]:
        if not isinstance(point, str):
            return dict(point)
        return active(
            self.search.space, lambda key: PAPER[key] if point == "paper" and key in PAPER else value_at(self.run, key)
        )


def point_faults(point: Mapping[str, Scalar], space: Mapping[str, Parameter], name: str) -> list[str]:
    """One line per value whose key is not searched, or that is outside the key's distribution."""
    faults = []
    for key, value in point.items():
        if key not in space:
            faults.append(f"search.first: {key!r} is not searched; add it to search.space, or leave it out")
        elif not space[key].holds(value):
            outside = f"{key} {value!r} is outside {space[key].shown()}"
            faults.append(f"search.first: {name}: {outside}; widen the space, or leave {name!r} out")
        elif unmet := [o for o, allowed in space[key].when.items() if o in point and point[o] not in allowed]:
            here = f"{key} is not searched if {unmet[0]} is {point[unmet[0]]!r}"
            faults.append(f"search.first: {name}: {here}; leave it out")
    return faults


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Reads a sweep's YAML file, the run's file that `base` names, and applies `a.b=value` overrides to both as one:
    `run.data_dir=…` changes the run, `budget.trials=4` the sweep. `base=…` names another run's file, from here.

    Raises:
        ConfigError: as `load_config`.
    """
    return parse_sweep(read_sweep(path, overrides)[0], str(path))


def is_sweep(content: Mapping[str, Yaml]) -> bool:
    """Whether a configuration as it is written is that of a sweep."""
    return "search" in content


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Yaml], Path | None]:
    """The content of a sweep as one mapping, see `load_sweep`, and the run's file that it was merged from."""
    content, named = read_mapping(path), None
    others = [assignment for assignment in overrides if is_base(assignment)]
    for assignment in others:
        override(content, assignment)
    base = content.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise ConfigError(f"{path}: base: {base!r}: should be the path of a run's configuration")
        changes = content.get("run") or {}
        if not isinstance(changes, dict):
            raise ConfigError(f"{path}: run: should be a mapping of keys that change {base}")
        named = Path(base).expanduser() if others else path.parent / base
        content["run"] = merged(read_mapping(named), changes)
    for assignment in overrides:
        if assignment not in others:
            override(content, assignment)
    return content, named


def is_base(assignment: str) -> bool:
    """Whether an override names the run's file."""
    return assignment.partition("=")[0] == "base"


def parse_sweep(content: Mapping[str, Yaml], origin: str) -> SweepConfig:
    """Validates a mapping; `origin` heads the message. Raises ConfigError, which lists all errors, one per line."""
    refuse_unusable(content, origin)
    errors: list[ErrorDetails] = []
    found = None
    try:
        found = SweepConfig.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults = described(SweepConfig, errors, content)
    if found and not faults.lines:
        faults = Faults(found.faults())
    if found and not faults.lines:
        return found
    raise faults.error(origin)


def merged(content: Mapping[str, Yaml], changes: Mapping[str, Yaml]) -> dict[str, Yaml]:
    """`content` with the mappings in `changes` laid over its own, key by key; everything else replaces."""
    found = dict(content)
    for key, value in changes.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def value_at(config: RunConfig, dotted: str) -> Scalar:
    """The value of a dotted key, which is searchable, and so no section or list. A default that is not stored counts
    too, as `adapter.method`; a task without a value of its own has that of `train`."""
    found: object = config
    if task := TASK_KEY.fullmatch(dotted):
        found, dotted = config.training_of(int(task[1])), task[2]
    for key in dotted.split("."):
        found = getattr(found, key)
    assert found is None or isinstance(found, bool | int | float | str)
    return found
