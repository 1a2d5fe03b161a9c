"""Trains the same few batches under every ZeRO stage; run as one of two processes (or one) for `trainers.training`.

Usage: python -m tests.support.zero_pair OUTPUT_FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
Every case writes one safetensors file of losses and parameters; with one process only the resumed cases are run.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from tests.support.tiny_models import save_tiny
from trainers.config import ModelConfig, TrainConfig
from trainers.data.prompts import Prompt
from trainers.messages import TaskRows
from trainers.method_config import AdapterConfig
from trainers.methods.base import TaskContext
from trainers.methods.oa.artifact import ModuleAdapter, TaskAdapter
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.functional import kept_of
from trainers.methods.oa.history import History
from trainers.methods.oa.layers import attach, use
from trainers.methods.oa.method import OaAttached
from trainers.methods.oa.subspace import extend_basis
from trainers.methods.targets import match_modules, width
from trainers.models.loading import load_backbone
from trainers.models.tokens import tokenize_task
from trainers.objectives.classification import Classification
from trainers.training.checkpoint import Checkpoint, capture, restore, shapes_of
from trainers.training.engine import TaskModel, build_engine, train_batch
from trainers.training.evaluate import evaluate

ROWS = 11  # odd on purpose: ranks and micro-batches get different numbers of rows
BATCHES = [np.arange(ROWS), np.array([3]), np.arange(2, 7)]  # the second leaves one rank without a row
STEPS = len(BATCHES)
RESUMED_AT = 2
WORDS = ["yes", "certainly not", "perhaps"]  # answers of unequal length


@dataclass(frozen=True)
class Case:
    """One model, stage, number of micro-batches, history, dtype, rounding, and whether the functional penalty is on and
    W1 frozen."""

    family: str
    stage: int
    accumulation: int = 1
    history: str = "folded"
    dtype: str = "float32"
    rounding: str = "nearest"
    functional: bool = False

    @property
    def name(self) -> str:
        kinds = self.family, self.stage, self.accumulation, self.history, self.dtype, self.rounding
        return "_".join(map(str, kinds)) + "_functional" * self.functional

    @property
    def setting(self) -> tuple[str, str, str, str, bool]:
        """What decides the result: cases that differ otherwise train alike."""
        return self.family, self.history, self.dtype, self.rounding, self.functional


CASES = [
    *(Case("minilm", stage, accumulation) for stage in (0, 1, 2, 3) for accumulation in (1, 2)),
    *(Case("llama", stage, 2, history) for stage in (0, 2, 3) for history in ("folded", "concatenated")),
    *(Case("t5", stage) for stage in (2, 3)),
    *(Case("llama", stage, 1, "folded", "bfloat16", way) for stage in (2, 3) for way in ("nearest", "none")),
    *(Case("llama", stage, functional=True) for stage in (0, 1, 2, 3)),
]
RESUMED = [("llama", before, after) for before, after in ((0, 3), (2, 0), (2, 2), (3, 1))]


def adapter_config(case: Case) -> AdapterConfig:
    targets = {"minilm": "output.dense", "llama": "o_proj", "t5": "wo"}[case.family]
    return AdapterConfig.model_validate(
        {
            "target_modules": [targets], "max_rank": 4, "threshold": 0.9, "history": case.history,
            "rounding": case.rounding,
            **({"functional": {"weight": 0.5, "directions": 8}, "train_down": False} if case.functional else {}),
            "orthogonality": {"weight": 0.5}, "max_parameters": 10**9,
        }
    )  # fmt: skip


def train_config(accumulation: int) -> TrainConfig:
    return TrainConfig(
        batch_size=8, learning_rate=1e-2, warmup_steps=1, max_grad_norm=0.05, gradient_accumulation_steps=accumulation
    )


class Setting:
    """A model with a history of two tasks, and rows to train on."""

    def __init__(self, case: Case, folder: Path, partitioned: bool) -> None:
        task_type = {"minilm": "LABEL_EMBEDDING", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}[case.family]
        name = "minilm" if case.family == "minilm" else str(folder / case.family)
        config = ModelConfig(name=name, task_type=task_type, max_length=16, dtype=case.dtype)
        self.case, self.adapter, self.dtype = case, adapter_config(case), getattr(torch, case.dtype)
        self.backbone = load_backbone(config, torch.device("cpu"), partitioned=partitioned)
        self.modules = match_modules(self.backbone.model, self.adapter.target_modules)
        texts = [f"sample {'word ' * (i % 5)}number {i}" for i in range(ROWS)]
        rows = TaskRows("t", tuple(WORDS), {"train": (texts, [i % 3 for i in range(ROWS)])}, Prompt("", ""))
        self.split = Classification().encode(self.backbone, tokenize_task(self.backbone, rows))["train"]
        self.history = History(self.modules, self.adapter, self.dtype)
        attach(self.modules)
        for task in past_tasks(self.modules):
            self.history.extend(task)

    def bank(self) -> AdapterBank:
        generator = torch.Generator().manual_seed(0)
        widths = {name: width(module) for name, module in self.modules.items()}
        bank = AdapterBank(
            widths, self.adapter, generator, self.history.columns("written"), self.history.columns("read"),
            felt=self.history.felt if self.case.functional else (),
        )  # fmt: skip
        bank.W2_0.data = 0.05 * torch.randn(bank.W2_0.shape, generator=generator)
        return bank

    def model(self, bank: AdapterBank) -> TaskModel:
        train, device = train_config(self.case.accumulation), torch.device("cpu")
        task = TaskContext(name="t", seed=0, steps=STEPS, train=train, device=device, rank=dist.get_rank())
        return TaskModel(self.backbone, OaAttached(bank, self.history, task))


def past_tasks(modules: dict[str, nn.Module]) -> Iterator[TaskAdapter]:
    """Two earlier tasks of three dimensions a layer."""
    generator = torch.Generator().manual_seed(7)
    bases = {name: torch.zeros(width(module), 0) for name, module in modules.items()}
    for _ in range(2):
        parts, added = {}, {}
        for name, module in modules.items():
            d = width(module)
            w1, w2 = torch.randn(3, d, generator=generator) * d**-0.5, 0.2 * torch.randn(d, 3, generator=generator)
            parts[name] = ModuleAdapter(w1, w2, torch.tensor([0.5, -0.4, 0.3]))
            added[name] = extend_basis(bases[name], parts[name].written_DR)
            bases[name] = torch.cat([bases[name], added[name].columns_DH], 1)
        moments = [{n: w1.T @ w1 + torch.eye(w1.shape[1]) for n, w1 in each.items()} for each in (
            {name: part.w1_RD for name, part in parts.items()}, {name: part.w2_DR.T for name, part in parts.items()},
        )]  # fmt: skip
        yield TaskAdapter(parts, added, {}, kept_of(*moments, most=8))


def run(setting: Setting, stage: int, folder: Path) -> None:
    """Three steps; writes losses of the first, parameters after all, logits-free accuracy, and a checkpoint at 2."""
    case, bank = setting.case, setting.bank()
    engine = build_engine(setting.model(bank), train_config(case.accumulation), stage, dist.get_world_size(), STEPS)
    first = None
    for step, batch in enumerate(BATCHES, start=1):
        losses = train_batch(engine, setting.split, batch, case.accumulation)
        first = first or losses
        if step == RESUMED_AT:
            data = Checkpoint(step, capture(engine)).dump({"case": case.family})
            if dist.get_rank() == 0:
                (folder / f"{case.name}.checkpoint").write_bytes(data)
    finish(setting, engine, folder / f"{case.name}.safetensors", first)


def resume(setting: Setting, stage: int, source: Path, target: Path) -> None:
    """The last step from a checkpoint that another stage, or another number of ranks, wrote."""
    accumulation = setting.case.accumulation
    engine = build_engine(
        setting.model(setting.bank()), train_config(accumulation), stage, dist.get_world_size(), STEPS
    )

    def empty_step() -> None:
        for _ in range(accumulation):
            total = engine(setting.split, np.arange(1), 0.0)[0]
            engine.backward(total * 0.0)
            engine.step()

    checkpoint = Checkpoint.parse(source.read_bytes(), {"case": setting.case.family})
    assert checkpoint is not None and checkpoint.step == RESUMED_AT
    checkpoint.check(shapes_of(engine), STEPS)
    restore(engine, checkpoint, empty_step)
    for batch in BATCHES[RESUMED_AT:]:
        losses = train_batch(engine, setting.split, batch, accumulation)
    finish(setting, engine, target, losses)


def finish(setting: Setting, engine: object, target: Path, losses: object) -> None:
    """Writes what the case left: losses, trained parameters whole, and the loss of every row with the history alone."""
    total = losses.task.clone()
    dist.all_reduce(total)
    tensors = {k.removeprefix("value/"): v for k, v in capture(engine).items() if k.startswith("value/")}
    use(setting.modules, {})
    engine.destroy()
    with torch.no_grad():
        rows = setting.split.losses(setting.split.batch(np.arange(ROWS)))
    score = evaluate(setting.split, 4).score
    assert score.rows == ROWS
    tensors |= {
        "loss/task": total,
        "loss/orthogonality": losses.penalties["orthogonality"],
        "loss/budget": losses.penalties["budget"],
    }
    if setting.case.functional:
        tensors["loss/functional"] = losses.penalties["functional"]
    tensors |= {"eval/rows": rows, "eval/correct": torch.tensor(float(score.correct))}
    if dist.get_rank() == 0:
        save_file({name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}, target)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    alone = dist.get_world_size() == 1
    if dist.get_rank() == 0 and not alone:
        for family in ("llama", "t5"):
            save_tiny(family, folder / family)
    dist.barrier()
    settings: dict[tuple[object, ...], Setting] = {}

    def setting(case: Case) -> Setting:
        key = case.stage == 3, *case.setting
        if key not in settings:
            settings[key] = Setting(case, folder, partitioned=case.stage == 3)
        settings[key].case = case
        return settings[key]

    for case in [] if alone else CASES:
        run(setting(case), case.stage, folder)
    for family, before, after in RESUMED:
        if alone and after == 3:
            continue  # one rank has nobody to share with
        source = folder / f"{Case(family, before, 2).name}.checkpoint"
        target = folder / f"resumed_{family}_{before}_{after}_{dist.get_world_size()}.safetensors"
        resume(setting(Case(family, after, 2)), after, source, target)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
