"""docs/models.md: what `plan` says of each class of the AutoModel mappings, and what a run of two steps does with it.

Usage, from the repository's root: PYTHONPATH=. python -m tests.model_table [MODEL_TYPE …]. Without types all classes
are run, ten minutes on one core, and the file is written; with types their rows are printed. It ends with 1 if a row
disagrees. Each class is one small model with random weights, see `tests.support.zoo`.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.errors import OrthoplexError
from orchestrator.config.run import RunConfig
from orchestrator.run.plan import make_plan
from orchestrator.run.workers import all_rows, load_tasks
from tests.support import zoo
from trainers.messages import Job, Order
from trainers.models.base import Backbone, Labels
from trainers.models.capabilities import most_positions
from trainers.models.encoder import LabelEmbedding
from trainers.models.loading import FAMILIES
from trainers.models.text_to_text import TextToText, answers_of
from trainers.workers.worker import Worker

DOCUMENT = Path(__file__).parents[1] / "docs/models.md"
WORST = 2e-3  # by which a row's loss in a batch may differ from that of the row alone
UNLIMITED = 64  # tokens that a model without a limit is tried with
MOST_S = 60  # of a CPU, per class
TEXTS = ("a film that was good", "bad", "the first film that was not a good film", "word1 word2 word3")
HEAD = """# Models

What `orthoplex plan` says of each class in the `AutoModel`, `AutoModelForSeq2SeqLM` and `AutoModelForCausalLM` mappings
of transformers {version}, and what a run does: two steps of training, fold, upload and scores, with one small model of
random weights per class. Decoders' and encoder-decoders' scores and losses are then compared with those of each row
alone, and a text of as many tokens as the model has positions is read. Written by `make test-models`.

`plan` says yes or no. A run that says *fault* ends with an error of the model's own code, so `plan` must say no. A row
that disagrees is marked. {made} of {all} classes could be made small; the others stand at the end.

"""


@dataclass(frozen=True)
class Row:
    """A class's line of the table. Verdicts are `yes`, `no` or `fault`, or empty if no small model could be made."""

    kind: str
    model: str
    task_type: str
    plan: str
    run: str
    reason: str

    @property
    def agrees(self) -> bool:
        """Whether `plan` lets pass what runs. What could run may be refused for a reason that `plan` gives."""
        return self.plan == "no" or self.plan == self.run == "yes" or not self.plan

    def line(self) -> str:
        """Of the document."""
        cells = (self.kind, self.model, self.task_type, self.plan, self.run + ("" if self.agrees else " **!**"))
        return f"| {' | '.join(cells)} | {self.reason.replace('|', '/').replace('<', '‹')} |"


