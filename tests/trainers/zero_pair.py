"""Trains the same few batches under ZeRO 0, 1 and 2; run as one of two processes by test_engine.py.

Usage: python -m tests.trainers.zero_pair OUTPUT_FOLDER, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from trainers.adapters.layers import OAAdapter, attach, detach, match_modules
from trainers.config import AdapterConfig, ModelConfig, TrainConfig
from trainers.engine import TaskModel, build_engine, train_batch
from trainers.evaluate import TokenizedSplit, tokenize
from trainers.models import Backbone, load_backbone

ROWS = 11  # odd on purpose: ranks and micro-batches get different numbers of rows
BATCHES = [np.arange(ROWS), np.array([3]), np.arange(2, 7)]  # the second leaves one rank without a row
STEPS = len(BATCHES)
CASES = [(stage, accumulation) for stage in (0, 1, 2) for accumulation in (1, 2)]
ADAPTER = AdapterConfig.model_validate(
    {"target_modules": ["output.dense"], "max_rank": 4, "threshold": 0.9, "orthogonality": {"weight": 0.5}}
)


def train_config(accumulation: int) -> TrainConfig:
    return TrainConfig(
        batch_size=8, learning_rate=1e-2, warmup_steps=1, max_grad_norm=0.05, gradient_accumulation_steps=accumulation
    )


def setting() -> tuple[Backbone, TokenizedSplit, torch.Tensor]:
    backbone = load_backbone(ModelConfig(max_length=16))
    texts = [f"sample {'word ' * (i % 5)}number {i}" for i in range(ROWS)]
    return backbone, tokenize(backbone, texts, [i % 3 for i in range(ROWS)]), backbone.embed_labels(["a", "b", "c"])


def new_adapters(widths: dict[str, int]) -> dict[str, OAAdapter]:
    """Adapters with a history, so that the penalty is not zero."""
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for name, width in widths.items():
        basis = torch.linalg.qr(torch.randn(width, 7, generator=generator))[0]
        adapters[name] = OAAdapter(width, ADAPTER, generator, basis, torch.zeros(width, 0))
        adapters[name].W2.data = 0.05 * torch.randn(width, ADAPTER.max_rank, generator=generator)
    return adapters


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    backbone, split, labels = setting()
    modules = match_modules(backbone.model, ADAPTER.target_modules)
    for stage, accumulation in CASES:
        adapters = new_adapters({name: module.out_features for name, module in modules.items()})
        attach(modules, adapters)
        model = TaskModel(backbone, adapters, ADAPTER)
        engine = build_engine(model, train_config(accumulation), stage, dist.get_world_size(), STEPS)
        first = None
        for batch in BATCHES:
            losses = train_batch(engine, split, batch, labels, accumulation)
            first = first or losses
        total = first.task_rows.clone()
        dist.all_reduce(total)
        engine.destroy()
        detach(modules)
        if dist.get_rank() == 0:
            tensors = {f"{n}.{k}": p.detach().clone() for n, a in adapters.items() for k, p in a.named_parameters()}
            scalars = {"task": total / ROWS, "orthogonality": first.orthogonality, "budget": first.budget}
            save_file(tensors | scalars, folder / f"{stage}_{accumulation}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
