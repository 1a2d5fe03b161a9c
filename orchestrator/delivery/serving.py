"""Delivers committed streams to servers, as folders in the store that they load, and to Python, with `load`."""

import re
import warnings
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ConfigError, IntegrityError, KeyAbsentError
from cluster.storage import is_key, upload_files
from cluster.temporary import temporary
from orchestrator.delivery.export import Fit, differences, export, learned, published_base
from orchestrator.registry.references import Version
from orchestrator.track.layout import SERVE_ROOT, served_prefix
from orchestrator.track.track import MOST_MANIFEST_BYTES, Track
from trainers.architecture import settings_in_use
from trainers.config import ModelConfig
from trainers.identity import Identity, digests_again, settings_of
from trainers.methods.export import PEFT_CONFIG
from trainers.methods.registry import method_for
from trainers.models.held import UNREADABLE
from trainers.models.loading import load_model, read_tokenizer, resolve_name, unloadable, weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Served:
    """Where a version was put, and what is to be known of it, in lines."""

    place: str
    notes: tuple[str, ...]


def serve_layout(
    version: Version,
    *,
    root: str = SERVE_ROOT,
    base: str | None = None,
    model: str | None = None,
    fit: Fit | None = None,
) -> Served:
    """Writes a version, with all tasks before it, as a plain PEFT folder into the store, for servers that load
    adapters by name; with `fit` at one rank.

    The place is `root`/<base>/<team>-<track>-v00000012/. The number has a fixed width, because some
    servers list by prefix, and v1 would match v10. adapter_config.json is written last, and only if absent: a folder
    that has it is whole, and never changes. `base` is the name by which the base is served (default: the run's
    model.name); it becomes `base_model_name_or_path`. `model` is the place of the base's weights, if it has changed.

    Raises:
        ConfigError: a name that cannot stand in a key, or what `export` raises. IntegrityError: the folder is whole
            already but of another stream, or what `export` raises.
    """
    track, served = version.track, base or version.state.completed().model.name
    name = f"{track.team}-{track.name}-v{version.commit.version:08d}"  # two tracks that give one name are refused below
    prefix = served_prefix(root, NOT_IN_KEYS.sub("--", served).strip(".-"), name)
    if not is_key(f"{prefix}/{PEFT_CONFIG}") or not NOT_IN_KEYS.sub("", served):
        raise ConfigError(f"serve-layout: {prefix!r} is no safe place in a store; change --root or --base")
    with temporary("serve") as made:
        folder = Path(made) / name
        notes = export(version, "peft", folder, model=model, served=served, fit=fit).notes
        config = (folder / PEFT_CONFIG).read_bytes()
        (folder / PEFT_CONFIG).unlink()
        if not _stands(track, prefix, config):
            upload_files(track.store, prefix, folder)
            if not track.store.put_if_absent(f"{prefix}/{PEFT_CONFIG}", config):
                _stands(track, prefix, config)
    return Served(prefix, notes)


def _stands(track: Track, prefix: str, config: bytes) -> bool:
    """Whether the folder is whole already; raises IntegrityError if it is another adapter."""
    try:
        there = track.store.get(f"{prefix}/{PEFT_CONFIG}", MOST_MANIFEST_BYTES)
    except KeyAbsentError:
        return False
    if there != config:
        raise IntegrityError(
            f"store {track.store.uri}: {prefix} holds another adapter, and served folders never change; use another "
            "--root, or remove that folder"
        )
    return True


def apply(version: Version, base: "PreTrainedModel | str | Path | None") -> "PreTrainedModel":
    """The transformers model `base`, or the one that the run's configuration names, with the stream up to a version in
    its weights.

    `base` is a loaded model, which is changed, or a folder or hub id. New weights are computed in float32
    and rounded once to the model's dtype.

    Raises:
        IntegrityError: the weights, their configuration, or the tokenizer beside them, are not those that the stream
            was trained on, or a stored file was changed.
        ConfigError: no such model.
    """
    import torch

    _, tasks = learned(version)
    run = version.state.completed()
    if base is None or isinstance(base, str | Path):
        config = published_base(version, None if base is None else str(base))
        model = load_plain(config)
        told = settings_of(resolve_name(config.name), config.revision)
        found = Identity(weights_digest(model), tokenizer_of(config, version.state.base.tokenizer), told)
        if version.state.not_compared:
            warnings.warn(version.state.not_compared, stacklevel=3)
    else:
        digest = digest_among(base, {commit.base_digest for commit in version.stream})
        told = settings_in_use(base.config, version.state.base.config)
        model, found = base, Identity(digest, config=told)
    if faults := differences(version, found):
        raise IntegrityError(
            f"load {version.reference}: the base is not the one that the stream was trained on ({'; '.join(faults)}); "
            f"give it that model, unadapted and as {run.model.dtype}"
        )
    method_for(model, run.adapter, getattr(torch, run.model.dtype)).merge(tasks)
    return model


def load_plain(config: ModelConfig) -> "PreTrainedModel":
    """The transformers model of the run's task type, in its dtype. Raises ConfigError if it cannot be loaded."""
    try:
        model: PreTrainedModel = load_model(config, nullcontext()).eval()
        return model
    except UNREADABLE as error:
        raise ConfigError(f"{unloadable(config, error)}; or give the model as `base`") from None


def tokenizer_of(config: ModelConfig, was: Mapping[str, str]) -> dict[str, str]:
    """The sha256 of each file of the base's tokenizer, which had the digests `was`; empty if the model stands alone,
    which is enough for `load`."""
    now = digests_again(resolve_name(config.name), config.revision, was)
    return read_tokenizer(config) if now and now == was else now


def digest_among(model: "PreTrainedModel", known: Collection[str | None]) -> str:
    """The digest of a loaded model: without its pooler if that is the one `known`. Who loaded it may have had the
    pooler drawn at random, see `trainers.models.held`."""
    whole = weights_digest(model)
    without = whole if whole in known else weights_digest(model, pooler=False)
    return without if without in known else whole
