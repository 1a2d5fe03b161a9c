"""A 7B-shaped Llama with random weights trains on one GPU in bf16, under ZeRO 0 and ZeRO 3, as the product does it.

    python benchmarks/large_base.py --stages 0,3 [--gradient-checkpointing] [--layers 32] [--folder /tmp/llama-7b]

Prints, per stage, seconds to load, milliseconds per step, and peak device memory beside the weights and what
activations are kept. Under ZeRO 3 on one GPU nothing is shared out, so the figure shows what the hooks and
`zero.Init` cost. Needs the whole product (DeepSpeed, not Ray). `--cpu` runs a tiny shape, to try the script out.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trainers.config import ModelConfig, TrainConfig
from trainers.method_config import AdapterConfig
from trainers.methods.base import TaskContext
from trainers.methods.registry import method_for
from trainers.models.loading import load_backbone
from trainers.models.tokens import TokenIds, TokenizedSplit, TokenizedTask
from trainers.objectives.classification import Classification
from trainers.training.engine import TaskModel, build_engine, train_batch

SEVEN_B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32,
    "vocab_size": 32000,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip
GIB = 2**30


def make_model(folder: Path, shape: dict[str, int], layers: int, device: torch.device) -> None:
    """Saves a random Llama in shards, with a tokenizer of numbered words, where it is not there yet."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if (folder / "config.json").exists():
        return
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=layers))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="2GB")
    fast.save_pretrained(folder)


def train(folder: Path, stage: int, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Loads the base as a worker does and makes a few updates."""
    cuda = device.type == "cuda"
    started = time.perf_counter()
    model = ModelConfig(name=str(folder), task_type="CAUSAL_LM", dtype="bfloat16", max_length=options.length)
    model = model.model_copy(update={"quantization": "float8" if options.float8 else None})
    history_kind = "concatenated" if options.float8 else "folded"
    adapter = AdapterConfig(target_modules=["o_proj", "down_proj"], max_rank=16, history=history_kind)
    backbone = load_backbone(model, device, partitioned=stage == 3)
    loaded_s = time.perf_counter() - started
    method = method_for(backbone.model, adapter, torch.bfloat16)
    method.reset(adapter)
    if options.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    config = TrainConfig(batch_size=options.batch, warmup_steps=1)
    steps = options.steps + 2
    task = TaskContext(name="", seed=0, steps=steps, train=config, device=device, rank=dist.get_rank())
    wrapped = TaskModel(backbone, method.begin(task))
    engine = build_engine(wrapped, config, stage, dist.get_world_size(), steps)
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 400, options.length - 2).tolist() for _ in range(options.batch)]
    texts = TokenizedSplit(TokenIds.of(rows), np.arange(options.batch) % 2)
    split = Classification().encode(backbone, TokenizedTask("random", ("w5", "w7"), {"train": texts}))["train"]
    backbone.model.train()
    weights = torch.cuda.memory_allocated() if cuda else 0
    times = []
    for step in range(options.steps + 2):
        if cuda and step == 2:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        losses = train_batch(engine, split, np.arange(options.batch), 1)
        loss = float(losses.task) / (2 * options.batch)
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    engine.destroy()
    return {
        "load_s": loaded_s, "ms": 1e3 * statistics.median(times[2:]), "weights_gib": weights / GIB,
        "activations_gib": (peak - weights) / GIB, "peak_gib": peak / GIB, "loss": loss,
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a tiny shape on the CPU")
    parser.add_argument("--stages", default="0,3", help="ZeRO stages, with commas between")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--float8", action="store_true", help="the frozen weights in eight bits")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(".orthoplex/llama-7b"))
    options = parser.parse_args()
    device = torch.device("cpu" if options.cpu else "cuda")
    for key, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 29571,
    }.items():
        os.environ.setdefault(key, str(value))
    if options.cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    dist.init_process_group("gloo" if options.cpu else "nccl")
    make_model(options.folder, TINY if options.cpu else SEVEN_B, options.layers, device)
    rows: dict[str, Any] = {}
    for stage in map(int, options.stages.split(",")):
        rows[str(stage)] = train(options.folder, stage, options, device)
        print(stage, rows[str(stage)], flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print("\n| ZeRO | load s | ms/step | weights GiB | activations and gradients GiB | peak GiB | loss |")
    print("|---|---|---|---|---|---|---|")
    for stage, row in rows.items():
        cells = (row[key] for key in ("load_s", "ms", "weights_gib", "activations_gib", "peak_gib", "loss"))
        print(f"| {stage} | {' | '.join(f'{value:.2f}' for value in cells)} |")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
