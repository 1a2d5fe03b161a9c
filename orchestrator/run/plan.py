"""What a run would do: its tasks, layers, parameters, memory and store writes. Reads, and changes nothing."""

from dataclasses import dataclass
from typing import Any

from cluster.storage import open_store
from orchestrator.config.run import RunConfig
from orchestrator.run.workers import describe_data, load_tasks
from orchestrator.sinks.opening import check_tracking
from orchestrator.track.state import objections, replay
from orchestrator.track.track import Track
from trainers.methods.oa.bank import ceiling
from trainers.methods.oa.layers import width as layer_width
from trainers.models.loading import check_model

PROCESS_BYTES = 900 * 2**20  # resident size of a worker process with Ray, torch and DeepSpeed imported, measured
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Plan:
    """Everything `orthoplex plan` prints. Sizes are in bytes a worker where the name says so."""

    name: str
    state: str
    store: str
    tasks: list[dict[str, Any]]
    modules: dict[str, int]
    base_parameters: int
    trained_parameters: int
    most_kept_parameters: int
    steps: list[int]
    workers: int | dict[str, int]
    zero_stage: int
    memory_per_worker_bytes: dict[str, int]
    writes: list[str]
    objections: list[str]


def make_plan(config: RunConfig) -> Plan:
    """Reads data, model shape and the run's log.

    Raises:
        ConfigError: as `run` would. What only a run that was begun otherwise objects to is in `objections`.
    """
    check_tracking(config.tracking)
    entries = Track(open_store(config.store), config.team, config.name).entries()
    state = replay(config.team, config.name, entries)
    data = load_tasks(config, say=lambda _: None)  # warnings are in the descriptions
    model, modules = check_model(config.model, config.adapter)
    widths = {name: layer_width(layer) for name, layer in modules.items()}
    base = sum(parameter.numel() for parameter in model.parameters())
    kept = sum(ceiling(name, config.adapter) * (2 * width + 1) for name, width in widths.items())
    trained = kept + len(widths)  # and one τ a layer
    descriptions = [describe_data(task) for task in data]
    for index, description in enumerate(descriptions):
        description["state"] = "done" if index < len(state.commits) else "pending"
    prefix = f"t/{config.team}/{config.name}"
    return Plan(
        name=config.name,
        state=state.state,
        store=config.store,
        tasks=descriptions,
        modules=widths,
        base_parameters=base,
        trained_parameters=trained,
        most_kept_parameters=min(kept, config.adapter.max_parameters or kept),
        steps=[config.train.steps(len(task.train)) for task in data],
        workers=config.cluster.model_dump()["num_workers"],
        zero_stage=config.deepspeed.zero_stage,
        memory_per_worker_bytes=worker_memory(config, model.config, base, trained, list(widths.values())),
        writes=[
            f"{prefix}/log/*.json: one entry for the configuration, one a start, one a task, one at the end",
            f"{prefix}/v/<uuid>/, one a task: adapter.safetensors, bases.safetensors, training.parquet, manifest.json",
        ],
        objections=objections(state, config.model_dump(mode="json"), descriptions),
    )


def worker_memory(config: RunConfig, architecture: Any, base: int, trained: int, widths: list[int]) -> dict[str, int]:
    """Estimated peak bytes of one worker, by cause.

    weights: base · bytes(dtype), a worker's share of it under ZeRO 3; originals: at most as much again, in host memory,
    where the history is folded; adapter: 16 bytes a parameter (value, gradient, two Adam moments), moments shared by
    all workers from ZeRO 1 on, gradients from ZeRO 2, values in ZeRO 3; activations: B·S·D·L·(34 + 5·H·S/D) bytes at
    two bytes a value (Korthikanti et al., arXiv:2205.05198, eq. 1), or B·S·D·L·2 and one layer whole with
    gradient_checkpointing; bases: at most 4·D·max_rank a module and task for Q, three times (history, bank, one in
    transit), and with input-side protection at most 4·D² a module for P and as much for the second moment.
    """
    size, workers, stage = BYTES[config.model.dtype], config.cluster.num_workers.min, config.deepspeed.zero_stage
    heads = getattr(architecture, "num_attention_heads", 1)
    width, layers = architecture.hidden_size, architecture.num_hidden_layers
    rows = max(1, config.train.batch_size // (workers * config.train.gradient_accumulation_steps))
    length = min(config.model.max_length, getattr(architecture, "max_position_embeddings", config.model.max_length))
    a_value = 34 * width + 5 * heads * length
    moments, gradients, parameters = (workers if stage >= least else 1 for least in (1, 2, 3))
    weights = base * (1 if config.model.quantization else size) // parameters
    kept = 2 * width * (layers - 1) + a_value if config.train.gradient_checkpointing else layers * a_value
    activations = rows * length * kept
    return {
        "process": PROCESS_BYTES,
        "weights": weights,
        "originals": weights if config.adapter.history == "folded" else 0,
        "adapter": trained * (4 // parameters + 4 // gradients + 8 // moments),
        "activations": activations * size // 2,
        "bases": 3 * 4 * sum(widths) * config.adapter.max_rank * max(0, len(config.tasks) - 1)
        + (8 * sum(width**2 for width in widths) if config.adapter.orthogonality.projects_input else 0),
    }
