"""The ways to train one task that `whole_task.py` compares, each from a fresh frozen model to an accuracy.

    trainer             `transformers.Trainer` over PEFT LoRA, batches in random order padded to their longest row
    trainer-max         the same, every row padded to `max_length`
    trainer-grouped     the same, batches of rows of similar length
    trainer-autocast    the first with float32 weights under bf16 autocast in place of bf16 weights (GPU only)
    ours                OA-Adapter as a worker trains it: DeepSpeed engine (ZeRO 2), batches grouped by length
    ours-plain          the same with PyTorch's own AdamW in place of DeepSpeed
    ours-compiled       `ours` with `train.compile`
    ours-graphs         `ours-plain` with whole steps replayed as CUDA graphs, lengths rounded up to multiples of 16
    ours-graphs-compiled  both (GPU only, as the one before)

Dropout is the model's own and on in all. Reading, cleaning and tokenising rows comes before the clock starts, and so do
the first steps; building batches, logging and, where they come up later, compilation and graph capture do not.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.engines import Fixed, GraphEngine, PlainEngine
from benchmarks.harness import Row, synchronized_clock
from trainers.config import DeepSpeedConfig, ModelConfig, TrainConfig
from trainers.messages import Job, Order, TaskRows
from trainers.method_config import AdapterConfig
from trainers.methods.registry import method_for
from trainers.models.base import Backbone
from trainers.models.encoder import LOGIT_SCALE
from trainers.models.loading import compile_blocks, load_backbone
from trainers.models.tokens import tokenize_task
from trainers.objectives.classification import Classification, ClassifiedSplit
from trainers.training.engine import TaskModel
from trainers.training.evaluate import evaluate
from trainers.training.stage import TaskTraining

ADAPTER = {"target_modules": ["output.dense"], "max_rank": 8, "threshold": 0.2, "budget_weight": 0.003}
LORA_RANK, LORA_TARGETS = 16, ("query", "value")


@dataclass(frozen=True)
class Setting:
    """What all rows have in common. `warm_up` steps come before the clock starts."""

    model: str
    device: torch.device
    train: TrainConfig
    warm_up: int
    max_length: int = 128

    @property
    def dtype(self) -> str:
        """Of the frozen weights, unless a row says otherwise."""
        return "bfloat16" if self.device.type == "cuda" else "float32"

    def load(self, dtype: str | None = None) -> Backbone:
        """The frozen model."""
        config = ModelConfig(name=self.model, dtype=dtype or self.dtype, max_length=self.max_length)
        return load_backbone(config, self.device)


@dataclass
class Clock:
    """Rows and seconds from its start, which is when the warm-up steps are done."""

    device: torch.device
    rows: int = 0
    started: float = float("nan")
    seconds: float = float("nan")

    def start(self) -> None:
        """Now, once the device is idle."""
        self.started = synchronized_clock(self.device)

    def stop(self) -> None:
        """Now, once the device is idle."""
        self.seconds = synchronized_clock(self.device) - self.started

    def row(self, accuracy: float, steps: int) -> Row:
        """What is reported of a way to train."""
        speed = {"rows_per_s": self.rows / self.seconds, "seconds": self.seconds}
        return {**speed, "accuracy": accuracy, "steps": steps}


def splits(backbone: Backbone, task: TaskRows) -> tuple[ClassifiedSplit, ClassifiedSplit]:
    """Training and test rows as the base reads them."""
    encoded = Classification().encode(backbone, tokenize_task(backbone, task))
    return encoded["train"], encoded["test"]


def accuracy(test: ClassifiedSplit, batch_size: int) -> float:
    """Share of test rows whose nearest label word is the right one."""
    score = evaluate(test, batch_size).score
    return score.correct / score.rows


# ---------------------------------------------------------------- transformers.Trainer over PEFT


class Classifier(nn.Module):
    """An encoder with frozen label embeddings as `transformers.Trainer` wants it, with the loss of `LabelEmbedding`."""

    def __init__(self, encoder: nn.Module, labels_CD: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("labels_CD", labels_CD)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any) -> dict[str, Tensor]:
        """Loss and logits (B, C)."""
        hidden_BSD = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask_BS1 = attention_mask.unsqueeze(-1).to(hidden_BSD.dtype)
        text_BD = nn.functional.normalize((hidden_BSD * mask_BS1).sum(1) / mask_BS1.sum(1), dim=-1)
        logits_BC = LOGIT_SCALE * text_BD @ self.get_buffer("labels_CD").T
        return {"loss": nn.functional.cross_entropy(logits_BC, labels), "logits": logits_BC}


def with_trainer(
    setting: Setting, task: TaskRows, *, padding: str = "longest", grouped: bool = False, autocast: bool = False
) -> Row:
    """PEFT LoRA under `transformers.Trainer`, whose defaults stand but for what is compared."""
    import peft
    import transformers

    if autocast and setting.device.type != "cuda":
        raise ValueError("for a GPU")
    backbone = setting.load("float32" if autocast else None)
    train, test = splits(backbone, task)
    torch.manual_seed(setting.train.seed)
    config = peft.LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, lora_dropout=0.0, target_modules=list(LORA_TARGETS))
    encoder: Any = peft.get_peft_model(backbone.model, config, autocast_adapter_dtype=False)
    rows = [{"input_ids": i, "label": t} for i, t in zip(train.token_ids, train.targets.tolist(), strict=True)]
    collator = transformers.DataCollatorWithPadding(backbone.tokenizer, padding=padding, max_length=setting.max_length)
    clock = Clock(setting.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=Classifier(encoder, torch.as_tensor(train.labels)),
            args=trainer_arguments(setting, folder, grouped, autocast),
            train_dataset=rows,
            data_collator=collator,
            callbacks=[trainer_clock(clock, setting.warm_up)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    steps = trainer.state.global_step
    clock.rows = setting.train.epochs * len(rows) - setting.warm_up * setting.train.batch_size
    encoder.eval()
    tested = dataclasses.replace(test, base=dataclasses.replace(backbone, model=encoder))
    return clock.row(accuracy(tested, setting.train.eval_batch_size), steps)


def trainer_arguments(setting: Setting, folder: str, grouped: bool, autocast: bool) -> Any:
    """The recipe of ours in Trainer's words."""
    import transformers

    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    group = {"train_sampling_strategy": "group_by_length"}
    if "train_sampling_strategy" not in known:
        group = {"group_by_length": True}
    train = setting.train
    return transformers.TrainingArguments(
        output_dir=folder, per_device_train_batch_size=train.batch_size, num_train_epochs=train.epochs,
        learning_rate=train.learning_rate, lr_scheduler_type="linear", warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay, max_grad_norm=train.max_grad_norm, seed=train.seed, bf16=autocast,
        use_cpu=setting.device.type == "cpu", save_strategy="no", report_to="none", disable_tqdm=True,
        remove_unused_columns=False, **(group if grouped else {}),
    )  # fmt: skip


