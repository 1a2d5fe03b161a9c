"""What a training step costs, side by side: the frozen limit, PEFT LoRA and AdaLoRA, O-LoRA's loss, and ours.

    python benchmarks/step_time.py --results out.json                      # on a GPU: the T5-large shape, bf16
    python benchmarks/step_time.py --shape llama-1b --cells limit,lora,ours@15 --modes compiled --results out.json
    OMP_WAIT_POLICY=PASSIVE python benchmarks/step_time.py --cpu           # small, float32, on two threads

Run it with `PYTHONPATH=.` from the project's folder. On a CPU that others use too, threads that spin while they wait
would give noise; hence the passive policy.

Cells (`@t`: after t past tasks of 5 directions per layer):
    forward            frozen forward only
    limit              frozen forward and activation-only backward
    lora               PEFT LoRA r=16 on the layers that ours adapts, its matrices in the model's dtype
    adalora            PEFT AdaLoRA 12 → 8 on q and v, with its orthogonality term and an allocation every step
    olora@15           PEFT LoRA r=16 with O-LoRA's published orthogonality loss
    ours@t             OA-Adapter r=16, history folded into the weights
    ours-concat@t      the same, history as stacked pairs on the layers' outputs
    bank@t             of ours, all that is not in the layers: gates, casts, penalty, their gradients, and AdamW

Trained cells include the optimizer's step. Every cell is measured on a fresh model with random weights and written to
the results at once; one that stands there is not measured again, unless it failed. Each command repeats the controls
`limit` and `lora` in each mode in which something is missing, and a cell's ratios are to the controls of its own
command. Compiled means every transformer block is compiled (identical ones share their code), in all cells alike.
Needs torch, transformers, peft and this project; neither Ray nor DeepSpeed.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.step_cells import BUILDERS, CELLS, CONTROLS, SHAPES, Bench, Shape, Step, cell_step

MODES = ("eager", "compiled")
WARM_UP = 3


def durations(step: Step, steps: int, device: torch.device) -> list[float]:
    """Milliseconds of each step: between CUDA events, so that the host may run ahead as in training, or wall time."""
    if device.type == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
        marks[0].record()
        for mark in marks[1:]:
            step()
            mark.record()
        torch.cuda.synchronize()
        return [one.elapsed_time(two) for one, two in itertools.pairwise(marks)]
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def measure(cell: str, bench: Bench, steps: int) -> dict[str, float]:
    """Median milliseconds of a step after three to warm up, and peak GiB of device memory (0 on a CPU)."""
    step = cell_step(cell, bench)
    for _ in range(WARM_UP):
        step()
    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = durations(step, steps, bench.device)
    if not bench.seen.isfinite():
        raise ValueError(f"the loss is {float(bench.seen)}")
    return {"ms": statistics.median(times), "gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0}


def run_cell(cell: str, shape: Shape, mode: str, device: torch.device, steps: int) -> dict[str, Any]:
    """The measurement, or the reason why there is none. Nothing of it stays on the device."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        return measure(cell, Bench(shape, device, dtype, mode == "compiled"), steps)
    except Exception as error:  # one cell must not take the table down; its reason stands in the table
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0][:160]}"}
    finally:
        torch._dynamo.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def save(results: Mapping[str, Any], path: Path | None) -> None:
    """Replaces the file at once: it is never half written."""
    if path is not None:
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(results, indent=1))
        temporary.replace(path)


def setting(device: torch.device) -> str:
    """Machine, library versions and commit of a measurement."""
    cpu = f"{torch.get_num_threads()} threads {platform.machine()}"
    machine = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    return f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, commit {commit()}"


def commit() -> str:
    """The checkout's, or what ORTHOPLEX_COMMIT says where there is none."""
    if "ORTHOPLEX_COMMIT" in os.environ:
        return os.environ["ORTHOPLEX_COMMIT"]
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def table(results: Mapping[str, Any], name: str) -> str:
    """All results of a shape as Markdown, a line a cell and mode, below the settings in which they were measured."""
    shape, rows = SHAPES[name], {key: row for key, row in results.items() if key.startswith(f"{name}/")}
    settings = dict.fromkeys(row["setting"] for row in rows.values())
    lines = [f"{name}, batch {shape.batch} × {shape.length}; {each}" for each in settings]
    lines += ["", "| cell | mode | ms/step | tokens/s | peak GiB | × limit | × lora |", "|---|---|---|---|---|---|---|"]
    for key, row in rows.items():
        _, cell, mode = key.split("/")
        if "error" in row:
            lines.append(f"| {cell} | {mode} | {row['error'].replace('|', '/')} | | | | |")
            continue
        tokens = "" if cell.startswith("bank") else f"{shape.batch * shape.length / row['ms'] * 1e3:,.0f}"
        ratios = (f"{row['ms'] / row[control]:.3f}" if row.get(control) else "" for control in CONTROLS)
        gib = f"{row['gib']:.1f}" if row["gib"] else ""
        lines.append(f"| {cell} | {mode} | {row['ms']:.1f} | {tokens} | {gib} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def run(cells: list[str], modes: list[str], name: str, device: torch.device, *, steps: int, path: Path | None) -> str:
    """Measures what is missing and returns the table of all there is."""
    results: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}

    def missing(cell: str, mode: str) -> bool:
        return "ms" not in results.get(f"{name}/{cell}/{mode}", {}) and not (mode == "compiled" and "bank" in cell)

    for mode in modes:
        wanted = [cell for cell in cells if missing(cell, mode)]
        controls: dict[str, float] = {}
        for cell in [*CONTROLS, *(c for c in wanted if c not in CONTROLS)] if wanted else ():
            started = time.perf_counter()
            row = run_cell(cell, SHAPES[name], mode, device, steps)
            key = f"{name}/{cell}/{mode}"
            if cell in CONTROLS and "ms" in row:
                controls[cell] = row["ms"]
            results[key] = {**row, "setting": setting(device)}
            for each in {*(f"{name}/{c}/{mode}" for c in CONTROLS), key} & results.keys():
                results[each] |= {c: controls.get(c) for c in CONTROLS}
            save(results, path)
            print(f"{key}: {row} ({time.perf_counter() - started:.0f} s)", flush=True)
    return table(results, name)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the small shape, on two threads")
    parser.add_argument("--shape", choices=["t5-large", "llama-1b"], default="t5-large")
    parser.add_argument("--cells", default=",".join(CELLS), help="names with commas between; all of them by default")
    parser.add_argument("--modes", default="", help="eager, compiled, or both (by default both; on a CPU eager)")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a cell, after three to warm up")
    parser.add_argument("--results", type=Path, help="a JSON file to go on with and to add to")
    options = parser.parse_args()
    cells = options.cells.split(",")
    modes = (options.modes or ("eager" if options.cpu else "eager,compiled")).split(",")
    if unknown := [c for c in cells if c.partition("@")[0] not in BUILDERS] + [m for m in modes if m not in MODES]:
        parser.error(f"no such cell or mode: {', '.join(unknown)}; there are {', '.join(CELLS)}")
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.cpu:
        torch.set_num_threads(2)
    elif not torch.cuda.is_available():
        parser.error("there is no GPU here; --cpu measures a small shape")
    name, device = ("cpu", torch.device("cpu")) if options.cpu else (options.shape, torch.device("cuda"))
    print("\n" + run(cells, modes, name, device, steps=options.steps, path=options.results))


if __name__ == "__main__":
    main()
