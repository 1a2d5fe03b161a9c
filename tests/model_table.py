"""docs/models.md: what `plan` says of each class of the AutoModel mappings, and what a run of two steps does with it.

Usage, from the repository's root: PYTHONPATH=. python -m tests.model_table [MODEL_TYPE …]. Without types all classes
are run, in one process per core, and the file is written; with types their rows are printed. It ends with 1 if a row
disagrees. Each class is one small model with random weights, see `tests.support.zoo`.
"""

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
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
from trainers.models.capabilities import most_positions, taken
from trainers.models.causal import Causal
from trainers.models.encoder import LabelEmbedding
from trainers.models.loading import FAMILIES
from trainers.models.seq2seq import Seq2Seq
from trainers.models.text_to_text import TextToText, answers_of
from trainers.objectives.generation import AnsweredSplit
from trainers.workers.worker import Worker

DOCUMENT = Path(__file__).parents[1] / "docs/models.md"
WORST = 2e-3  # by which a row's loss in a batch may differ from that of the row alone
UNLIMITED = 100  # tokens that a model without a limit is tried with
MOST_S = 180  # of a CPU, per class
LABELS = ("red", "certainly not")
KEYS: dict[str, dict[str, Any]] = {  # of a task's entry, by form
    "": {},
    "answers": {"format": "prompt_completion", "metrics": ["rouge_l", "nll"]},
    "text": {"format": "text"},
}
TEXTS = ("a film that was good", "bad", "the first film that was not a good film", "word1 word2 word3")
HEAD = """# Models

What `orthoplex plan` says of each class in the `AutoModel`, `AutoModelForSeq2SeqLM` and `AutoModelForCausalLM` mappings
of transformers {version}, and what a run does, with one small model of random weights per class. Written by
`make test-models`.

`run` is two steps on a task of label words, fold, upload and scores. Decoders' and encoder-decoders' scores and losses
are then compared with those of each row alone, a decoder must look back only, and a text and an answer of as many
tokens as the model has positions are read ({unlimited} if it has no limit). `generative` are a task of prompts with
answers, for decoders also one of plain text, and label words under `scoring: generation`. Losses of rows in a batch,
packed if the model allows it, are compared with those of each row alone, and answers with those of forward passes
without a cache.

`plan` says yes or no. A run that says *fault* ends with an error of the model's own code, or gives other numbers than
rows alone, so `plan` must say no. A row that disagrees is marked.

{all} classes; {made} could be made small. Of these, `plan` lets {passed} pass, and {agree} of them run; it refuses
{refused}, of which {could} could have run the task of label words. The {unmade} classes that this script cannot make
stand at the end with the reason; `plan` has not been asked about them.

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
    answers_plan: str = ""
    answers_run: str = ""
    answers_reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether `plan` lets pass what runs. What could run may be refused for a reason that `plan` gives."""
        pairs = (self.plan, self.run), (self.answers_plan, self.answers_run)
        return all(plan == "no" or plan == run == "yes" or not plan for plan, run in pairs)

    @property
    def verdicts(self) -> tuple[str, str, str, str]:
        """Of `plan` and a run, and the same for generative tasks."""
        return self.plan, self.run, self.answers_plan, self.answers_run

    def line(self) -> str:
        """Of the document."""
        reason = self.reason or self.answers_reason
        cells = [self.kind, self.model, self.task_type, *self.verdicts, reason.replace("|", "/").replace("<", "‹")]
        return f"| {' | '.join(cells)}{'' if self.agrees else ' **!**'} |"


