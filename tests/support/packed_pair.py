"""Trains packed rows under every ZeRO stage; run as one of two processes, or in a process that is a group of its own.

Usage: python -m tests.support.packed_pair OUTPUT_FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
Every case writes one safetensors file: loss, gradients by way of Adam's first moments, Adam's second moments, the
second moments of what adapters read, and the scores of generated answers.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.tiny_models import tiny, tokenizer
from trainers.config import ModelConfig, TrainConfig
from trainers.data.cleaning import DataConfig
from trainers.data.generative.config import AnyTask
from trainers.data.lines import Lines
from trainers.data.prompts import Prompt
from trainers.messages import GenerativeRows
from trainers.method_config import AdapterConfig
from trainers.methods.base import TaskContext
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.history import History
from trainers.methods.oa.layers import attach, use
from trainers.methods.oa.method import OaAttached
from trainers.methods.targets import dense, match_modules, width
from trainers.models import trained_tokens
from trainers.models.causal import Causal
from trainers.models.loading import load_backbone
from trainers.models.tokens import examples_of
from trainers.objectives.generation import AnsweredSplit, Generation
from trainers.training.checkpoint import capture
from trainers.training.engine import TaskModel, build_engine, train_batch
from trainers.training.evaluate import evaluate
from trainers.training.second_moments import second_moments

TARGETS = {"gpt2": ["c_proj"]}
FAMILIES = ("llama", "qwen3", "gpt2", "gemma2", "gemma3")
STAGES = (0, 1, 2, 3)
ROWS = 11  # odd on purpose: ranks get different numbers of rows
BATCH = np.arange(ROWS)
TRAIN = TrainConfig(batch_size=ROWS, learning_rate=1e-2, warmup_steps=0, max_grad_norm=0.0)
MOMENT_ROWS = 6  # read at once for second moments
Tensors = dict[str, Tensor]


def rows_of(folder: Path) -> GenerativeRows:
    """A long row, which is how long lines are, and short ones that share lines with each other."""
    asked = ["why " * 30, *(f"what is {'so ' * (i % 4)}row {i} ?" for i in range(ROWS - 1))]
    for name, count in (("train", ROWS), ("validation", 3), ("test", 5)):
        told = [{"prompt": f"{name} {text} ", "completion": f"number {len(text)} of all"} for text in asked[:count]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    entry = {
        "name": "t", "source": "files", "format": "prompt_completion", "train": f"{folder}/train.jsonl",
        "validation": f"{folder}/validation.jsonl", "test": f"{folder}/test.jsonl",
        "metrics": ["edit_similarity", "nll"], "decoding": {"temperature": 1.0, "max_new_tokens": 6},
    }  # fmt: skip
    task: Any = TypeAdapter(AnyTask).validate_python(entry)
    made = Generation().prepare(task, DataConfig(), None, 0)
    return Generation().rows(task, made, Prompt())


class Setting:
    """A decoder with fresh adapters, and rows to train on."""

    def __init__(self, family: str, folder: Path, *, partitioned: bool = False) -> None:
        config = ModelConfig(name=str(folder / family), task_type="CAUSAL_LM", max_length=64)
        base = load_backbone(config, torch.device("cpu"), partitioned=partitioned)
        assert isinstance(base, Causal)
        self.base: Causal = base
        self.config = AdapterConfig(target_modules=TARGETS.get(family, ["o_proj", "down_proj"]), max_rank=4)
        self.modules = match_modules(base.model, self.config.target_modules)
        own = folder / f"rows{dist.get_rank()}"
        own.mkdir(exist_ok=True)
        splits = Generation().encode(base, examples_of(base, rows_of(own)))
        self.split, self.test = splits["train"], splits["test"]
        assert self.split.reading is not None and self.split.reading.packs and len(self.split.examples) == ROWS
        self.history = History(self.modules, self.config, torch.float32)
        attach(self.modules)

    def bank(self) -> AdapterBank:
        """The same adapters each time."""
        generator = torch.Generator().manual_seed(0)
        columns = self.history.columns("written"), self.history.columns("read")
        widths = {name: width(module) for name, module in self.modules.items()}
        bank = AdapterBank(widths, self.config, generator, *columns)
        for name, parameter in bank.named_parameters():
            if name.startswith("W2"):
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        return bank

    def attached(self, bank: AdapterBank) -> OaAttached:
        """On the layers."""
        task = TaskContext(name="t", seed=0, steps=2, train=TRAIN, device=torch.device("cpu"), rank=dist.get_rank())
        return OaAttached(bank, self.history, task)

    @contextmanager
    def with_adapters(self) -> Iterator[None]:
        """Within the block the layers have the adapters as they are at first, without a graph."""
        with torch.no_grad():
            bank = self.bank()
            use(self.modules, bank.pairs(bank(torch.float32)))
        try:
            yield
        finally:
            use(self.modules, {})


def unpacked(split: AnsweredSplit) -> AnsweredSplit:
    """The same split, one row per line."""
    assert split.reading is not None
    return replace(split, reading=replace(split.reading, packs=False))


def moments(setting: Setting, split: AnsweredSplit) -> Tensors:
    """What adapters read."""
    with setting.with_adapters(), torch.no_grad():
        found = second_moments(setting.base, setting.modules, split, MOMENT_ROWS)
    return {f"read/{name}": moment for name, moment in found.items()}


def trained(setting: Setting, split: AnsweredSplit, stage: int, accumulation: int = 1) -> Tensors:
    """One step of an engine. Adam's first moment is a tenth of the gradient then."""
    train = TRAIN.model_copy(update={"gradient_accumulation_steps": accumulation})
    model = TaskModel(setting.base, setting.attached(setting.bank()))
    engine = build_engine(model, train, stage, dist.get_world_size(), 2)
    losses = train_batch(engine, split, BATCH, accumulation)
    total = losses.task.clone()
    dist.all_reduce(total)
    held = capture(engine)
    use(setting.modules, {})
    engine.destroy()
    kinds = {"exp_avg/": (10.0, "gradient/"), "exp_avg_sq/": (1000.0, "square/")}
    return {"loss": total} | {
        to + name.removeprefix(kind): factor * tensor
        for kind, (factor, to) in kinds.items()
        for name, tensor in held.items()
        if name.startswith(kind)
    }


