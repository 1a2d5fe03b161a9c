"""Where an adapter comes from: what its manifest says of it, and the versions that stand on each other."""

import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.log.entry import Entry
from orchestrator.registry.aliases import aliases
from orchestrator.track.state import RunState

PACKAGES = ("orthoplex", "ray", "torch", "deepspeed", "transformers")
GIT_TIMEOUT_S = 10


@cache
def code_version() -> dict[str, Any]:
    """{"packages": versions, `source` where the code runs without being installed; "git_commit": of the checkout that
    runs, or null; "git_changed": whether files of it differ from that commit, or null}."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = commit and _git(folder, "ls-files", "--", Path(__file__).name)
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no") if tracked else None
    return {
        "packages": {name: package_version(name) for name in PACKAGES},
        "git_commit": commit if tracked else None,
        "git_changed": None if changed is None else bool(changed),
    }


def package_version(name: str) -> str:
    """The installed version, or `source` where the code runs without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "source"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def tree(state: RunState, entries: Sequence[Entry]) -> dict[str, Any]:
    """The versions of a stream in the order in which they stand on each other, on their base."""
    named: dict[int, list[str]] = {}
    for alias in aliases(entries).values():
        named.setdefault(alias.version, []).append(alias.name)
    return {
        "track": f"{state.team}/{state.name}",
        "base": state.config.get("model", {}).get("name"),
        "base_digest": state.commits[0]["base_digest"] if state.commits else None,
        "versions": [
            {
                "ref": state.reference(commit),
                "task": commit["task"],
                "manifest_sha256": commit["manifest_sha256"],
                "aliases": named.get(commit["version"], []),
                "deleted": commit["version"] in state.deleted,
                "committed_at": commit["time"],
            }
            for commit in state.commits
        ],
    }


def tree_lines(content: Mapping[str, Any]) -> list[str]:
    """`tree` for people: each version stands on all above it."""
    lines = [f"{content['base']}  sha256 {content['base_digest']}"]
    for each in content["versions"]:
        marks = "".join(f"  ← {name}" for name in each["aliases"]) + ("  (deleted)" if each["deleted"] else "")
        lines.append(f"└─ {each['ref']}  {each['task']}  {each['manifest_sha256'][:12]}{marks}")
    return lines
