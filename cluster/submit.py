"""What a job takes to a cluster: a command, the files of a working directory, variables, pinned packages.

Secrets never travel: whoever may look at a job sees its command, its variables and its files in plain text. They are
put on the cluster itself (docs/operations.md). What looks like a secret (`cluster.secrets`) stays here unless it is
allowed by name.
"""

import os
import re
import shlex
import uuid
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.secrets import is_secret, secret_files
from cluster.session import QUIET
from cluster.temporary import temporary

EXCLUDED = (".git", ".venv/", "venv/", ".orthoplex/", "__pycache__/", ".*_cache/", "*.egg-info/")
PASSED = ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
PASSED_PREFIX = "ORTHOPLEX_"
STAYS = ("ORTHOPLEX_STATE",)  # a folder of this machine
OURS = {*QUIET, "DS_ACCELERATOR", "RAY_ADDRESS", "RAY_JOB_STOP_WAIT_TIME_S"}
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
GROUP_START = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PIP_START_S = 900  # a worker's start waits for its packages; Ray Train's own patience is 60 s
SUBMISSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Package:
    """A zip of a working directory: its path, the files in it relative to the directory, its size, and the files that
    were left out since they look like secrets."""

    path: Path
    files: frozenset[str]
    size_bytes: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submission:
    """One job as it is handed to Ray. `environment` and `pip` reach the driver and every worker."""

    submission_id: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    pip: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None

    def request(self, package: Package) -> dict[str, Any]:
        """Keyword arguments of `JobSubmissionClient.submit_job`. The driver reserves no CPU and no GPU."""
        runtime_env: dict[str, Any] = {"working_dir": str(package.path), "env_vars": dict(self.environment)}
        if self.pip:
            runtime_env["pip"] = list(self.pip)
        return {
            "entrypoint": shlex.join(self.command),
            "submission_id": self.submission_id,
            "entrypoint_num_cpus": 0,
            "runtime_env": runtime_env,
            "metadata": dict(self.metadata or {}),
        }


def submission_id(run: str, name: str | None = None) -> str:
    """`name`, or a fresh id that begins with the run's name.

    Raises:
        ConfigError: `name` has characters that do not belong into a URL.
    """
    if name is not None and not SUBMISSION_ID.fullmatch(name):
        raise ConfigError(f"--name {name!r}: use letters, digits, '.', '_' and '-', a letter or digit first")
    return name or f"{run}-{uuid.uuid4().hex[:8]}"


def job_environment(
    asked: Sequence[str],
    environ: Mapping[str, str],
    grace_s: int,
    pip: bool = False,
    allowed: Collection[str] = (),
) -> dict[str, str]:
    """The job's variables: those asked for, those of PASSED and ORTHOPLEX_* that are set here without STAYS, and Ray's.

    `asked` has `NAME`, whose value is taken from `environ`, and `NAME=VALUE`. After a stop the job has `grace_s`
    seconds to keep its state before Ray kills it. Names in `allowed` are of no secrets, whatever they look like.

    Raises:
        ConfigError: a name is unset or Orthoplex's own, or name or value look like a secret. No message holds a value.
    """
    held = withheld(environ, allowed)
    chosen = {name: environ[name] for name in sorted(environ) if is_passed(name) and name not in held}
    for each in asked:
        name, given, value = each.partition("=")
        chosen[name] = checked(name, value if given else environ.get(name), allowed)
    if pip:
        chosen.setdefault(GROUP_START, str(PIP_START_S))
    return {**chosen, STOP_WAIT: str(grace_s)}


def is_passed(name: str) -> bool:
    """Whether a variable that is set here is passed on unasked."""
    return name in PASSED or (name.startswith(PASSED_PREFIX) and name not in STAYS)


def withheld(environ: Mapping[str, str], allowed: Collection[str] = ()) -> list[str]:
    """The names of those variables that would be passed on, but look like secrets."""
    return sorted(
        name for name, value in environ.items() if is_passed(name) and name not in allowed and is_secret(name, value)
    )