def write_data(folder: Path) -> None:
    """One task of eight rows in a train and a test file."""
    for name, first in (("train", 6), ("test", 16)):
        rows = [{"text": f"{TEXTS[i % 4]} word{first + i}", "label": ("red", "certainly not")[i % 2]} for i in range(8)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_config(folder: Path, data: Path, task_type: str) -> RunConfig:
    """Two steps on the model in `folder`."""
    files = {name: str(data / f"{name}.jsonl") for name in ("train", "test")}
    keys: dict[str, Any] = {
        "name": "x", "store": str(folder / "store"),
        "model": {"name": str(folder), "task_type": task_type, "max_length": 16},
        "adapter": {"target_modules": "all-linear", "max_rank": 2},
        "train": {"epochs": 1, "batch_size": 4, "warmup_steps": 0, "logging_steps": 1},
        "cluster": {"num_workers": 1},
        "tasks": [{"name": "t", "source": "files", **files}],
    }  # fmt: skip
    return RunConfig.model_validate(keys)


def verdict(act: Any, config: RunConfig) -> tuple[str, str]:
    """What comes of `plan` or a run, and the reason."""
    try:
        act(config)
    except OrthoplexError as error:
        return "no", str(error).replace(config.model.name, "MODEL")
    except Exception as error:
        return "fault", told(error)
    return "yes", ""


def told(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def two_steps(config: RunConfig) -> None:
    """Trains, folds, uploads and scores one task as a worker does, and then looks at scores and positions."""
    data = load_tasks(config, say=lambda _: None)
    job = Job(
        "t/x", config.model, config.adapter, config.train, config.deepspeed, config.store,
        tuple(all_rows(config, data)),
    )  # fmt: skip
    worker = Worker(job, torch.device("cpu"), lambda _: None)
    order = Order(0, 1, "v", (), (), "c", {}, zero_shot=True, validation=(), test=(0,))
    worker.catch_up(order)
    worker.run(order)
    split = worker.splits[0]["test"]
    with torch.no_grad():
        alike(worker.backbone, [split.token_ids[i] for i in range(4)], split.targets, split.labels)
        as_long_as_can_be(worker.backbone, split.labels)


def alike(base: Backbone, rows: Sequence[list[int]], targets: np.ndarray, labels: Labels) -> None:
    """Raises AssertionError if losses or scores of rows differ between a batch and each row alone."""
    for values in (losses, scores):
        together = values(base, rows, targets[:4], labels)
        alone = torch.cat([values(base, [row], targets[i : i + 1], labels) for i, row in enumerate(rows)])
        worst = float((together - alone).abs().max() / (1 + alone.abs().max()))
        assert worst < WORST or isinstance(base, LabelEmbedding), f"rows in a batch and alone differ by {worst:.1e}"


def losses(base: Backbone, rows: Sequence[list[int]], targets: np.ndarray, labels: Labels) -> Tensor:
    """(B,) of the rows."""
    return base.losses(base.batch(rows, targets, labels), labels)


def scores(base: Backbone, rows: Sequence[list[int]], _targets: np.ndarray, labels: Labels) -> Tensor:
    """(B, C) logits or log p of the labels."""
    if isinstance(base, TextToText):
        return base.log_likelihoods(rows, answers_of(labels))
    assert isinstance(base, LabelEmbedding)
    return base.logits(base.pad(rows), labels)


def as_long_as_can_be(base: Backbone, labels: Labels) -> None:
    """Reads a text that fills the model's positions, with its answer if that is part of it."""
    answer = max(map(len, answers_of(labels))) if FAMILIES["CAUSAL_LM"][0] is type(base) else 0
    scores(base, [[7] * ((most_positions(base.model) or UNLIMITED) - answer)], np.zeros(1), labels)


def row(kind: Any, task_type: str, data: Path) -> Row | None:
    """The line of a configuration class under a task type; None if there is no class for both."""
    auto_class = FAMILIES[task_type][1]
    name = class_name(kind, auto_class)
    if name is None:
        return None
    try:
        config = zoo.tiny_config(kind)
        with tempfile.TemporaryDirectory(prefix="orthoplex-models-") as folder:
            zoo.save(config, auto_class, Path(folder))
            asked = run_config(Path(folder), data, task_type)
            plan, why = verdict(make_plan, asked)
            run, reason = verdict(two_steps, asked)
    except Exception as error:
        return Row(kind.model_type, name, task_type, "", "", told(error))
    return Row(kind.model_type, name, task_type, plan, run, why or reason)


def class_name(kind: Any, auto_class: str) -> str | None:
    """The class that an auto class makes of a configuration; None if there is none, or transformers lacks it."""
    import transformers

    try:
        found = getattr(transformers, auto_class)._model_mapping[kind]
    except (KeyError, ValueError):
        return None
    return str((found if isinstance(found, type) else found[0]).__name__)


@contextmanager
def environment() -> Iterator[Path]:
    """One process that is a group of its own, as DeepSpeed asks for, on one thread; gives the folder of the data."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1", "HF_HUB_OFFLINE": "1"}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="orthoplex-models-data-") as folder:
        os.environ["ORTHOPLEX_STATE"] = f"{folder}/state"
        write_data(Path(folder))
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield Path(folder)
        dist.destroy_process_group()


def rows_of(kinds: Sequence[str], data: Path) -> Iterator[Row]:
    """The lines of model types, each class within `MOST_S`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def late(*_: object) -> None:
        raise TimeoutError(f"it takes more than {MOST_S} s")

    signal.signal(signal.SIGPROF, late)
    for kind in kinds:
        for task_type in FAMILIES:
            signal.setitimer(signal.ITIMER_PROF, MOST_S)
            found = row(CONFIG_MAPPING[kind], task_type, data)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if found:
                yield found


def document(rows: Sequence[Row], version: str) -> str:
    """docs/models.md."""
    tried = [each for each in rows if each.plan]
    counts = Counter((each.task_type, each.plan, each.run) for each in tried)
    lines = ["| task type | plan | run | classes |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(key)} | {count} |" for key, count in sorted(counts.items(), reverse=True)]
    lines += ["", "| model type | class | task type | plan | run | reason |", "|---|---|---|---|---|---|"]
    lines += [each.line() for each in [*tried, *(each for each in rows if not each.plan)]]
    return HEAD.format(version=version, made=len(tried), all=len(rows)) + "\n".join(lines) + "\n"


def main() -> None:
    """Prints the rows that are asked for, or writes the document."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    asked, found = sys.argv[1:], []
    with environment() as data:
        for each in rows_of(asked or [*CONFIG_MAPPING.keys()], data):
            found.append(each)
            if asked or not each.agrees:
                print(each.line(), flush=True)
    if not asked:
        DOCUMENT.write_text(document(found, transformers.__version__), "utf-8")
    sys.exit(int(not all(each.agrees for each in found)))


if __name__ == "__main__":
    main()
