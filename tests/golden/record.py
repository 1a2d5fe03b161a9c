"""Records the golden store anew: real runs and a real sweep over Ray, then all that is done with a store. Minutes.

Usage, from the repository's root: PYTHONPATH=. python -m tests.golden.record
No test runs this. It replaces tests/golden/store; then run `python -m tests.golden.expected` and read the difference.
The recording stands in a folder of a fixed name, since configurations in the log name their store.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

GOLDEN = Path(__file__).parent
REPO = GOLDEN.parents[1]
HERE = Path("/tmp/orthoplex-golden")
PUBLISH = """
from pathlib import Path
from cluster.storage import open_store
from orchestrator.registry.publish import publish
from orchestrator.track.events import Learned
from orchestrator.track.track import Track
learned = Learned(task="imported", active_parameters=10, overlap=0.0, base_digest="b" * 64)
metadata = {"base_model": {"name": "minilm"}, "base_digest": "b" * 64}
publish(Track(open_store("store"), "golden", "published"), Path("files"), learned, metadata)
"""
WORDS = {"colour": ("red", "green"), "weather": ("cold", "mild", "hot"), "animal": ("cat", "dog")}


def main() -> None:
    """Records everything."""
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    os.environ |= {"ORTHOPLEX_STATE": str(HERE / "state"), "LOGNAME": "golden", "PYTHONPATH": str(REPO)}
    os.environ |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "120", "ORTHOPLEX_STORE": str(HERE / "store")}
    os.chdir(HERE)
    write_inputs(HERE)
    record_runs()
    record_sweep()
    record_upkeep()
    shutil.rmtree(GOLDEN / "store", ignore_errors=True)
    shutil.copytree("store", GOLDEN / "store", ignore=shutil.ignore_patterns(".tmp", "checkpoint.safetensors"))
    for name in ("data", "run.yaml", "grown.yaml", "sweep.yaml"):
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
        copy(HERE / name, GOLDEN / name, **({"dirs_exist_ok": True} if copy is shutil.copytree else {}))
    shutil.rmtree(HERE)


def write_inputs(folder: Path) -> None:
    """Data and configurations, which name them by paths relative to the folder that commands run in."""
    (folder / "data").mkdir()
    for name, words in WORDS.items():
        for split, rows in (("train", 24), ("validation", 8), ("test", 12)):
            lines = [f"{split} {name} {words[i % len(words)]} sample {i},{words[i % len(words)]}" for i in range(rows)]
            (folder / "data" / f"{name}-{split}.csv").write_text("\n".join(["text,label", *lines, ""]))
    tasks = [
        {"name": name, "source": "files", **{s: f"data/{name}-{s}.csv" for s in ("train", "validation", "test")}}
        for name in WORDS
    ]
    content = {
        "name": "stream",
        "team": "golden",
        "store": "store",
        "model": {"name": "minilm", "max_length": 16},
        "adapter": {
            "target_modules": [f"encoder.layer.{layer}.attention.output.dense" for layer in (4, 5)],
            "max_rank": 2,
            "threshold": 0.4,
            "orthogonality": {"side": "both", "energy": 0.3},
        },
        "train": {"epochs": 4, "batch_size": 8, "warmup_steps": 2, "learning_rate": 5e-3, "logging_steps": 4}
        | {"checkpoint_steps": 2},
        "cluster": {"num_workers": 1, "lease_s": 30},
    }
    for name, count in (("run", 2), ("grown", 3)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**content, "tasks": tasks[:count]}, sort_keys=False))
    sweep = {
        "name": "grid",
        "base": "run.yaml",
        "run": {"train": {"checkpoint_steps": None}},
        "budget": {"trials": 9},
        "search": {
            "algorithm": "grid",
            "space": {"adapter.orthogonality.weight": {"choice": [5.0, 50.0]}},
        },
        "stopping": {"asha": None, "dominated": False},
        "concurrent": 1,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))


def record_runs() -> None:
    """golden/stream: interrupted, resumed, its worker killed, stopped by a guard. golden/branch: forked of it.
    golden/diverged: failed. golden/unread: failed before its data were read; its lease is the default."""
    with running("run", "run.yaml") as (process, until):
        until(r"\[2/2\] weather: train 4/")
        ended(process, signal.SIGINT, 130)
    with running("run", "run.yaml") as (process, until):
        until(r"\[2/2\] weather: resume")
        workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in p.name()]
        workers[0].kill()
        ended(process, None, 0)
    call("run", "grown.yaml", "--set", "guards.max_active_parameters=1", code=3)
    call("run", "grown.yaml", "--fork", "branch")
    wild = ("name=diverged", "train.learning_rate=1e30", "train.budget_learning_rate_factor=1e-33")
    call("run", "run.yaml", *(word for each in wild for word in ("--set", each)), code=1)
    lost = ("name=unread", "tasks.1.test=data/none.csv", "cluster={num_workers: 1}")
    call("run", "run.yaml", *(word for each in lost for word in ("--set", each)), code=2)


def record_sweep() -> None:
    """golden/grid: interrupted, gone on with; its second trial takes over the first task of the first."""
    with running("sweep", "sweep.yaml", "--output", "out") as (process, until):
        until(r"trial 1: 1 of 2 tasks")
        ended(process, signal.SIGINT, 130)
    call("sweep", "sweep.yaml", "--output", "out")


def record_upkeep() -> None:
    """Rules, aliases, published versions, housekeeping: unsigned first, then signed."""
    Path("bounds.yaml").write_text(yaml.safe_dump({"promotion": {"production": {"max_forgetting": 1.0}}}))
    call("adapters", "rules", "golden", "--set", "bounds.yaml", "--why", "a bound")
    everything("0")
    key = Ed25519PrivateKey.generate()
    Path("key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    rules = {
        "promotion": {"production": {"max_forgetting": 1.0, "max_active_parameters": 1_000_000}},
        "signatures": "required",
        "keys": {"owner": {"public_key": public}},
    }
    Path("signed.yaml").write_text(yaml.safe_dump(rules))
    call("adapters", "rules", "golden", "--set", "signed.yaml", "--why", "signatures")
    os.environ["ORTHOPLEX_SIGNING_KEY_FILE"] = str(HERE / "key.pem")
    everything("1")
    call("adapters", "gc", "grid-00002", "--delete", "2", "--yes", "--why", "not the chosen one")
    call("adapters", "verify")


def everything(mark: str) -> None:
    """Each thing that is done with a store, once."""
    call("adapters", "promote", "stream@v1", "--alias", "production", "--why", "the first")
    call("adapters", "promote", "stream@v2", "--alias", "production", "--expect", str(last_move()))
    call("adapters", "rollback", "stream@production", "--why", "worse")
    call("adapters", "promote", "branch@v3", "--alias", "candidate")
    loose = Path("store/t/golden/stream/v") / (mark * 32)  # a prefix that was aborted once is not named again
    loose.mkdir()
    (loose / "left.bin").write_bytes(b"left over")
    call("adapters", "gc", "stream", "--grace", "1h", "--yes")
    call("adapters", "gc", "stream", "--grace", "0s", "--yes")
    Path("files").mkdir(exist_ok=True)
    Path("files/adapter.safetensors").write_bytes(bytes(range(100)))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PUBLISH], check=True)
    call("adapters", "gc", "published", "--delete", str(versions("published")), "--yes", "--why", "one too many")
    call("adapters", "index", "published")


def last_move() -> int:
    """The entry that moved golden/stream@production last."""
    listed = call("adapters", "list", "--team", "golden")
    return int(re.findall(r"production \(moved by entry (\d+)\)", listed)[0])


def versions(track: str) -> int:
    """The newest version of a track that was not deleted."""
    return max(map(int, re.findall(rf"golden/{track}@v(\d+)", call("adapters", "list", "--team", "golden"))))


def call(*words: str, code: int = 0) -> str:
    """What a command prints; its exit code must be the one expected."""
    done = subprocess.run([sys.executable, "-m", "orchestrator", *words], check=False, capture_output=True, text=True)
    print("$ orthoplex", *words, f"({done.returncode})", done.stdout, done.stderr, sep="\n", flush=True)
    if done.returncode != code:
        raise SystemExit(f"expected exit code {code}")
    return done.stdout


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], None]]]:
    """A command in progress, and a function that reads its output up to a line that matches."""
    print("$ orthoplex", *words, flush=True)
    command = [sys.executable, "-m", "orchestrator", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

        def until(pattern: str) -> None:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if re.search(pattern, line):
                    return
            raise SystemExit(f"no line {pattern!r}")

        try:
            yield process, until
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: signal.Signals | None, code: int) -> None:
    """Waits for the end, after a signal if one is given."""
    if number is not None:
        process.send_signal(number)
    print(process.communicate(timeout=300)[0], flush=True)
    if process.returncode != code:
        raise SystemExit(f"exit code {process.returncode}, not {code}")


if __name__ == "__main__":
    main()
