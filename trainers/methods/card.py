"""README.md of an exported folder: a model card with the Hub's metadata, and how the folder is loaded and asked."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from trainers.methods.card_figures import Figures, model_index, table
from trainers.models.loading import FAMILIES, MINILM_HUB_ID, resolve_name

PIPELINES = {
    "LABEL_EMBEDDING": "text-classification", "SEQ_2_SEQ_LM": "text2text-generation", "CAUSAL_LM": "text-generation",
}  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
SNAPSHOT = re.compile(r"/models--(.+)/snapshots/([0-9a-f]{40})/?$")  # a folder of the Hub's cache
LICENCE = re.compile(r"^license:\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Provenance:
    """Where a stream comes from. `base` is a hub id (with its `revision`) or a folder, as other programs know it;
    `place` is where its files are, if that is not `base`. `tasks` are names in order. `ends` are the tokens that end an
    answer, as they are written, with their ids; none if no tokens are generated. `licence` is the base's. `figures` are
    the stream's scores, if there are some."""

    reference: str
    tasks: tuple[str, ...]
    task_type: str
    base: str
    base_digest: str
    revision: str | None = None
    ends: Mapping[str, int] = field(default_factory=dict)
    place: str | None = None
    licence: str | None = None
    figures: Figures | None = None

    @property
    def where(self) -> str:
        """Where the base's files are."""
        return self.place or self.base


def public_name(name: str, revision: str | None) -> tuple[str, str | None]:
    """A base, given as in `model.name`, as other machines know it: a hub id with its revision if it has one, also of
    the offline copy of MiniLM and of a folder in the Hub's cache; `docs-lm`; else the folder."""
    if name == "minilm":
        return MINILM_HUB_ID, None
    source = Path(resolve_name(name))
    if name == "docs-lm" or not source.is_dir():
        return str(name if name == "docs-lm" else source), revision
    found = SNAPSHOT.search(str(source.resolve()))
    return (found[1].replace("--", "/", 1), found[2]) if found else (str(source.resolve()), None)


def licence_of(card: str) -> str | None:
    """The licence in the metadata of a model card; None if there is none."""
    head = card.split("\n---", 1)[0] if card.startswith("---") else ""
    found = LICENCE.search(head)
    return found[1].strip("\"'") if found else None


def metadata(origin: Provenance, *, lora: bool) -> list[str]:
    """The card's metadata, as lines of YAML. A base that is no hub id is left out, since the Hub knows no other."""
    told: list[str] = []
    if HUB_ID.fullmatch(origin.base) and origin.base != "docs-lm":
        told += [f"base_model: {origin.base}", f"base_model_relation: {'adapter' if lora else 'finetune'}"]
    told += [f"library_name: {'peft' if lora else 'transformers'}", f"pipeline_tag: {PIPELINES[origin.task_type]}"]
    told += [f"license: {json.dumps(origin.licence)}"] if origin.licence else []
    if origin.figures:
        index = {"model-index": model_index(origin.figures, PIPELINES[origin.task_type])}
        told += yaml.safe_dump(index, sort_keys=False, allow_unicode=True, width=1000).splitlines()
    tags = ["orthoplex", "continual-learning", *(["lora"] if lora else [])]
    return ["---", *told, "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def peft_readme(
    origin: Provenance,
    dtype: str,
    *,
    biased: bool,
    unbiased: Sequence[str],
    notes: Sequence[str],
    beside: Sequence[str],
) -> str:
    """What the folder is, how it is loaded, and what it cannot do. The stream was trained in this dtype; `beside` names
    the files that make the folder stand alone, if there are any; `notes` are further paragraphs."""
    revision = f", revision={origin.revision!r}" if origin.revision else ""
    own = "tokenizer_config.json" in beside or "tokenizer.json" in beside
    tokenizer = "FOLDER, config=base.config" if own else f"{origin.base!r}{revision}"
    lines = [
        "A PEFT LoRA of the tasks below together; it needs `peft` and `transformers`, nothing of Orthoplex:",
        "",
        "    base = " + loaded(origin, repr(origin.base) + revision, dtype),
        "    model = peft.PeftModel.from_pretrained(base, FOLDER)",
        f"    tokenizer = transformers.AutoTokenizer.from_pretrained({tokenizer})",
        "",
        "Ranks and lora_alpha per layer are in adapter_config.json. In float32, its outputs are those of the trained",
        f"stream up to rounding. It was trained in {dtype}; without `dtype`, transformers takes the one that the base",
        "is stored in.",
        *(["", *notes] if notes else []),
    ]
    if biased:
        lines += [
            "",
            "Layers with a bias have `lora_B.bias` (`lora_bias`). A server without support for LoRA biases, such as",
            "vLLM, refuses this folder or answers wrongly: give it the merged model (`orthoplex adapters export",
            "--format merged`) instead.",
        ]
    if biased and unbiased:
        lines += [
            "",
            f"{len(unbiased)} of the layers have no bias to merge into, so PEFT's `merge_and_unload` refuses this",
            "adapter; export merged instead.",
        ]
    return readme(origin, lines, lora=True, beside=beside)


