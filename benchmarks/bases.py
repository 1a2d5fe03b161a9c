"""What a long stream's adapters and bases cost between store, driver and workers.

    PYTHONPATH=. python benchmarks/bases.py [--tasks 200] [--width 4096] [--modules 64] [--rank 5] [--folder /tmp/bases]

Writes a stream of that many tasks into a folder store, once, as a run would (random orthonormal directions, output
side). Then, as a restarted driver does: reads every file and checks its digest, puts them into Ray's object store, and
a worker process gets, checks and parses them and joins the bases. Seconds, and GiB at the peak of each process. No
layer is written: folding is arithmetic on the GPU.
"""

import argparse
import hashlib
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Results, Row, markdown, provenance
from cluster.resources import ClusterConfig
from cluster.session import ray_session
from cluster.storage import LocalStore, upload_files
from orchestrator.log.chain import READERS
from orchestrator.log.event import Anything, events
from orchestrator.track.events import Commit, Learned
from orchestrator.track.track import Track
from trainers.methods.base import Artifact
from trainers.methods.oa import artifact
from trainers.methods.oa.artifact import ADAPTER_FILE, BASES_FILE, ModuleAdapter, TaskAdapter
from trainers.methods.oa.subspace import Basis

GIB = 2**30


def publish(track: Track, options: argparse.Namespace, folder: Path) -> None:
    """The stream's commits; all modules of a task have the same directions."""
    generator = torch.Generator().manual_seed(0)
    q_DH, _ = torch.linalg.qr(torch.randn(options.width, options.tasks * options.rank, generator=generator))
    for number in range(options.tasks):
        w2_DR = q_DH[:, number * options.rank : (number + 1) * options.rank].contiguous()
        names, one = [f"layers.{index}.dense" for index in range(options.modules)], torch.ones(options.rank)
        modules = {name: ModuleAdapter(w2_DR.T.contiguous().clone(), w2_DR.clone(), one.clone()) for name in names}
        written = {name: Basis(w2_DR.clone(), one.clone()) for name in names}
        Artifact(artifact.dump(TaskAdapter(modules, written, {}))).write(folder)
        prefix = track.fresh_prefix()
        files = upload_files(track.store, prefix, folder)
        sha256, size = track.write_manifest(prefix, {"task": number}, files), sum(file.size for file in files)
        placed = {"prefix": prefix, "manifest_sha256": sha256}
        commit = Commit.placed(Learned(task=str(number)), version=number + 1, stored_bytes=size, **placed)
        track.append(commit, after=track.head(), requires=Anything())


def read(track: Track) -> tuple[list[tuple[bytes, ...]], float]:
    """Every task's files, checked, as the driver reads them; and the seconds."""
    started = time.monotonic()
    commits = [commit for _, commit in events(track.entries(), Commit)]

    with ThreadPoolExecutor(READERS) as pool:
        files = list(pool.map(lambda commit: track.committed(commit, ADAPTER_FILE, BASES_FILE), commits))
    return files, time.monotonic() - started


def as_worker(refs: list[Any], width: int) -> dict[str, float]:
    """What a worker process does with them."""
    import ray

    started = time.monotonic()
    files = ray.get(list(refs[0]))
    got = time.monotonic()
    for pair in files:
        for data in pair:
            hashlib.sha256(data).hexdigest()
    tasks = [artifact.parse(*pair) for pair in files]
    parsed = time.monotonic()
    names = tasks[0].written
    bases = {name: Basis.empty(width).joined(*(task.written[name] for task in tasks)) for name in names}
    held = sum(basis.columns_DH.nbytes for basis in bases.values())
    times = {"get": got - started, "check and parse": parsed - got, "join": time.monotonic() - parsed}
    return {**times, "bases GiB": held / GIB, "worker peak GiB": peak()}


def peak() -> float:
    """The most memory this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(options: argparse.Namespace) -> Row:
    """One stream, from store to worker."""
    import ray

    track = Track(LocalStore(options.folder / "store"), "bench", "stream")
    if track.head() is None:
        scratch = options.folder / "scratch"
        scratch.mkdir(parents=True)
        publish(track, options, scratch)
    stored = sum(path.stat().st_size for path in (options.folder / "store").rglob("*.safetensors"))
    with ray_session(ClusterConfig()):
        files, read_s = read(track)
        started = time.monotonic()
        refs = [ray.put(pair) for pair in files]
        put_s = time.monotonic() - started
        del files
        worker = ray.get(ray.remote(num_cpus=1, max_calls=1)(as_worker).remote([refs], options.width))
    rates = {"stored GiB": stored / GIB, "driver reads": read_s, "driver puts": put_s}
    return {**rates, **worker, "driver peak GiB": peak()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tasks", 200), ("width", 4096), ("modules", 64), ("rank", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/orthoplex-bases"))
    parser.add_argument("--keep", action="store_true", help="keep the folder for the next command")
    options = parser.parse_args()
    shape = f"{options.tasks} tasks, {options.modules} modules of width {options.width}, rank {options.rank}"
    results = Results.open(shape, None, provenance(torch.device("cpu")))
    try:
        results.put("bases", measure(options))
    finally:
        if not options.keep:
            shutil.rmtree(options.folder, ignore_errors=True)
    row = results.rows["bases"]
    print(results.header() + "\n")
    print(markdown(["", "s or GiB"], [[name, f"{value:.2f}"] for name, value in row.items() if name != "run"]))


if __name__ == "__main__":
    main()
