"""Checks the paths of a configuration before a submission to a cluster. Pure functions."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.submit import inside
from orchestrator.config.errors import Yaml
from orchestrator.config.run import RunConfig
from orchestrator.log.signing import KEY_VARIABLE
from trainers.data.files import S3, matching
from trainers.data.sources import as_list

BENCHMARKS = ("cl_benchmark", "superni", "trace")  # sources that are read below data_dir
MOUNT = "every node must mount it under this path"


@dataclass(frozen=True)
class PathFinding:
    """A path that means another place on the cluster. With `refuse` the run could not work there or would be lost."""

    level: Literal["warn", "refuse"]
    message: str


def path_findings(
    config: RunConfig,
    content: Mapping[str, Yaml],
    directory: Path,
    shipped: Collection[str],
    env: Mapping[str, str],
    *,
    section: str = "",
) -> list[PathFinding]:
    """Judges every path of a configuration for a job whose working directory is a copy of `directory`.

    `content` is the mapping as written, since validation makes `store` absolute here. `shipped` has the files of the
    copy, `env` the job's variables. `section` stands before keys in messages, as `run.` of a sweep.
    """
    store = str(content.get("store", RunConfig.model_fields["store"].default))
    found: list[PathFinding | None] = [judge_store(store, section)]
    found += [
        judge_path(named(key, section), path, directory, shipped) for key, path in read_paths(config, directory, env)
    ]
    found.append(judge_key(env.get(KEY_VARIABLE), directory, shipped))
    address = config.cluster.address
    if address not in (None, "auto"):
        message = (
            f"cluster.address {address!r}: a job uses the cluster it is on; add --set {section}cluster.address=null"
        )
        found.append(PathFinding("warn", message))
    return [finding for finding in found if finding]


def named(key: str, section: str) -> str:
    """A key below a section; a variable of the environment stands in none."""
    return key if key.startswith("$") else f"{section}{key}"


def judge_store(written: str, section: str = "") -> PathFinding | None:
    """A bucket is the same everywhere; a relative folder would be thrown away with the job's working directory."""
    if written.startswith("s3://"):
        return None
    if written.startswith(("/", "file:///")):
        return PathFinding("warn", f"store {written}: a folder on the cluster's nodes; {MOUNT}")
    fix = f"use --set {section}store=s3://bucket/prefix, or an absolute folder that every node mounts"
    return PathFinding("refuse", f"store {written!r}: would lie in the job's own copy of the files and be lost; {fix}")


def judge_key(path: str | None, directory: Path, shipped: Collection[str]) -> PathFinding | None:
    """A signing key is named by its place on the cluster, where a secret is mounted, and does not travel itself."""
    if path is None:
        return None
    if inside(directory, directory / path) in shipped:
        fix = "move it out of the working directory, and mount it on the cluster"
        return PathFinding("refuse", f"${KEY_VARIABLE} {path}: would be uploaded, for all who reach the cluster; {fix}")
    if not path.startswith("/"):
        fix = "give the place where the cluster mounts it, as in --env"
        return PathFinding(
            "refuse", f"${KEY_VARIABLE} {path}: is not absolute; {fix} {KEY_VARIABLE}=/var/run/…/key.pem"
        )
    return PathFinding("warn", f"${KEY_VARIABLE} {path}: a file on the node of the driver; mount the key there")


def read_paths(config: RunConfig, directory: Path, env: Mapping[str, str]) -> list[tuple[str, str]]:
    """The paths that a run reads, each with the key that names it."""
    found = []
    if any(task.source in BENCHMARKS and not getattr(task, "data_dir", None) for task in config.tasks):
        if config.data_dir:
            found.append(("data_dir", config.data_dir))
        elif "ORTHOPLEX_DATA_DIR" in env:
            found.append(("$ORTHOPLEX_DATA_DIR", env["ORTHOPLEX_DATA_DIR"]))
    for index, task in enumerate(config.tasks):
        for key in ("train", "validation", "test") if task.source == "files" else ():
            names = [str(name) for name in as_list(getattr(task, key))]
            found += [(f"tasks.{index}.{key}", path) for name in names for path in in_folder(name, directory)]
        if own := getattr(task, "data_dir", None):
            found.append((f"tasks.{index}.data_dir", own))
        template = getattr(task, "chat_template", None)
        if template and (directory / template).is_file():
            found.append((f"tasks.{index}.chat_template", template))
    name = config.model.name
    if name.startswith(("/", ".", "~")) or (directory / name).is_dir():
        found.append(("model.name", name))
    return found


def in_folder(name: str, directory: Path) -> list[str]:
    """The paths that a key's path or pattern means in the working directory; none of an object store."""
    if name.startswith(S3):
        return []
    there = matching(directory / name) if not name.startswith(("/", "~")) else []
    return [os.path.relpath(path, directory) for path in there] or [name]


def judge_path(key: str, path: str, directory: Path, shipped: Collection[str]) -> PathFinding | None:
    """Relative paths must be among the files that travel; absolute ones must be on the cluster."""
    if path.startswith("~"):
        return PathFinding("warn", f"{key} {path}: will be the home of the cluster's user; {MOUNT}")
    within = inside(directory, directory / path)
    if path.startswith("/"):
        hint = f", or write {within} to have it uploaded" if within else ""
        return PathFinding("warn", f"{key} {path}: a place on the cluster's nodes; {MOUNT}{hint}")
    if within is None:
        fix = "move it inside, or use an absolute path that the cluster mounts"
        return PathFinding("refuse", f"{key} {path}: leads out of the working directory {directory}; {fix}")
    if within not in shipped and not any(name.startswith(f"{within}/") for name in shipped):
        state = (
            "is left out by .gitignore or .rayignore, or as a secret (--allow)"
            if (directory / within).exists()
            else "does not exist"
        )
        return PathFinding("refuse", f"{key} {path}: {state}, so the job would not have it; see --working-dir")
    return None