def merged_readme(origin: Provenance, dtype: str, beside: Sequence[str]) -> str:
    """What the folder is and how it is loaded. Its weights have this dtype."""
    lines = [
        "The whole model, with the tokenizer of its base:",
        "",
        "    model = " + loaded(origin, "FOLDER", dtype),
        "    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)",
    ]
    return readme(origin, lines, lora=False, beside=beside)


def loaded(origin: Provenance, where: str, dtype: str) -> str:
    """The call that loads a model of the stream's task type."""
    return f"transformers.{FAMILIES[origin.task_type][1]}.from_pretrained({where}, dtype=torch.{dtype})"


def ending(ends: Mapping[str, int]) -> list[str]:
    """How an answer ends, in lines; none if no tokens are generated."""
    if not ends:
        return []
    shown = " or ".join(f"`{token}` ({number})" for token, number in ends.items())
    ids = [*ends.values()]
    return [
        f"An answer ends with {shown}, as in training: give `generate` eos_token_id={ids if len(ids) > 1 else ids[0]}.",
        "",
    ]


OFFLINE = (
    "The base is taken from this machine if it is there, else from the hub. If the hub cannot be reached, give its",
    "folder with `--base`; `HF_HUB_OFFLINE=1` has the hub not be asked.",
    "",
)


def asking(origin: Provenance, beside: Sequence[str], *, lora: bool) -> list[str]:
    """How the folder answers by itself, in lines; none if it has no predict.py."""
    if "predict.py" not in beside:
        return []
    task = f" --task {origin.tasks[-1]}" if len(origin.tasks) > 1 else ""
    return [
        f'`python predict.py{task} "A TEXT"` answers as in training; it needs nothing of Orthoplex, and is short',
        "enough to copy from. `tasks.json` says how each task is asked: its prompt, label words, the longest text, and",
        "how answers are generated. Drawn answers (`temperature`) are other draws than in training. The tokenizer's",
        "files are those of the base, byte for byte.",
        "",
        *(OFFLINE if lora else ()),
    ]


def getting(origin: Provenance) -> list[str]:
    """Where the base is, if its name does not say it, in lines."""
    if origin.base == "docs-lm":
        return [
            "The base `docs-lm` comes with Orthoplex. After `pip install orthoplex`, this prints its folder, which is",
            "to stand for 'docs-lm' above, and after `--base`:",
            "`python -c \"from trainers.models.loading import resolve_name; print(resolve_name('docs-lm'))\"`",
            "",
        ]
    if not HUB_ID.fullmatch(origin.base):
        return [
            "The base is a folder of the machine that wrote this; take a copy along, and name it with `--base`.",
            "",
        ]
    return []


def readme(origin: Provenance, lines: Sequence[str], *, lora: bool, beside: Sequence[str]) -> str:
    """A README of metadata, a title, the lines, and the provenance."""
    kind = "adapter" if lora else "model"
    told = [*metadata(origin, lora=lora), f"# {origin.reference}, exported {kind}", "", *lines, ""]
    told += [*asking(origin, beside, lora=lora), *(getting(origin) if lora else []), *ending(origin.ends)]
    if origin.task_type == "LABEL_EMBEDDING":
        told += [
            "Texts are embedded with this model, mean-pooled and L2-normalised. The label words that they are compared",
            "with are embedded by the unadapted base"
            + (", and stand so in `labels/`." if "labels/embedded.safetensors" in beside else "."),
            "",
        ]
    told += [*table(origin.figures)] if origin.figures else []
    return "\n".join(
        [
            *told,
            f"- tasks, in order: {', '.join(origin.tasks)}",
            f"- task type: {origin.task_type}",
            f"- base: {origin.base}" + (f", revision {origin.revision}" if origin.revision else ""),
            f"- sha256 of the base's weights as Orthoplex counts it: {origin.base_digest}",
            *([f"- licence of the base: {origin.licence}"] if origin.licence else []),
            "",
        ]
    )
