"""A run's plan: its tasks, layers, parameters, memory and store writes. Planning reads, and changes nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypedDict

from cluster.storage import open_store
from orchestrator.config.run import RunConfig
from orchestrator.gates.noise import too_few_rows
from orchestrator.log.event import Json
from orchestrator.run.changes import going_on, objections, way_on
from orchestrator.run.evaluation import Cost, Size
from orchestrator.run.evaluation import cost as evaluation_cost
from orchestrator.run.guards import LEAST_KEPT, ROUNDING
from orchestrator.run.reckoning import Reckoned, reckon
from orchestrator.run.workers import base_now, check_tasks, describe_tasks, load_tasks
from orchestrator.sinks.opening import check_tracking
from orchestrator.track.events import TaskDescription
from orchestrator.track.layout import track_root
from orchestrator.track.state import RunState, replay
from orchestrator.track.track import Track
from trainers.data.generative.config import of_answers
from trainers.methods.base import Footprint
from trainers.methods.registry import check_method
from trainers.methods.targets import width as layer_width
from trainers.models.capabilities import Shape
from trainers.models.checks import not_asked_for
from trainers.models.preview import Example, Lengths, preview
from trainers.models.tokens import Rows, TaskExamples, Tokenized
from trainers.objectives.generation import most_generated

PROCESS_BYTES = 900 * 2**20  # resident size of a worker process with Ray, torch and DeepSpeed imported, measured
BYTES = {"float32": 4, "bfloat16": 2}


class PlannedTask(TypedDict):
    """A task's data in the form that `plan --json` prints. `state` is done or pending; for `tokens` and `example` see
    `Lengths` and `Example` of `trainers.models.preview`, for `floors` `trainers.objectives.floors`; null if the task is
    judged by its loss.
    """

    name: str
    labels: list[str]
    fingerprint: str
    rows: dict[str, int]
    warnings: list[str]
    state: str
    tokens: dict[str, int]
    example: dict[str, str | list[str] | list[int]]
    floors: Json | None
    answers: "PlannedAnswers | None"


class PlannedAnswers(TypedDict):
    """What a generative task is scored by, the primary metric first, and how its answers are generated.
    `max_new_tokens` is the limit that holds; null if nothing is generated."""

    metrics: list[str]
    max_new_tokens: int | None
    decoding: Json


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `orthoplex plan` prints. Sizes are in bytes per worker if the name says so. `protected` says how the
    method protects earlier tasks, if its name does not. `steps` and `replayed` are per task: optimizer steps, and rows
    of earlier tasks that it is trained on, too. If all tasks are trained at once (`joint`), the last one has the steps,
    and others 0. `rounding` is None if no weight is rounded."""

    name: str
    state: str
    store: str
    tasks: list[PlannedTask]
    method: str
    protected: list[str]
    modules: dict[str, int]
    base_parameters: int
    trained_parameters: int
    most_kept_parameters: int
    joint: bool
    steps: list[int]
    replayed: list[int]
    evaluation: Cost
    workers: int | dict[str, int]
    zero_stage: int
    memory_per_worker_bytes: dict[str, int]
    rounding: str | None
    writes: list[str]
    objections: list[str]
    way_on: str
    notes: list[str]
    time: Reckoned | None


def make_plan(config: RunConfig) -> Plan:
    """Reads data, model shape and the run's log.

    Raises:
        ConfigError: as `run` would. Objections of a run that was begun otherwise are in `objections`, what helps in
            `way_on`.
    """
    check_tracking(config.tracking)
    track = Track(open_store(config.store), config.team, config.name)
    state = replay(config.team, config.name, track.entries())
    given, config = config.model, going_on(config, state.config)
    data = load_tasks(config, say=lambda _: None)  # warnings are in the descriptions
    model, method = check_method(config.model, config.adapter, config.train)
    reader, tasks = check_tasks(config, data, model)
    seen = [preview(reader, task) for task in tasks]
    base, rows = sum(parameter.numel() for parameter in model.parameters()), [len(task.train) for task in data]
    cost = method.footprint(len(config.stages))
    descriptions = describe_tasks(config, data)
    sizes = [size(*pair) for pair in zip(descriptions, tasks, strict=True)]
    evaluated = evaluation_cost(config, sizes)
    left = evaluation_cost(config, sizes, state.learned)
    of = "for all tasks" if config.train.joint else "per task"
    prefix, files = track_root(config.team, config.name), ", ".join(config.adapter.files)
    found = objections(state, config.model_dump(mode="json"), descriptions, base_now(state, config.model))
    return Plan(
        name=config.name,
        state=state.status,
        store=config.store,
        tasks=[
            planned(task, index < state.learned, *seen[index], answering(tasks[index]))
            for index, task in enumerate(descriptions)
        ],
        method=config.adapter.method,
        protected=config.adapter.protects,
        modules={name: layer_width(layer) for name, layer in method.modules.items()},
        base_parameters=base,
        trained_parameters=cost.trained,
        most_kept_parameters=cost.kept,
        joint=config.train.joint,
        steps=planned_steps(config, rows),
        replayed=[config.replayed_rows(rows, index) for index in range(len(rows))],
        evaluation=evaluated,
        workers=config.cluster.model_dump()["num_workers"],
        zero_stage=config.deepspeed.zero_stage,
        memory_per_worker_bytes=worker_memory(config, Shape.of(model), base, cost),
        rounding=rounding_of(config),
        writes=[
            f"{prefix}/log/*.json: one entry for the configuration, one per start, one {of}, one at the end",
            f"{prefix}/v/<uuid>/, one {of}: {files}, {files_beside(config, evaluated)}, manifest.json",
        ],
        objections=[each.line for each in found],
        way_on=way_on(state, found),
        notes=[
            *filter(None, [not_asked_for(given, model.config)]),
            *too_few_rows(config, [each.validation for each in sizes]),
            *held_back(state),
        ],
        time=reckon(config, left, track.store, state),
    )


