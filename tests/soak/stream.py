"""A stream of many small tasks over a tiny encoder: the model, the rows and the configuration, all made here."""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.storage import open_store
from orchestrator.log.signing import KEY_VARIABLE
from orchestrator.track.rules import KeyRule, RulesLog, TeamRules
from tests.support.keys import public_pem, write_key

NAME, TEAM = "soak", "default"
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = [f"w{number:03}" for number in range(200)]  # of texts and labels
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROWS = {"train": 24, "validation": 6, "test": 8}
LABELS = 2


def save_base(folder: Path) -> Path:
    """Saves a BERT of two layers with weights drawn here, and a tokenizer of whole words; returns the folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=32, **SHAPE)
    model = transformers.BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(20.0)  # so that texts are told apart by their words
    model.save_pretrained(folder)
    return folder


def task_rows(number: int) -> dict[str, list[dict[str, str]]]:
    """The rows of a task by split: texts of six words, two of which tell the label."""
    draw = random.Random(f"task {number}")
    labels = draw.sample(WORDS, LABELS)
    telling = {label: draw.sample(WORDS, 8) for label in labels}
    seen, rows = set[str](), {}
    for split, count in ROWS.items():
        rows[split] = list[dict[str, str]]()
        while len(rows[split]) < count:
            label = labels[len(rows[split]) % LABELS]
            words = [*draw.choices(WORDS, k=4), *draw.sample(telling[label], 2)]
            draw.shuffle(words)
            if (text := " ".join(words)) not in seen:
                seen.add(text)
                rows[split].append({"text": text, "label": label})
    return rows


def task_entry(folder: Path, number: int) -> dict[str, Any]:
    """Writes the rows of a task; its entry in the configuration."""
    entry: dict[str, Any] = {"name": f"t{number:03}", "source": "files"}
    for split, rows in task_rows(number).items():
        path = folder / f"t{number:03}-{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry[split] = str(path)
    return entry


def ask_for_signatures(store: str, key: Path) -> None:
    """Makes a key, and rules of the team that ask for its signatures: a log then names each checkpoint at once."""
    write_key(key)
    rules = TeamRules(signatures="required", keys={"soak": KeyRule(public_key=public_pem(key))})
    RulesLog(open_store(store), TEAM).change(rules, expect=0, why="soak")


class FolderStore:
    """A store in a folder that can be away: its path is a link, which then leads nowhere. Its entries are signed."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder, key = path, path.with_name(f"{path.name}-folder"), path.with_name("key.pem")
        self.environment = {KEY_VARIABLE: str(key), "ORTHOPLEX_STATE": str(path.with_name("state"))}
        self.use()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.away(False)
        if not key.exists():
            ask_for_signatures(str(path), key)

    def use(self) -> None:
        """Has this process, and those that it starts, look at this store."""
        os.environ.update(self.environment)

    def away(self, gone: bool) -> None:
        """Takes the store away, or gives it back. A path that is in use changes at once."""
        link = self.path.with_name("link")
        link.unlink(missing_ok=True)
        link.symlink_to(self.path.with_name("nowhere") if gone else self.folder)
        link.replace(self.path)


def write_stream(folder: Path, tasks: int, store: str, **sections: Mapping[str, Any]) -> Path:
    """The configuration of a stream of so many tasks, written below `folder` with its base and its rows."""
    path, data = folder / "soak.yaml", folder / "data"
    if path.exists():
        return path
    data.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "name": NAME,
        "store": store,
        "model": {"name": str(save_base(folder / "base")), "max_length": 16},
        "adapter": {
            "target_modules": ["output.dense"],
            "max_rank": 4,
            "orthogonality": {"side": "both", "weight": 1.0, "saturation": "drop", "max_occupancy": 0.5, "energy": 0.5},
        },
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 1, "logging_steps": 3}
        | {"checkpoint_steps": 2},
        "evaluate": {"tasks": "seen", "every": 25},
        "cluster": {"num_workers": 2, "lease_s": 2, "max_failures": 5},
        **sections,
        "tasks": [task_entry(data, number) for number in range(1, tasks + 1)],
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
