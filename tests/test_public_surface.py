"""What others rely on, frozen: a change here is a decision that shows in the diff."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from cluster import errors
from cluster.resources import ClusterConfig
from cluster.storage import LocalStore, upload_files
from orchestrator.cli.main import command as whole
from orchestrator.config.run import CostConfig, EvaluateConfig, GuardConfig, RunConfig, parse_config
from orchestrator.sinks.config import TrackingConfig
from orchestrator.sweeps.config import (
    AshaConfig,
    BudgetConfig,
    ChoiceConfig,
    SearchConfig,
    StoppingConfig,
    SweepConfig,
)
from orchestrator.sweeps.space import Parameter
from orchestrator.track.track import Track
from trainers.config import DeepSpeedConfig, ModelConfig, OwnTraining, ReplayConfig, TrainConfig
from trainers.data.tasks import ClBenchmarkTask, DataConfig, DocstringsTask, FilesTask, HubTask
from trainers.lowrank_config import AdaloraConfig, EllaConfig, IncrementalLoraConfig, InfloraConfig, OloraConfig
from trainers.method_config import (
    AdapterConfig,
    EwcConfig,
    FullConfig,
    FunctionalConfig,
    LoraConfig,
    OrthogonalityConfig,
    OsftConfig,
)

# --- the command line

FLAGS = {"-v", "--verbose", "-q", "--quiet"}
VERBS = {
    "": ["--version"],
    "init": ["path", "--force", "--example"],
    "plan": ["config", "--set", "--json"],
    "data": ["config", "--set", "--rows", "--json"],
    "run": ["config", "--set", "--fork", "--from-task"],
    "status": ["name", "--store", "--task", "--module", "--json", "--watch"],
    "explain": ["name", "--store", "--task", "--module", "--json"],
    "logs": ["name", "--store", "--task", "--follow", "--json"],
    "curves": ["name", "--store", "--task", "--png", "--json"],
    "report": ["name", "-o", "--output", "--store"],
    "samples": ["name", "--task", "--store", "--rows", "--json"],
    "adapters": [],
    "adapters list": ["--store", "--json", "--team", "--task", "--quarantined"],
    "adapters show": ["reference", "--store", "--json", "--tree", "--alias", "--at"],
    "adapters promote": ["reference", "--alias", "--store", "--expect", "--override", "--why", "--webhook", "--mlflow"],
    "adapters request": ["reference", "--store", "--why"],
    "adapters approve": ["reference", "--store", "--why"],
    "adapters reject": ["reference", "--store", "--why"],
    "adapters rollback": ["reference", "--store", "--expect", "--override", "--why", "--webhook", "--mlflow"],
    "adapters pull": ["reference", "directory", "--store", "--stream"],
    "adapters verify": ["track", "--store", "--team", "--json"],
    "adapters gc": [
        "track", "--store", "--team", "--yes", "--grace", "--delete", "--quarantined", "--why", "--json",
    ],
    "adapters index": ["track", "--store", "--team"],
    "adapters rules": ["team", "--store", "--set", "--expect", "--why", "--json"],
    "adapters policy": ["--team", "--role", "--bucket", "--prefix", "--principal", "--append-only"],
    "predict": [
        "reference", "texts", "--input", "--output", "--task", "--union", "--text-column", "--columns", "--prefix",
        "--format", "--force", "--store", "--model", "--batch-size", "--max-new-tokens", "--too-long", "--device",
        "--workers", "--address",
    ],
    "gate": ["name", "--store", "--rules", "--alias", "--junit", "--json"],
    "eval": [
        "reference", "--data", "--task", "--union", "--text-column", "--label-column", "--columns", "--worst",
        "--record", "--note", "--store", "--model", "--batch-size", "--max-new-tokens", "--device", "--json",
    ],
    "trend": ["name", "--task", "--level", "--last", "--fail-on-drift", "--store", "--json"],
    "review": ["name", "--from", "--to", "--output", "-o", "--level", "--team", "--store", "--json"],
    "evidence": ["name", "--output", "-o", "--adapters", "--answers", "--force", "--store"],
    "verify": ["path", "--key", "--json"],
    "serve": [
        "references", "--address", "--store", "--model", "--device", "--batch-size", "--cpus", "--max-concurrent",
        "--max-tokens", "--max-body", "--refresh",
    ],
    "chat": [
        "references", "--task", "--system", "--max-new-tokens", "--temperature", "--top-p", "--seed", "--store",
        "--model", "--device", "--json",
    ],
    "sweep": ["config", "--set", "--show", "--output", "--json"],
    "submit": [
        "config", "--address", "--set", "--follow", "--name", "--working-dir", "--env", "--allow", "--pip", "--grace",
    ],
    "jobs": [],
    "jobs list": ["--address", "--json"],
    "jobs status": ["job", "--address", "--json"],
    "jobs logs": ["job", "--address", "--follow"],
    "jobs stop": ["job", "--address"],
    "doctor": ["config", "--address", "--store", "--json"],
    "completion": ["shell"],
    "adapters export": ["reference", "--format", "--output", "--store", "--model"],
    "adapters import": [
        "folder", "--as", "--task", "--labels", "--format", "--prompt", "--task-type", "--max-length",
        "--max-new-tokens", "--config", "--store", "--model",
    ],
    "adapters serve-layout": [
        "reference", "--store", "--root", "--base", "--model", "--max-rank", "--tolerance",
    ],
}  # fmt: skip


def verbs(command: Any, path: str = "") -> dict[str, list[str]]:
    """The options of every verb but `-v` and `-q`, which all have (`test_flags.py`)."""
    found = {path: [name for parameter in command.params for name in parameter.opts if name not in FLAGS]}
    for name, inner in getattr(command, "commands", {}).items():
        found |= verbs(inner, f"{path} {name}".strip())
    return found


def test_verbs_and_options() -> None:
    assert verbs(whole()) == VERBS


LISTS = {"plan", "gate", "data", "status", "explain", "logs", "curves", "samples",
         "eval", "trend", "review", "verify", "chat",
         "sweep", "doctor", "jobs list", "jobs status", "adapters list", "adapters show", "adapters verify",
         "adapters gc", "adapters rules"}  # fmt: skip


def test_what_lists_something_has_json() -> None:
    """What is left does one thing, or prints JSON anyway (`adapters policy`)."""
    assert {verb for verb, options in VERBS.items() if "--json" in options} == LISTS


def groups(command: Any, path: str = "") -> list[tuple[str, Any]]:
    inner = [
        found for name, each in getattr(command, "commands", {}).items() for found in groups(each, f"{path} {name}")
    ]
    return [(path.strip(), command), *inner]


@pytest.mark.parametrize("width", [80, 120])
def test_no_help_is_cut_off(width: int) -> None:
    """A summary that does not fit beside its verb would end in three dots."""
    for path, command in groups(whole()):
        context = command.make_context(path or "orthoplex", [], resilient_parsing=True, terminal_width=width)
        shown = command.get_help(context)
        below = shown.partition("\n")[2].replace("[TEXT]...", "")  # an argument that may be there more than once
        assert "..." not in below and max(map(len, shown.splitlines())) <= width, (path, shown)


def test_python_exports() -> None:
    import orchestrator

    assert orchestrator.__all__ == ["load"]
    assert [*inspect.signature(orchestrator.load).parameters] == ["reference", "base", "store"]


PUBLIC = {
    "Predictor": ["reference", "store", "model", "device", "batch_size", "max_new_tokens", "too_long", "say", "base"],
    "Registry": ["store"],
    "load": ["reference", "base", "store"],
    "plan": ["config", "overrides"],
    "run": ["config", "overrides"],
    "status": ["run", "store"],
    "sweep": ["config", "overrides", "output"],
}
METHODS = {
    "Predictor": ["answer_rows", "classify", "generate", "reference", "stream", "tasks", "writer"],
    "Registry": ["find", "list", "promote", "pull", "rollback", "verify"],
}


def test_the_public_package() -> None:
    import orthoplex

    assert orthoplex.__all__ == sorted([*PUBLIC, "__version__"])
    assert {name: [*inspect.signature(getattr(orthoplex, name)).parameters] for name in PUBLIC} == PUBLIC
    for name, methods in METHODS.items():
        assert [each for each in dir(getattr(orthoplex, name)) if not each.startswith("_")] == methods
    assert (Path(orthoplex.__file__).parent / "py.typed").is_file()


def test_each_verb_has_a_summary() -> None:
    command: Any = whole()
    assert all(inner.get_short_help_str() for inner in command.commands.values())


# --- the configuration: keys and their defaults; REQUIRED has none

REQUIRED: Any = ...
LIMITS = dict.fromkeys(("resources", "instruction", "max_train_rows", "max_test_rows", "max_length", "training"))
CLASSES = {"classes": None}
COLUMNS = {"text_column": "text", "label_column": "label", "labels": None, **CLASSES}
LOW_RANK = {
    "method": REQUIRED, "target_modules": REQUIRED, "rank": 16, "alpha": 32.0, "dropout": 0.0, "rounding": "nearest",
}  # fmt: skip
SECTIONS: dict[type[BaseModel], dict[str, Any]] = {
    RunConfig: {
        "name": REQUIRED, "team": "default", "store": ".orthoplex/store", "data_dir": None, "model": ModelConfig(),
        "adapter": REQUIRED, "train": TrainConfig(), "data": DataConfig(), "deepspeed": DeepSpeedConfig(),
        "cluster": ClusterConfig(), "guards": GuardConfig(), "evaluate": EvaluateConfig(), "tracking": TrackingConfig(),
        "cost": None, "tasks": REQUIRED,
    },
    ModelConfig: {
        "name": "minilm", "task_type": "LABEL_EMBEDDING", "prompt": "{text}", "scoring": "likelihood",
        "dtype": "float32", "quantization": None, "max_length": 128, "revision": None,
    },
    FunctionalConfig: {"weight": 10.0, "metric": "loss", "directions": 24, "tasks": 32},
    AdapterConfig: {
        "method": "oa", "target_modules": REQUIRED, "max_rank": 8, "threshold": 0.2, "budget_weight": 0.003,
        "min_rank": 0,
        "rank_pattern": {}, "min_rank_pattern": {}, "max_parameters": None, "history": "folded", "rounding": "nearest",
        "initial": "random", "train_down": True, "orthogonality": OrthogonalityConfig(),
        "functional": FunctionalConfig(),
    },
    LoraConfig: {
        "method": REQUIRED, "target_modules": REQUIRED, "rank": 16, "alpha": 32.0, "dropout": 0.0, "mode": "sequential",
    },
    IncrementalLoraConfig: LOW_RANK,
    OloraConfig: {**LOW_RANK, "rank": 8, "dropout": 0.1, "orthogonality_weight": 0.5, "norm_weight": 0.0},
    InfloraConfig: {**LOW_RANK, "alpha": 16.0, "energy": 0.995, "horizon": 15},
    EllaConfig: {**LOW_RANK, "alignment_weight": 1.0e4},
    AdaloraConfig: {
        **LOW_RANK, "rank": 8, "mode": "incremental", "initial_rank": 12, "initial_share": 0.1, "final_share": 0.3,
        "interval": 1, "beta1": 0.85, "beta2": 0.85, "orthogonality_weight": 0.5,
    },
    FullConfig: {"method": REQUIRED, "target_modules": REQUIRED},
    EwcConfig: {
        "method": REQUIRED, "target_modules": REQUIRED, "weight": 1000.0, "decay": 1.0, "fisher_rows": None,
    },
    OsftConfig: {
        "method": REQUIRED, "target_modules": REQUIRED, "effective_rank": 0.5, "rank_pattern": {},
        "rank_growth": 0.0, "projection": "values",
    },
    OrthogonalityConfig: {
        "weight": 0.0, "mode": "penalty", "side": "output", "energy": 0.95, "max_occupancy": 0.9, "saturation": "stop",
    },
    TrainConfig: {
        "epochs": 3, "min_steps": 0, "max_steps": None, "batch_size": 32, "gradient_accumulation_steps": 1,
        "eval_batch_size": 64, "learning_rate": 1.0e-3, "budget_learning_rate_factor": 10.0, "warmup_steps": 20,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": 10, "checkpoint_steps": None,
        "gradient_checkpointing": False, "compile": False,
        "on_out_of_memory": "stop", "seed": 0, "replay": None, "joint": False,
    },
    ReplayConfig: {"share": REQUIRED},
    OwnTraining: {
        "epochs": None, "learning_rate": None, "batch_size": None, "min_steps": None, "max_steps": None,
    },
    DataConfig: {
        "validation_fraction": 0.1, "max_validation_rows": 500, "max_train_rows": None, "max_test_rows": None,
        "test_sample": "first",
    },
    DeepSpeedConfig: {"zero_stage": 2},
    ClusterConfig: {
        "num_workers": 2, "use_gpu": False, "cpus_per_worker": 1, "gpus_per_worker": 1, "address": None,
        "max_failures": 2, "grace_s": 20, "lease_s": 120,
    },
    GuardConfig: {
        "min_average_accuracy": None, "min_new_accuracy": None, "max_forgetting": None, "max_task_forgetting": None,
        "max_nll_increase": None, "max_active_parameters": None, "max_task_parameters": None,
        "min_capacity_left": None, "max_cost": None, "confidence": None,
    },
    EvaluateConfig: {
        "tasks": "all", "every": 1, "rows": None, "keep_answers": 50, "keep_rows": False, "labels": "own",
        "macro_f1": False,
    },
    CostConfig: {"gpu_hour": None, "currency": "USD", "base_flops": None},
    SweepConfig: {
        "name": REQUIRED, "run": REQUIRED, "tasks": None, "start_from": None, "budget": REQUIRED, "search": REQUIRED,
        "stopping": StoppingConfig(), "choice": ChoiceConfig(), "concurrent": None, "trials_per_gpu": None,
        "tracking": TrackingConfig(),
    },
    BudgetConfig: {"trials": None, "hours": None, "gpu_hours": None},
    SearchConfig: {
        "algorithm": "tpe", "seed": 0, "startup_trials": 10, "first": ("defaults",), "space": REQUIRED,
    },
    Parameter: {
        "uniform": None, "quniform": None, "loguniform": None, "randint": None, "qrandint": None, "lograndint": None,
        "choice": None, "when": {},
    },
    StoppingConfig: {
        "asha": AshaConfig(), "dominated": True, "margin": 0.0, "grace_tasks": 1, "max_forgetting": None,
    },
    AshaConfig: {"grace_tasks": 2, "reduction_factor": 2},
    ChoiceConfig: {"rule": "fewest_parameters", "within": 0.005, "min_bwt": None, "max_parameters": None},
    TrackingConfig: {"tensorboard": None, "mlflow": None, "jsonl": None, "prometheus": False, "wandb": None},
    DocstringsTask: {"name": REQUIRED, "source": REQUIRED, "task": REQUIRED, **CLASSES, **LIMITS},
    ClBenchmarkTask: {"name": REQUIRED, "source": REQUIRED, "dataset": REQUIRED, **CLASSES, **LIMITS},
    FilesTask: {
        "name": REQUIRED, "source": REQUIRED, "train": REQUIRED, "test": None, "validation": None,
        "test_share": None, **COLUMNS, **LIMITS,
    },
    HubTask: {
        "name": REQUIRED, "source": REQUIRED, "dataset": REQUIRED, "config_name": None, "train_split": "train",
        "test_split": "test", "validation_split": None, "test_share": None, **COLUMNS, **LIMITS,
    },
}  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_configuration_keys(section: type[BaseModel]) -> None:
    fields = section.model_fields.items()
    defaults = {name: REQUIRED if f.is_required() else f.get_default(call_default_factory=True) for name, f in fields}
    assert defaults == SECTIONS[section]
    assert section.model_config["extra"] == "forbid" and section.model_config["frozen"]


# --- what a run leaves in the store

MANIFEST = {
    "format_version", "files", "base_model", "base_digest", "adapter", "task", "budget", "occupancy",
    "principal_angles", "parents", "trained_against", "config", "code", "metrics", "cost",
}  # fmt: skip
COMMIT = {
    "version", "index", "task", "prefix", "base_digest", "budget", "overlap", "occupancy", "active_parameters",
    "stored_bytes", "validation", "test", "zero_shot", "cost", "manifest_sha256", "lease",
}  # fmt: skip


class Silent:
    """A reporter."""

    def say(self, message: str) -> None: ...
    def progress(self, task: str, progress: Any) -> None: ...
    def taken(self, state: Any) -> None: ...
    def committed(self, state: Any) -> None: ...


def test_manifest_and_log(tmp_path: Path) -> None:
    """The controller commits a task that a worker says is done."""
    from orchestrator.run.controller import Controller
    from orchestrator.run.workers import describe_data
    from trainers.data.tasks import TaskData
    from trainers.messages import Score, TaskDone

    content = yaml.safe_load(
        "{name: s, adapter: {target_modules: a}, tasks: [{name: a, source: docstrings, task: kind}]}"
    )
    controller = Controller(parse_config({**content, "store": str(tmp_path / "store")}, "test"), Silent())
    rows: Any = [{"text": "x", "label": 0}]
    data = TaskData("a", ("x", "y"), rows, rows, rows, (), "f" * 64)
    prefix = controller.track.fresh_prefix()
    (tmp_path / "made").mkdir()
    for name in ("adapter.safetensors", "bases.safetensors"):
        (tmp_path / "made" / name).write_bytes(b"\0")
    files = upload_files(controller.store, prefix, tmp_path / "made")
    budget = {"layer": {"rank": 3, "max_rank": 4, "tau": 0.5}}
    scores = [Score(1, 1)]
    done = TaskDone(0, prefix, files, "b" * 64, budget, 0.0, {}, [], 10, scores, scores, scores, {"train_s": 1.0})
    controller.log.take({}, 120, Silent().say, {})
    controller._open([describe_data(data)])
    absent = replace(done, prefix=controller.track.fresh_prefix())
    with pytest.raises(errors.IntegrityError, match="is missing"):
        controller._commit(absent, [])  # its files are nowhere: nothing is committed
    controller._commit(done, [])

    track = Track(LocalStore(tmp_path / "store"), "default", "s")
    started, opened, committed = track.entries()
    assert [entry.op for entry in (started, opened, committed)] == ["start", "open", "commit"]
    assert started.body.keys() == {"versions", "cluster", "driver", "lease_s"}
    assert opened.body.keys() == {"config", "tasks", "lease"}
    assert opened.body["config"].keys() == RunConfig.model_fields.keys() - {*RunConfig.added}
    assert opened.body["tasks"][0].keys() == {"name", "labels", "fingerprint", "rows", "warnings"}
    assert committed.body.keys() == COMMIT
    manifest = track.read_manifest(prefix, committed.body["manifest_sha256"])
    assert manifest.keys() == MANIFEST and manifest["format_version"] == 1
    assert manifest["task"].keys() == opened.body["tasks"][0].keys()
