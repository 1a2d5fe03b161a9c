"""What a merged export gives back of the base as it is: tokenizer, configuration, how inputs are prepared, licence.

`save_pretrained` writes all of it anew, and otherwise: special tokens are moved or added, keys that this version does
not read are lost, and the version that it notes changes how others load the folder.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from trainers.identity import files, tokenizer_files

CONFIG, GENERATION = "config.json", "generation_config.json"
BESIDE = (  # what else other programs read
    "chat_template.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "NOTICE.md",
)  # fmt: skip
DTYPES = ("dtype", "torch_dtype")  # the key, in new and in old files


def give_back(where: str, revision: str | None, folder: Path) -> None:
    """Puts the files of the base `where`, a folder or hub id, into `folder`, where its model was saved.

    The saved generation_config.json is replaced, or removed if the base has none: it is the one that Orthoplex scores
    with, which has no eos_token_id, so that generation would not stop.
    """
    (folder / GENERATION).unlink(missing_ok=True)
    code = _code(files(where, revision, (CONFIG, "tokenizer_config.json")).values())
    found = {**tokenizer_files(where, revision), **files(where, revision, (GENERATION, *BESIDE, *code))}
    for name, path in found.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    for path in files(where, revision, (CONFIG,)).values():
        _give_back_config(path, folder / CONFIG)


def beside_a_lora(where: str, revision: str | None) -> dict[str, bytes]:
    """What a LoRA's folder has of its base: the tokenizer's files, and how it generates, as they are."""
    found = {**tokenizer_files(where, revision), **files(where, revision, (GENERATION,))}
    return {name: path.read_bytes() for name, path in found.items()}


def _give_back_config(base: Path, saved: Path) -> None:
    """Replaces a saved config.json by the base's, but for what is no longer so: the class and the dtype of the weights,
    and how they were quantised. Kept as it is if only a part of the base was saved, which has a configuration of its
    own."""
    had, now = json.loads(base.read_text("utf-8")), json.loads(saved.read_text("utf-8"))
    if had.get("model_type") != now.get("model_type"):
        return
    made = _with_dtype(had, next((now[key] for key in DTYPES if key in now), None))
    made["architectures"] = now.get("architectures")
    if "quantization_config" not in now:
        made.pop("quantization_config", None)
    if made == had:
        shutil.copyfile(base, saved)
    else:
        saved.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """The configuration, and those of its parts, with the dtype wherever they name one."""
    made = {key: _with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: dtype if key in DTYPES and dtype and value else value for key, value in made.items()}


def _code(configs: Any) -> list[str]:
    """The Python files that configurations name under `auto_map`, as in "modeling_phi3.Phi3Model"."""
    found: set[str] = set()
    for path in configs:
        for value in json.loads(path.read_text("utf-8")).get("auto_map", {}).values():
            names = value if isinstance(value, list) else [value]
            found |= {f"{name.partition('.')[0]}.py" for name in names if name and "--" not in name}
    return sorted(found)
