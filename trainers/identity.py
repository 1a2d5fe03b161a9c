"""What tells one base from another: the digest of its weights, those of its tokenizer's files, and its configuration.

The tokenizer is told by its files, byte by byte, wherever they lie: `tokenizer.json`, its configuration, special and
added tokens, chat templates; also vocabularies, if they and not `tokenizer.json` are what is read. So the digests are
the same for a folder, a copy of it and a hub id, on every machine and with every version of transformers. What counts
of the configuration says `trainers.architecture`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.folders import file_digest
from trainers.architecture import CONFIG, GENERATION, settings, settings_differences

WHOLE = "tokenizer.json"
CHAT_TEMPLATES = "additional_chat_templates"
ALWAYS = (
    WHOLE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
VOCABULARIES = (  # of the tokenizers of transformers, for those that read them
    "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model",
    "tokenizer.model", "spm.model", "spm_char.model", "source.spm", "target.spm", "target_vocab.json", "bpe.codes",
    "tekken.json", "tiktoken.model", "vocab-src.json", "vocab-tgt.json", "prophetnet.tokenizer", "byte_maps.json",
    "dict.txt", "emoji.json", "entity_vocab.json", "word_shape.json", "word_pronunciation.json",
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """The sha256 of the weights, and of each file of the tokenizer, and what config.json says about computing; None and
    empty if they are not known."""

    weights: str | None = None
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, now: "Identity") -> list[str]:
        """What is not as it was, one line each: "its weights have sha256 …, not …". What is not known is not
        compared."""
        lines = []
        if self.weights and now.weights and self.weights != now.weights:
            lines.append(f"its weights have sha256 {now.weights}, not {self.weights}")
        lines += tokenizer_differences(self.tokenizer, now.tokenizer)
        return lines + settings_differences(self.config, now.config)


def other_base(name: str, faults: Iterable[str]) -> str:
    """What a run says whose base `name` differs from the one that it was begun on by these `faults`."""
    return (
        f"model.name: {name!r} is not the base that the stream was begun on ({'; '.join(faults)}); put that one back, "
        "or begin anew under another `name`, without --fork"
    )


def tokenizer_differences(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which files of a tokenizer are not as they were, one line each; none if either is not known."""
    if not was or not now:
        return []
    lines = []
    for name in sorted({*was, *now}):
        if name not in now:
            lines.append(f"its tokenizer has no {name} any more")
        elif name not in was:
            lines.append(f"its tokenizer has a {name}, which it had not")
        elif was[name] != now[name]:
            lines.append(f"its tokenizer's {name} has sha256 {now[name]}, not {was[name]}")
    return lines


def tokenizer_digests(where: str, revision: str | None, tokenizer: Any) -> dict[str, str]:
    """The sha256 of each file of `tokenizer`, which was loaded from the folder or hub id `where`."""
    found = files(where, revision, (*ALWAYS, *_chat_templates(where, revision)))
    if WHOLE not in found or not tokenizer.is_fast:
        found |= files(where, revision, {*VOCABULARIES, *type(tokenizer).vocab_files_names.values()})
    return _digests(found)


def digests_again(where: str, revision: str | None, was: Mapping[str, str]) -> dict[str, str]:
    """The sha256 of the files that `was` names, as they are now. Nothing is loaded, which a changed tokenizer might not
    allow. Empty if there is no such folder or hub id, which who loads it will say."""
    try:
        return _digests(files(where, revision, was))
    except OSError:
        return {}


def settings_of(where: str, revision: str | None) -> dict[str, Any]:
    """What the configuration of a folder or hub id says about computing. Empty if there is none, which who loads the
    model will say."""
    try:
        return settings(files(where, revision, (CONFIG, GENERATION)))
    except OSError:
        return {}


def tokenizer_files(where: str, revision: str | None) -> dict[str, Path]:
    """All files of its tokenizer that a folder or hub id has, by name: also vocabularies that stand in
    `tokenizer.json` too, since other programs read those."""
    return files(where, revision, (*ALWAYS, *_chat_templates(where, revision), *VOCABULARIES))


def files(where: str, revision: str | None, names: Iterable[str]) -> dict[str, Path]:
    """Those of the named files that a folder or hub id has. Of a hub id, they are fetched if they are not here yet."""
    from transformers.utils import cached_file

    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = {name: cached_file(where, name, revision=revision, **quietly) for name in names}
    return {name: Path(path) for name, path in found.items() if path is not None}


def _chat_templates(where: str, revision: str | None) -> list[str]:
    from transformers.utils.hub import list_repo_templates

    folder = Path(where)
    if folder.is_dir():
        return [f"{CHAT_TEMPLATES}/{path.name}" for path in (folder / CHAT_TEMPLATES).glob("*.jinja")]
    found = list_repo_templates(where, local_files_only=False, revision=revision)  # from the cache if offline
    return [f"{CHAT_TEMPLATES}/{name.removesuffix('.jinja')}.jinja" for name in found]


def _digests(found: Mapping[str, Path]) -> dict[str, str]:
    return {name: file_digest(path) for name, path in sorted(found.items())}
