"""What a server serves, and its limits; and whether the adapters that it names can be served together."""

import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated

from pydantic import BeforeValidator, Field

from cluster.errors import ConfigError
from cluster.schema import Frozen
from cluster.storage import DEFAULT_STORE, open_store
from orchestrator.delivery.repertoire import Repertoire, version_of
from orchestrator.registry.references import Version
from trainers.data.generative.config import GenerativeTask

KEYS = "ORTHOPLEX_API_KEYS"
LEAST_KEY = 16  # characters of a key
Count = Annotated[int, Field(ge=1)]


def _names(value: object) -> object:
    """Names with commas between them as a list: the arguments of `serve run` are strings."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class ServeSettings(Frozen):
    """The arguments of the Ray Serve application.

    Attributes:
        adapters: team/run@ALIAS, which is followed as it moves, or team/run@vN; a run alone is its newest version now.
        store: a folder or s3://bucket/prefix. Default: $ORTHOPLEX_STORE, else .orthoplex/store.
        model: the base's folder or hub id, if it has moved.
        device: cuda has a replica ask Ray for a GPU; a replica that asks for none sees none, and uses the CPU.
        batch_size: texts per forward pass at most. Default: the run's `train.eval_batch_size`.
        max_concurrent: requests that a replica has at once; beyond it they get 429.
        max_tokens: of an answer, at most.
        max_texts: texts of one request, at most.
        max_body_bytes: of one request, at most; beyond it 413.
        refresh_s: seconds between two looks at the aliases.
        cpus: cores of a replica, which are its threads. Default: what Ray gives, 1.
        open: serve without API keys, if nothing but this machine or a trusted network reaches the port.
    """

    adapters: Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
    store: str = Field(default_factory=lambda: os.environ.get("ORTHOPLEX_STORE") or DEFAULT_STORE)
    model: str | None = None
    device: str | None = None
    batch_size: Count | None = None
    max_concurrent: Count = 64
    max_tokens: Count = 1024
    max_texts: Count = 256
    max_body_bytes: Count = 1 << 20
    refresh_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    cpus: Count = 1
    open: bool = False


def on_gpu(device: str | None) -> bool:
    """Whether a device is a GPU."""
    return device is not None and device.startswith("cuda")


def key_digests(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The sha256 of each API key in $ORTHOPLEX_API_KEYS, where commas are between them: what a replica is given.

    Raises:
        ConfigError: a key is short, or has characters that no header can hold.
    """
    keys = [key.strip() for key in environment.get(KEYS, "").split(",") if key.strip()]
    for number, key in enumerate(keys, start=1):
        if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"{KEYS}: key number {number} has fewer than {LEAST_KEY} characters, or others than ASCII without "
                "spaces; make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return tuple(digest_of(key) for key in keys)


def digest_of(key: str) -> str:
    """The sha256 of a key, by which keys are compared."""
    return sha256(key.encode()).hexdigest()


def versions_of(settings: ServeSettings) -> list[Version]:
    """The versions that the adapters name now, in order.

    Raises:
        ConfigError: there is no such version, one cannot answer, or they do not stand on one base.
    """
    if twice := sorted({name for name in settings.adapters if settings.adapters.count(name) > 1}):
        raise ConfigError(f"ADAPTER {twice[0]!r}: is given twice; give it once")
    store = open_store(settings.store)
    found = [version_of(store, reference) for reference in settings.adapters]
    for version in found:
        check_answers(version)
        check_one_base(found[0], version)
    return found


def check_answers(version: Version) -> None:
    """Raises ConfigError if a version has learned nothing that can be asked."""
    tasks = Repertoire(version).tasks
    asked = [
        each for each in tasks.values() if not (isinstance(each.task, GenerativeTask) and each.task.form == "text")
    ]
    if not asked:
        learned = f"it was trained on plain text alone ({', '.join(tasks)})" if tasks else "its log describes no task"
        raise ConfigError(f"ADAPTER {version.reference!r}: cannot be served: {learned}; serve a version that answers")


def check_one_base(first: Version, other: Version) -> None:
    """Raises ConfigError unless two versions stand on the same base, held in the same way."""
    ours, theirs = first.state.completed().model, other.state.completed().model
    faults = [
        f"model.{key} is {getattr(theirs, key)}, not {getattr(ours, key)}"
        for key in ("task_type", "dtype", "quantization")
        if getattr(ours, key) != getattr(theirs, key)
    ]
    faults += first.commit.base.differences(other.commit.base)
    if faults:
        raise ConfigError(
            f"ADAPTER {other.reference!r}: it stands on another base than {first.reference} ({'; '.join(faults)}); one "
            "server holds one base: serve it with another `orthoplex serve`, at another port"
        )