def checked(name: str, value: str | None, allowed: Collection[str] = ()) -> str:
    """The value of a variable that was asked for. Raises ConfigError as `job_environment` says."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError("--env: expected NAME or NAME=VALUE, with letters, digits and '_' in the name")
    if name in OURS:
        raise ConfigError(f"--env {name}: is set by Orthoplex itself; leave it out")
    if value is None:
        raise ConfigError(f"--env {name}: not set here; set it, or give --env {name}=VALUE")
    if name not in allowed and is_secret(name, value):
        raise ConfigError(
            f"--env {name}: looks like a secret, and whoever sees the job would read it; put it on the cluster's "
            'nodes, as a mounted file or in their environment: see "Secrets" in docs/operations.md. If it is none, add '
            f"--allow {name}"
        )
    return value


def pinned(requirements: Sequence[str]) -> tuple[str, ...]:
    """The requirements, each with an exact version. A file has one per line.

    Raises:
        ConfigError: one is malformed, has no exact version, or is Ray, whose version is the cluster's.
    """
    return tuple(pin for each in requirements for pin in map(exact, lines_of(each)))


def lines_of(requirement: str) -> list[str]:
    """A requirement itself, or those in the file of that name without comments."""
    path = Path(requirement)
    if not path.is_file():
        return [requirement]
    lines = (line.partition(" #")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def exact(line: str) -> str:
    """The requirement. Raises ConfigError unless it has one exact version and is not Ray."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        raise ConfigError(f"--pip {line!r}: expected NAME==VERSION, or a file of such lines") from None
    pins = [pin for pin in requirement.specifier if pin.operator == "==" and not pin.version.endswith(".*")]
    if len(pins) != 1:
        raise ConfigError(f"--pip {line!r}: give the exact version, as in {requirement.name}==1.2.3")
    if requirement.name.lower() == "ray":
        raise ConfigError(f"--pip {line!r}: Ray's version is the cluster's; use an image that has this one")
    return line


@contextmanager
def packaged(directory: Path, excluded: Sequence[str] = EXCLUDED, allowed: Collection[str] = ()) -> Iterator[Package]:
    """Zips a directory as Ray does for a job, without what .gitignore, .rayignore and `excluded` name, and without what
    looks like a secret and is not `allowed` by its path or name.

    Raises:
        ConfigError: there is no such directory, or the zip is larger than what Ray takes.
    """
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    if not directory.is_dir():
        raise ConfigError(f"--working-dir {directory}: no such folder")
    gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    root, names = directory.resolve(), [*get_runtime_env_default_excludes(), *excluded]
    found = travelling(root, names, gitignore)
    held = {*secret_files(root, found, allowed)}
    with temporary("submit") as folder:
        path = Path(folder) / f"{root.name or 'working_dir'}.zip"
        with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
            for name in found:
                if name not in held:
                    archive.write(root / name, name)
            entries = archive.infolist()
        if path.stat().st_size > GCS_STORAGE_MAX_SIZE:
            raise ConfigError(too_large(directory, path.stat().st_size, GCS_STORAGE_MAX_SIZE, entries))
        files = frozenset(entry.filename for entry in entries)
        yield Package(path, files, path.stat().st_size, tuple(sorted(held)))


def travelling(root: Path, excluded: Sequence[str], gitignore: bool) -> list[str]:
    """The files and empty folders below `root` that Ray would take, relative to it, with slashes."""
    import logging

    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    found: list[Path] = []
    quiet = logging.Logger("orthoplex.package", logging.ERROR)
    _dir_travel(root, [_get_excludes(root, list(excluded))], found.append, gitignore, quiet)
    taken = (path for path in found if path.is_file() or (path.is_dir() and not any(path.iterdir())))
    return [path.relative_to(root).as_posix() for path in taken if path != root]


def too_large(directory: Path, size: int, limit: int, entries: Sequence[zipfile.ZipInfo]) -> str:
    """The message for a package above Ray's limit, with its three largest files. `size` and `limit` are in bytes."""
    largest = sorted(entries, key=lambda entry: -entry.compress_size)[:3]
    named = ", ".join(f"{entry.filename} ({entry.compress_size / 2**20:,.0f} MiB)" for entry in largest)
    return (
        f"--working-dir {directory}: {size / 2**20:,.0f} MiB to upload, Ray takes {limit / 2**20:,.0f}; largest: "
        f"{named}. Name what the run does not need in .rayignore, and keep data in a folder that the cluster mounts"
    )


def inside(directory: Path, path: Path) -> str | None:
    """`path` relative to `directory`, with slashes, links followed; None if it is not below it."""
    try:
        return path.resolve().relative_to(directory.resolve()).as_posix()
    except (ValueError, OSError, RuntimeError):
        return None
