"""Facts of one machine, gathered on the driver's and, by a Ray task, on every node. Imports only the standard library.

Ray pickles this module by value, so that nodes without the project can answer too.
"""

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any


def gather_node(packages: Sequence[str], store: str | None = None) -> dict[str, Any]:
    """Facts of this machine as plain values; sizes are in bytes. `store` is the URI of a store to probe from here."""
    gpus = list_gpus()
    shm, disk = usage("/dev/shm"), usage("/tmp")
    return {
        "name": socket.gethostname(),
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := installed(name))},
        "project": util.find_spec("orchestrator") is not None,
        "auth_mode": os.environ.get("RAY_AUTH_MODE", ""),
        "gpus": gpus,
        "cuda": cuda_build() if gpus else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "shm_bytes": shm[0],
        "disk_bytes": disk[0],
        "disk_free_bytes": disk[1],
        "store": probe_store(store) if store else None,
    }


def now_s() -> float:
    """This machine's clock, seconds since 1970."""
    return time.time()


def installed(name: str) -> str | None:
    """The installed version of a distribution; None without one."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def usage(path: str) -> tuple[int, int]:
    """Total and free bytes of the filesystem at `path`; zeros if there is none."""
    try:
        found = shutil.disk_usage(path)
    except OSError:
        return 0, 0
    return found.total, found.free


def list_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows, whatever CUDA_VISIBLE_DEVICES says."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def cuda_build() -> dict[str, Any] | None:
    """The versions of CUDA and NCCL (as in 2.27.3) that torch was built with; each None if torch has none."""
    try:
        import torch
    except ImportError:
        return None
    try:
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError):
        nccl = None
    return {"cuda": torch.version.cuda, "nccl": nccl}


def probe_store(uri: str) -> dict[str, Any]:
    """Whether the store can be read and written from here, and the sha256 of the probe's object.

    `error` is None if the probe succeeds; `seen` is None if the object is not there.
    """
    import hashlib

    if util.find_spec("cluster") is None:
        return {"error": None, "seen": None, "checked": False}
    from cluster.errors import KeyAbsentError, OrthoplexError
    from cluster.storage import PROBE_KEY, open_store, probe

    seen, error = None, None
    try:
        store = open_store(uri)
        if not uri.startswith("s3:") and not Path(uri).is_dir():
            return {"error": None, "seen": None, "checked": True}  # probing would make the folder
        try:
            seen = hashlib.sha256(store.get(PROBE_KEY)).hexdigest()
        except KeyAbsentError:
            return {"error": None, "seen": None, "checked": True}
        probe(store)
    except OrthoplexError as problem:
        error = str(problem)
    return {"error": error, "seen": seen, "checked": True}
