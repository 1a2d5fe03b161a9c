"""What penalties add to a training step: steps with and without them, in turn, in one process.

    PYTHONPATH=. python benchmarks/functional_cost.py [--past 0,3,13] [--rounds 40] [--tokens 64] [--threads 1]

MiniLM on a CPU, with the adapters of configs/cl_benchmark/minilm_order1.yaml: rank 8 on 12 layers of width 384, 32 rows
per step. A round makes one step each without a penalty, with the functional one (24 directions per task) and with the
paper's, in an order that changes from round to round, so that what else the machine does meets all of them alike. A
step is the gates, the forward pass, its gradients, clipping and AdamW; DeepSpeed would add to all alike. Time is that
of the process on the CPU, which other work lengthens less than the clock's; with several threads it is the sum of
theirs. Printed are medians over rounds: a step's milliseconds; those that a penalty adds to the adapters and their
gradients alone, which tell more exactly; and, with quartiles, the ratio to the step without a penalty in the same
round.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from benchmarks.harness import describe, markdown, provenance
from trainers.config import ModelConfig
from trainers.method_config import AdapterConfig
from trainers.methods.oa.bank import AdapterBank
from trainers.methods.oa.functional import Felt, Kept, Metric
from trainers.methods.oa.layers import attach, use
from trainers.methods.targets import Layer, match_modules, width
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone

ROWS, LABELS, PAST_RANK, WARM_UP = 32, ("yes", "no", "perhaps"), 5, 3
PENALTIES = {"none": (0.0, 0.0), "functional": (10.0, 0.0), "orthogonality": (0.0, 5.0)}  # weights of L_f and L_orth
COLUMNS = ("earlier tasks", "ms per step", "ms of L_f", "× with L_f", "ms of L_orth", "× with L_orth")
Step = Callable[[], None]


def settings(penalty: str) -> AdapterConfig:
    """The adapters, under one penalty or none."""
    functional, orthogonality = PENALTIES[penalty]
    return AdapterConfig.model_validate(
        {
            "target_modules": ["output.dense"], "max_rank": 8, "threshold": 0.2, "budget_weight": 0.003,
            "functional": {"weight": functional}, "orthogonality": {"weight": orthogonality},
        }
    )  # fmt: skip


def metric(size: int, pairs: int, generator: torch.Generator) -> Metric:
    """A matrix as a task leaves one: eigenvalues that fall, and a rest."""
    columns_DK, _ = torch.linalg.qr(torch.randn(size, pairs, generator=generator))
    return Metric(columns_DK, torch.logspace(-1, -4, pairs), torch.tensor(1e-5))


def earlier(widths: Mapping[str, int], past: int, pairs: int) -> tuple[dict[str, Tensor], list[Kept]]:
    """Q of each layer after so many tasks, and what each task keeps for the functional penalty."""
    generator = torch.Generator().manual_seed(0)
    written = {
        name: torch.linalg.qr(torch.randn(d, past * PAST_RANK, generator=generator))[0] for name, d in widths.items()
    }
    felt = [
        {name: Felt(metric(d, pairs, generator), metric(d, pairs, generator)) for name, d in widths.items()}
        for _ in range(past)
    ]
    return written, felt


def bank_of(penalty: str, widths: Mapping[str, int], past: int) -> AdapterBank:
    """New adapters after so many tasks, under one penalty or none."""
    config = settings(penalty)
    written, felt = earlier(widths, past, config.functional.directions)
    read = {name: torch.zeros(d, 0) for name, d in widths.items()}
    felt = felt if config.functional.weight else []
    return AdapterBank(widths, config, torch.Generator().manual_seed(1), written, read, felt=felt)


def targets_of(backbone: Backbone) -> dict[str, Layer]:
    """The adapted layers."""
    return match_modules(backbone.model, settings("none").target_modules)


def alone(penalty: str, backbone: Backbone, past: int) -> Step:
    """The adapters and their gradients, without a model."""
    bank = bank_of(penalty, {name: width(module) for name, module in targets_of(backbone).items()}, past)
    weights = (*PENALTIES[penalty], bank.config.budget_weight)

    def step() -> None:
        outputs = bank(torch.float32)
        loss = torch.stack([output.sum() for output in outputs[:-3]]).sum()
        (loss + sum(weight * value for weight, value in zip(weights, outputs[-3:], strict=True))).backward()
        bank.zero_grad(set_to_none=True)

    return step


def step_of(penalty: str, backbone: Backbone, tokens: int, past: int) -> Step:
    """One update of new adapters on the model."""
    modules = targets_of(backbone)
    bank = bank_of(penalty, {name: width(module) for name, module in modules.items()}, past)
    optimizer = torch.optim.AdamW(bank.parameters(), lr=1e-4)
    draw = torch.Generator().manual_seed(2)
    ids, targets = torch.randint(1000, 20_000, (ROWS, tokens), generator=draw).tolist(), torch.arange(ROWS) % 3
    labels = backbone.encode_labels(LABELS)
    batch, weights = backbone.batch(ids, targets.numpy(), labels), (*PENALTIES[penalty], bank.config.budget_weight)

    def step() -> None:
        outputs = bank(torch.float32)
        use(modules, bank.pairs(outputs))
        loss = backbone.losses(batch, labels).mean()
        (loss + sum(weight * value for weight, value in zip(weights, outputs[-3:], strict=True))).backward()
        nn.utils.clip_grad_norm_(bank.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def durations(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each step on the CPU, round by round."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    orders = itertools.cycle(itertools.permutations(steps))
    for number, order in zip(range(WARM_UP + rounds), orders, strict=False):
        for name in order:
            started = time.process_time()
            steps[name]()
            if number >= WARM_UP:
                found[name].append(1e3 * (time.process_time() - started))
    return found


def row(past: int, found: Mapping[str, list[float]], apart: Mapping[str, list[float]]) -> list[str]:
    """One line of the table, from whole steps and from adapters alone."""
    plain, cells = found["none"], []
    for name in ("functional", "orthogonality"):
        added = median(ms - base for ms, base in zip(apart[name], apart["none"], strict=True))
        low, middle, high = quantiles([ms / base for ms, base in zip(found[name], plain, strict=True)], n=4)
        cells += [f"{added:.1f}", f"{middle:.3f} ({low:.3f} to {high:.3f})"]
    return [str(past), f"{median(plain):.0f}", *cells]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--past", default="0,3,13", help="numbers of earlier tasks, with commas")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64, help="of each row")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    backbone = load_backbone(ModelConfig(max_length=max(128, options.tokens)), device)
    backbone.model.train()
    attach(targets_of(backbone))
    print(describe(provenance(device, rows=ROWS, tokens=options.tokens, rounds=options.rounds)))
    print("\n" + markdown(COLUMNS, []), flush=True)
    for past in map(int, options.past.split(",")):
        steps = {penalty: step_of(penalty, backbone, options.tokens, past) for penalty in PENALTIES}
        apart = {penalty: alone(penalty, backbone, past) for penalty in PENALTIES}
        cells = row(past, durations(steps, options.rounds), durations(apart, 5 * options.rounds))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