def files_beside(config: RunConfig, evaluated: Cost) -> str:
    """The files that a task leaves beside those of its method."""
    decides = config.adapter.chooses or config.adapter.protection_keys
    names = ["training.parquet"] + ["decisions.parquet"] * bool(decides)
    names += ["answers.parquet"] * bool(evaluated["kept_answers"]) + ["rows.parquet"] * config.evaluate.keep_rows
    return ", ".join(names)


def held_back(state: RunState) -> list[str]:
    """What is quarantined, and what becomes of it."""
    if (held := state.quarantined) is None:
        return []
    return [f"v{held.version}, {held.task}, is quarantined: `run` commits it as it was trained if its bounds let it"]


def planned_steps(config: RunConfig, sizes: Sequence[int]) -> list[int]:
    """Optimizer steps of each task with so many training rows; 0 for one that is trained with a later one."""
    stages = config.stages
    rows = [config.trained_rows(sizes, index) if index in stages else 0 for index in range(len(sizes))]
    return [config.training_of(index).steps(each) if each else 0 for index, each in enumerate(rows)]


def rounding_of(config: RunConfig) -> str | None:
    """What the plan says of tasks that are folded into weights narrower than float32; None if no weight is rounded."""
    way, dtype = config.adapter.rounds, config.model.dtype
    if way is None or dtype == "float32":
        return None
    said = f"tasks are folded into {dtype} weights, rounded by {ROUNDING} {way}"
    if way == "stochastic":
        return f"{said}: their change is kept on average, with noise. {ROUNDING} none keeps it in float32"
    return (
        f"{said}: what is less than half a step of a weight is lost. Each commit says what share of the change is "
        f"kept, and a run warns below {LEAST_KEPT:.0%}. {ROUNDING} stochastic keeps it on average, none in float32"
    )


def planned(
    task: TaskDescription, done: bool, tokens: Lengths, row: Example, answers: PlannedAnswers | None = None
) -> PlannedTask:
    """A task as the plan shows it."""
    return {
        "name": task.name,
        "labels": list(task.labels),
        "fingerprint": task.fingerprint,
        "rows": {"train": task.rows.train, "validation": task.rows.validation, "test": task.rows.test},
        "warnings": [*task.warnings, *(f"task {task.name}: {each}" for each in tokens.warnings)],
        "state": "done" if done else "pending",
        "tokens": asdict(tokens),
        "example": asdict(row),
        "floors": task.floors.body() if task.floors else None,
        "answers": answers,
    }


def answering(task: Rows | Tokenized) -> PlannedAnswers | None:
    """How a task is answered; None of a classification task, which has labels."""
    if not isinstance(task, TaskExamples):
        return None
    return {
        "metrics": [*task.metrics],
        "max_new_tokens": most_generated(task) if of_answers(task.metrics) else None,
        "decoding": task.decoding.model_dump(mode="json", exclude={"max_new_tokens"}),
    }


def size(description: TaskDescription, task: Rows | Tokenized) -> Size:
    """What a task's evaluation depends on. Metrics of the loss alone need no answers."""
    answers = answering(task)
    generated = (answers["max_new_tokens"] if answers else None) or 0
    rows = description.rows
    return Size(train=rows.train, validation=rows.validation, test=rows.test, generated=generated)


def worker_memory(config: RunConfig, shape: Shape, base: int, cost: Footprint) -> dict[str, int]:
    """Estimated peak bytes of one worker, by cause.

    weights: base · bytes(dtype), and 4 for those that the method holds in float32, a worker's share of it under ZeRO 3;
    originals: at most base · bytes(dtype) again, in host memory, if the method copies them; adapter: 16 bytes per
    parameter (value, gradient, two Adam moments), moments shared by all workers from ZeRO 1 on, gradients from ZeRO 2,
    values in ZeRO 3; activations: B·S·D·L·(34 + 5·H·S/D) bytes at two bytes per value (Korthikanti et al.,
    arXiv:2205.05198, eq. 1), or B·S·D·L·2 and one layer whole with gradient_checkpointing, for the task that needs
    most; bases: the method's arrays of earlier tasks.
    """
    size, workers, stage = BYTES[config.model.dtype], config.cluster.num_workers.min, config.deepspeed.zero_stage
    moments, gradients, parameters = (workers if stage >= least else 1 for least in (1, 2, 3))
    weights = base * (1 if config.model.quantization else size)
    held = (weights + cost.float32_weights * (4 - size)) // parameters
    activations = max(activation_values(config, index, shape) for index in range(len(config.tasks)))
    return {
        "process": PROCESS_BYTES,
        "weights": held,
        "originals": weights // parameters if cost.copies_weights else 0,
        "adapter": cost.trained * (4 // parameters + 4 // gradients + 8 // moments),
        "activations": activations * size // 2,
        "bases": cost.history_bytes,
    }


def activation_values(config: RunConfig, index: int, shape: Shape) -> int:
    """Values of activations that a micro-batch of task `index` keeps on a worker, see `worker_memory`."""
    train, width, layers = config.training_of(index), shape.width, shape.layers
    rows = max(1, train.batch_size // (config.cluster.num_workers.min * train.gradient_accumulation_steps))
    most = config.tasks[index].max_length or config.model.max_length
    length = min(most, shape.positions or most)
    a_value = 34 * width + 5 * shape.heads * length
    kept = 2 * width * (layers - 1) + a_value if train.gradient_checkpointing else layers * a_value
    return rows * length * kept