def trainer_clock(clock: Clock, warm_up: int) -> Any:
    """Starts the clock after the warm-up steps and stops it after the last."""
    import transformers

    class Timing(transformers.TrainerCallback):
        def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == warm_up:
                clock.start()

        def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            clock.stop()

    return Timing()


# ---------------------------------------------------------------- ours


@dataclass
class Timed(TaskTraining):
    """The product's training stage with a clock."""

    clock: Clock = dataclasses.field(default_factory=lambda: Clock(torch.device("cpu")))
    warm_up: int = 0

    def batches(self) -> Iterator[np.ndarray]:
        """The product's, counted once warm."""
        for number, batch in enumerate(super().batches()):
            if number == self.warm_up:
                self.clock.start()
            self.clock.rows += len(batch) if number >= self.warm_up else 0
            yield batch
        self.clock.stop()


class Plain(Timed):
    """Without DeepSpeed."""

    @cached_property
    def engine(self) -> Any:
        """PyTorch's AdamW."""
        model = TaskModel(self.backbone, self.attached)
        return PlainEngine(model, self.config, self.steps)


class Captured(Timed):
    """Whole steps as CUDA graphs, on one stream from the first step on."""

    def run(self) -> Any:
        """The product's, on a stream that can be captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            trained = super().run()
        torch.cuda.synchronize()
        return trained

    @cached_property
    def engine(self) -> Any:
        """Replays where it can."""
        fixed = Fixed(**{f.name: getattr(self.backbone, f.name) for f in dataclasses.fields(self.backbone)})
        split: Any = self.split
        self.split = dataclasses.replace(split, base=fixed)
        model = TaskModel(fixed, self.attached)
        return GraphEngine(model, self.config, self.steps)


def with_ours(setting: Setting, task: TaskRows, *, stage: type[Timed] = Timed, compiled: bool = False) -> Row:
    """One task as a worker trains it, scored after its adapter is folded into the weights, as the store gives it."""
    if stage is Captured and setting.device.type != "cuda":
        raise ValueError("for a GPU")
    backbone = setting.load()
    adapter = AdapterConfig(**ADAPTER)
    method = method_for(backbone.model, adapter, getattr(torch, setting.dtype))
    train, test = splits(backbone, task)
    method.reset(adapter)
    if compiled:
        compile_blocks(backbone.model)
    job = Job(
        "benchmark", ModelConfig(name=setting.model), adapter, setting.train, DeepSpeedConfig(zero_stage=2), "", ()
    )
    order = Order(0, 1, "", (), (), "", {}, zero_shot=False, validation=(), test=())
    nowhere: Any = None  # a store is only used where checkpoints are asked for
    training = stage(
        job, order, task.name, backbone, method, train, nowhere, lambda _: None,
        clock=Clock(setting.device), warm_up=setting.warm_up,
    )  # fmt: skip
    with rank_in_environment():
        trained = training.run()
    method.extend([trained.artifact])
    return training.clock.row(accuracy(test, setting.train.eval_batch_size), training.steps)


@contextmanager
def rank_in_environment() -> Iterator[None]:
    """What a launcher says, which DeepSpeed asks for; undone afterwards, as `transformers.Trainer` reads it too."""
    before = dict(os.environ)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


WAYS: dict[str, Callable[[Setting, TaskRows], Row]] = {
    "trainer": with_trainer,
    "trainer-max": lambda setting, task: with_trainer(setting, task, padding="max_length"),
    "trainer-grouped": lambda setting, task: with_trainer(setting, task, grouped=True),
    "trainer-autocast": lambda setting, task: with_trainer(setting, task, autocast=True),
    "ours": with_ours,
    "ours-plain": lambda setting, task: with_ours(setting, task, stage=Plain),
    "ours-compiled": lambda setting, task: with_ours(setting, task, compiled=True),
    "ours-graphs": lambda setting, task: with_ours(setting, task, stage=Captured),
    "ours-graphs-compiled": lambda setting, task: with_ours(setting, task, stage=Captured, compiled=True),
}


def process_group(device: torch.device) -> None:
    """One process on its own, which trainers and evaluation expect to be a group."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        folder = Path(tempfile.mkdtemp(prefix="orthoplex-group-"))
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