def scores(setting: Setting) -> Tensors:
    """Of sampled answers, row by row, and of their loss."""
    with setting.with_adapters():
        scored = evaluate(setting.test, 2)
    return {"score": torch.from_numpy(scored.values), "nll": torch.tensor(scored.score.metrics["nll"])}


def case(setting: Setting, stage: int) -> Tensors:
    """All that a case writes."""
    lines = setting.split.batch(BATCH)
    assert isinstance(lines, Lines) and lines.packed and len(lines.ids) < ROWS
    found = trained(setting, setting.split, stage, accumulation=1 + stage % 2)
    return found | moments(setting, setting.split) | (scores(setting) if stage == 0 else {})


def alone(setting: Setting) -> Tensors:
    """The same in plain PyTorch, each row a batch of its own."""
    split, bank = unpacked(setting.split), setting.bank()
    use(setting.modules, bank.pairs(bank(torch.float32)))
    total = sum((split.losses(split.batch(np.array([row]))).sum() for row in range(ROWS)), torch.zeros(()))
    penalty = setting.attached(bank).penalties()["budget"]
    (total / int(split.terms.sum()) + penalty.weight * penalty.value).backward()
    use(setting.modules, {})
    found = {"loss": total.detach()}
    for name, parameter in bank.named_parameters():
        assert parameter.grad is not None
        found |= {f"gradient/{name}": parameter.grad, f"square/{name}": parameter.grad.square()}
    read = {name: torch.zeros(width(module), width(module)) for name, module in setting.modules.items()}
    with setting.with_adapters(), torch.no_grad(), noted(setting.modules, read):
        for row in range(ROWS):
            split.losses(split.batch(np.array([row])))
    return found | {f"read/{name}": moment for name, moment in read.items()} | scores(setting)


@contextmanager
def noted(modules: dict[str, nn.Module], sums: Tensors) -> Iterator[None]:
    """Adds Σ h hᵀ of what each adapter reads: W0 x + b."""

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        weight_DK, bias_D = dense(module)
        h_ND = inputs[0].reshape(-1, inputs[0].shape[-1]) @ weight_DK.T + (0.0 if bias_D is None else bias_D)
        sums[name] += h_ND.T @ h_ND

    handles = [module.register_forward_hook(partial(note, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def save(family: str, folder: Path) -> None:
    """With enlarged weights, since those at initialisation hardly look at other tokens."""
    model = tiny(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    trained_tokens.CHUNK = 7  # so that ranks have unequal numbers of chunks, and yet gather a partitioned head as often
    if dist.get_rank() == 0:
        for family in FAMILIES:
            save(family, folder / family)
    dist.barrier()
    for family in FAMILIES:
        shared = Setting(family, folder)
        for stage in STAGES:
            setting = Setting(family, folder, partitioned=True) if stage == 3 else shared
            found = case(setting, stage)
            if dist.get_rank() == 0:
                tensors = {name: tensor.detach().float().contiguous() for name, tensor in found.items()}
                save_file(tensors, folder / f"{family}_{stage}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
