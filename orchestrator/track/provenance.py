"""The code that wrote something: versions of the main packages, and the commit of the checkout that runs."""

import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

PACKAGES = ("orthoplex", "ray", "torch", "deepspeed", "transformers")
GIT_TIMEOUT_S = 10


class CodeVersion(TypedDict):
    """As a manifest holds it. `git_commit` is that of the checkout that runs, `git_changed` whether files of it differ
    from that commit; None if there is no checkout."""

    packages: dict[str, str]
    git_commit: str | None
    git_changed: bool | None


@cache
def code_version() -> CodeVersion:
    """The code that runs here."""
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
    """The installed version, or `source` if the code runs without being installed."""
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


def base_told(tokenizer: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """What commit and manifest say of the base beside its digest, as far as it is known."""
    told = {"tokenizer": dict(tokenizer), "base_config": dict(config)}
    return {key: known for key, known in told.items() if known}