def write_data(folder: Path) -> None:
    """Eight rows in a train and four in a test file: as a task of label words, and as tasks of prompts with answers
    and of plain text."""
    for name, first, count in (("train", 6, 8), ("test", 16, 4)):
        texts = [f"{TEXTS[i % 4]} word{first + i}" for i in range(count)]
        pairs = [(text, LABELS[i % 2]) for i, text in enumerate(texts)]
        forms = {
            "": [{"text": text, "label": label} for text, label in pairs],
            "answers-": [{"prompt": text, "completion": f" {label} word{first}"} for text, label in pairs],
            "text-": [{"text": text} for text in texts],
        }
        for form, rows in forms.items():
            (folder / f"{form}{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_config(folder: Path, data: Path, task_type: str, *forms: str, **model: Any) -> RunConfig:
    """Two steps per task on the model in `folder`; a task per form, see `write_data`."""
    tasks = [
        {"name": form or "t", "source": "files", **KEYS[form],
         **{split: str(data / f"{form and form + '-'}{split}.jsonl") for split in ("train", "test")}}
        for form in forms or ("",)
    ]  # fmt: skip
    keys: dict[str, Any] = {
        "name": "x", "store": str(folder / "store"),
        "model": {"name": str(folder), "task_type": task_type, "max_length": 16, **model},
        "adapter": {"target_modules": "all-linear", "max_rank": 2, "functional": {"weight": 0.0}},
        "train": {"epochs": 1, "batch_size": 4, "warmup_steps": 0, "logging_steps": 1},
        "cluster": {"num_workers": 1},
        "tasks": tasks,
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


def trained(config: RunConfig) -> Worker:
    """Trains, folds and uploads the first two tasks as a worker does, and then scores all."""
    Path(config.store).mkdir(exist_ok=True)  # as a driver leaves it to workers
    data = load_tasks(config, say=lambda _: None)
    job = Job(
        "t/x", config.model, config.adapter, config.train, config.deepspeed, config.store,
        tuple(all_rows(config, data)),
    )  # fmt: skip
    worker = Worker(job, torch.device("cpu"), lambda _: None)
    tasks = len(config.tasks)
    last = min(tasks, 2) - 1
    for index in range(last + 1):
        digests = tuple(each for each in worker.held if each is not None)
        order = Order(
            index, 1, "v", (), digests, f"c{index}", {}, zero_shot=tasks == 1, validation=(),
            test=range(tasks) if index == last else (),
        )  # fmt: skip
        worker.catch_up(order)
        worker.run(order)
    return worker


def two_steps(config: RunConfig) -> None:
    """A task of label words, and then scores, losses and positions."""
    worker = trained(config)
    split = worker.splits[0]["test"]
    with torch.no_grad():
        alike(worker.backbone, [split.token_ids[i] for i in range(4)], split.targets, split.labels)
        as_long_as_can_be(worker.backbone, split.labels)
        if isinstance(worker.backbone, Causal):
            looks_back(worker.backbone, split.token_ids[0])


def looks_back(base: Causal, row: list[int]) -> None:
    """Raises AssertionError if what a decoder says after a token depends on those that follow."""
    whole, half = (
        base.model(input_ids=torch.tensor([ids]), **taken(base.model, use_cache=False)).logits[0, : len(row) // 2]
        for ids in (row, row[: len(row) // 2])
    )
    worst = float((whole - half).abs().max() / (1 + half.abs().max()))
    assert worst < WORST, f"what follows a token changes what is said after it by {worst:.1e}"


def two_steps_each(config: RunConfig) -> None:
    """Generative tasks, and then losses and answers."""
    worker = trained(config)
    for splits in worker.splits[:-1]:
        losses_alike(splits["test"])
        if splits["test"].answered:
            answers_alike(splits["test"])


@torch.no_grad()
def losses_alike(split: AnsweredSplit) -> None:
    """Raises AssertionError if losses of rows differ between a batch, packed if the model allows it, and each row
    alone."""
    rows = np.arange(4)
    together = split.losses(split.batch(rows))
    alone = torch.cat([split.losses(split.batch(rows[i : i + 1])) for i in rows])
    worst = float((together - alone).abs().max() / (1 + alone.abs().max()))
    assert worst < WORST, f"losses of rows in a batch and alone differ by {worst:.1e}"


@torch.no_grad()
def answers_alike(split: AnsweredSplit) -> None:
    """Raises AssertionError if generated answers are not those of forward passes over each row alone, without a cache.

    A word whose two best tokens are nearly alike may be either.
    """
    base, rows = split.base, np.arange(4)
    for row, found in zip(rows, (each.text for each in split.answers(rows, 4)), strict=True):
        expected = greedy(base, split.asked(row), split.most)
        assert found == expected, f"the answer is {found!r}, without a cache {expected!r}"


def greedy(base: TextToText, asked: list[int], most: int) -> str:
    """The answer to one row by forward passes over all of it."""
    answer: list[int] = []
    while len(answer) < most and answer[-1:] != [base.tokenizer.eos_token_id]:
        if isinstance(base, Seq2Seq):
            ids, said = torch.tensor([asked]), torch.tensor([[base.start, *answer]])
            logits = base.model(input_ids=ids, decoder_input_ids=said, **taken(base.model, use_cache=False)).logits
        else:
            logits = base.model(input_ids=torch.tensor([asked + answer]), **taken(base.model, use_cache=False)).logits
        answer.append(int(logits[0, -1].argmax()))
    return base.text([answer])[0]


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
    """Reads a text that fills the model's positions, with its answer if that is part of it, and an answer that fills
    an encoder-decoder's."""
    answer = max(map(len, answers_of(labels))) if isinstance(base, Causal) else 0
    scores(base, [[7] * ((most_positions(base.model) or UNLIMITED) - answer)], np.zeros(1), labels)
    if isinstance(base, Seq2Seq):
        most = most_positions(base.model, answers=True) or UNLIMITED
        base.answer_losses(base.answer_batch([[7] * 4], [[7] * most]))


def row(kind: Any, task_type: str, data: Path, *, generates: bool = True) -> Row | None:
    """The line of a configuration class under a task type, with generative tasks if asked; None if there is no class
    for both."""
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
            asks = generates and task_type != "LABEL_EMBEDDING"
            answers = generative(Path(folder), data, task_type) if asks else ("", "", "")
    except Exception as error:
        return Row(kind.model_type, name, task_type, "", "", told(error))
    return Row(kind.model_type, name, task_type, plan, run, why or reason, *answers)


def generative(folder: Path, data: Path, task_type: str) -> tuple[str, str, str]:
    """What comes of generative tasks, and of label words that are generated, by `plan` and by a run, and the reason."""
    forms = ["answers", *["text"] * (task_type == "CAUSAL_LM"), ""]
    asked = run_config(folder, data, task_type, *forms, scoring="generation")
    plan, why = verdict(make_plan, asked)
    run, reason = verdict(two_steps_each, asked)
    return plan, run, why or reason


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


@cache
def of_process() -> tuple[ExitStack, Path]:
    """The environment of this process, which lasts as long, with its folder of data."""
    whole = ExitStack()
    return whole, whole.enter_context(environment())


def of_kind(kind: str) -> list[Row]:
    """The lines of a model type."""
    return list(rows_of([kind], of_process()[1]))


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
    """docs/models.md. Some model types are others by another name: their rows are there once."""
    rows = [*dict.fromkeys(rows)]
    tried, unmade = [each for each in rows if each.plan], [each for each in rows if not each.plan]
    passed = [each for each in tried if each.plan == "yes"]
    head = HEAD.format(
        version=version, unlimited=UNLIMITED, all=len(rows), made=len(tried), unmade=len(unmade), passed=len(passed),
        agree=sum(each.agrees for each in passed), refused=len(tried) - len(passed),
        could=sum(each.plan == "no" and each.run == "yes" for each in tried),
    )  # fmt: skip
    counts = Counter((each.task_type, *each.verdicts) for each in tried)
    lines = ["| task type | plan | run | generative: plan | run | classes |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(key)} | {count} |" for key, count in sorted(counts.items(), reverse=True)]
    lines += ["", "| model type | class | task type | plan | run | generative: plan | run | reason |"]
    lines += ["|---|---|---|---|---|---|---|---|", *(each.line() for each in [*tried, *unmade])]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    """Prints the rows that are asked for, or writes the document."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    asked, found = sys.argv[1:], []
    with (
        tempfile.TemporaryDirectory(prefix="orthoplex-models-") as os.environ["TMPDIR"],  # of all processes
        multiprocessing.get_context("spawn").Pool(maxtasksperchild=50) as pool,
    ):
        for each in chain.from_iterable(pool.imap(of_kind, asked or [*CONFIG_MAPPING.keys()])):
            found.append(each)
            if not len(found) % 50:
                print(f"{len(found)} classes", file=sys.stderr, flush=True)
            if asked or not each.agrees:
                print(each.line(), flush=True)
    if not asked:
        DOCUMENT.write_text(document(found, transformers.__version__), "utf-8")
    sys.exit(int(not all(each.agrees for each in found)))


if __name__ == "__main__":
    main()
