"""What is wrong with the files of a base, told by file before anything is made of them.

Who loads weights says little of a damaged file, and rarely which one it is. What config.json asks for is made before it
is compared with the weights.
"""

import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from cluster.text_files import quoted
from cluster.words import brief
from trainers.architecture import CONFIG
from trainers.data.formats import decoded
from trainers.folders import is_folder

POINTER = b"version https://git-lfs"  # how a file begins that git-lfs has not fetched
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SMALL = (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
COUNTED = re.compile(
    r"(?:num|n)_\w*(?:layers?|experts|blocks)|(?:\w+_)?layers|n_layer"
)  # keys of what is made so often
MOST_COUNTED = 10_000  # the largest models have hundreds of layers, and hundreds of experts in each
MOST_CONFIG_BYTES = 16 << 20
AGAIN = "fetch it again, or give another base"


def folder_of(name: str, revision: str | None) -> tuple[Path | None, bool]:
    """Where the files of a folder or hub id are on this machine, None if there are none; and whether it is a folder,
    which has all files that it will ever have."""
    if is_folder(name):
        return Path(name), True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except (HFValidationError, OSError):
        return None, False
    return (Path(found).parent if isinstance(found, str) else None), False


def check_small_files(name: str, where: str, revision: str | None = None) -> None:
    """Checks config.json and the tokenizer of the base `name`, in the folder or hub id `where`, as far as they are on
    this machine.

    Raises:
        ConfigError: a file is absent, empty, no regular file, a pointer of git-lfs or not what its name says, or
            config.json asks for more layers than any model has. The message names the file and the fix.
    """
    folder, whole = folder_of(where, revision)
    if folder:
        refuse(name, _small_faults(folder, whole))


def check_weights(name: str, where: str, revision: str | None = None) -> None:
    """Checks the files of weights of a base, as `check_small_files`; their values are not read.

    Raises:
        ConfigError: as above, or a file is cut short, or holds more than tensors.
    """
    folder, whole = folder_of(where, revision)
    if folder:
        refuse(name, _weight_faults(folder, whole))


def check_has_weights(name: str, where: str) -> None:
    """Raises ConfigError if the base is a folder without weights."""
    if is_folder(where) and not any(os.path.lexists(Path(where) / each) for each in WEIGHTS):
        refuse(name, iter([f"holds no weights; add one of {', '.join(WEIGHTS)}"]))


def refuse(name: str, faults: Iterator[str]) -> None:
    """Raises ConfigError with the first fault, if there is one."""
    for fault in faults:
        raise ConfigError(f"model.name: {quoted(name)}: {fault}")


def _small_faults(folder: Path, whole: bool) -> Iterator[str]:
    for name in (*SMALL, *TOKENIZER):
        if os.path.lexists(folder / name) and (fault := file_fault(folder / name)):
            yield f"{name} {fault}; {AGAIN}"
    if (folder / CONFIG).is_file():
        yield from _config_faults(folder / CONFIG)
    elif whole:
        yield f"has no {CONFIG}; {AGAIN}"


def file_fault(path: Path) -> str | None:
    """What is wrong with a file whatever it holds; None if nothing is."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is no regular file"
        with path.open("rb") as file:
            head = file.read(len(POINTER))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if head == POINTER:
        return "is a pointer of git-lfs, not the file; run `git lfs pull` there"
    return None if head else "is empty"


def _config_faults(path: Path) -> Iterator[str]:
    if path.stat().st_size > MOST_CONFIG_BYTES:
        yield f"{path.name} has more than {MOST_CONFIG_BYTES >> 20} MiB; {AGAIN}"
    try:
        content = decoded(path.read_text("utf-8"))
    except ValueError as error:
        yield f"{path.name} is not readable JSON ({brief(str(error), 200)}); {AGAIN}"
    else:
        if not isinstance(content, dict):
            yield f"{path.name} holds no mapping of keys; {AGAIN}"
        yield from (f"{path.name}: {found}; correct it" for found in _too_many(content))


def _too_many(content: Any) -> Iterator[str]:
    """The keys, also of parts such as text_config, that count more than any model has."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict):
            yield from (f"{brief(key, 60)}.{found}" for found in _too_many(value))
        elif type(value) is int and value > MOST_COUNTED and COUNTED.fullmatch(key):
            yield f"{brief(key, 60)} is beyond {MOST_COUNTED:,}"


# ---------------------------------------------------------------- weights


def _weight_faults(folder: Path, whole: bool) -> Iterator[str]:
    """The faults of the file that holds the weights, or of those that an index names."""
    name = next((each for each in WEIGHTS if os.path.lexists(folder / each)), None)
    if name is None:
        return
    names = [name]
    if name.endswith(".index.json"):
        if fault := file_fault(folder / name):
            yield f"{name} {fault}; {AGAIN}"
        try:
            named = json.loads((folder / name).read_text("utf-8"))["weight_map"].values()
            names = sorted({each for each in named if Path(each).name == each})
            if not names or len(names) < len({*named}):
                raise ValueError
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            yield f"{name} does not name the files of the weights; {AGAIN}"
            return
    for each in names:
        path = folder / each
        if os.path.lexists(path) or whole:
            fault = file_fault(path) if os.path.lexists(path) else f"is absent, and {name} names it"
            fault = fault or (tensors_fault(path) if each.endswith(".safetensors") else pickle_fault(path))
            if fault:
                yield f"{each} {fault}; {AGAIN}"


def tensors_fault(path: Path) -> str | None:
    """What is wrong with a .safetensors file; None if nothing is. Its values are not read."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header + 8 > path.stat().st_size:
        return "is cut short, or no .safetensors file"
    try:
        with safe_open(path, framework="pt"):
            return None
    except (SafetensorError, OSError, ValueError) as error:
        cut = any(sign in str(error) for sign in ("IncompleteBuffer", "not fully covered"))
        return "is cut short" if cut else f"is damaged ({brief(str(error), 200)})"


def pickle_fault(path: Path) -> str | None:
    """What is wrong with a .bin file of torch; None if nothing is. Code in it is not run."""
    import torch

    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return None if file.read(2) == b"\x80\x02" else "is cut short, or no file of torch"
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # whatever torch and pickle raise of damaged bytes
        return f"is damaged, or holds more than tensors ({brief(next(iter(str(error).splitlines()), ''), 200)})"
    return None
