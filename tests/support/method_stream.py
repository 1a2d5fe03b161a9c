"""A stream of two tasks over a tiny model, trained in this process as a worker trains it, with any method."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.storage import open_store
from trainers.config import DeepSpeedConfig, ModelConfig, OwnTraining, TrainConfig
from trainers.data.prompts import Prompt
from trainers.messages import Job, Order, TaskRows
from trainers.method_config import MethodConfig
from trainers.methods.base import Artifact, Method
from trainers.models.base import Backbone
from trainers.models.loading import load_backbone
from trainers.models.tokens import tokenize_task
from trainers.objectives.classification import Classification, ClassifiedSplit
from trainers.training.stage import TaskTraining

Make = Callable[[Any], Method]
TRAIN = TrainConfig.model_validate(
    {
        "epochs": 2, "batch_size": 4, "learning_rate": 2e-2, "budget_learning_rate_factor": 0.5, "warmup_steps": 1,
        "logging_steps": 1, "checkpoint_steps": 3,
    }
)  # fmt: skip
ANSWERS = (["red", "green"], ["cold", "mild"])
ROWS = 12


@dataclass
class MethodStream:
    """A model with a method on it, and the tasks that it has learned."""

    base: Path
    config: MethodConfig
    make: Make
    store: Path
    committed: list[Artifact] = field(default_factory=list)
    stage: int = 2

    def __post_init__(self) -> None:
        self.backbone: Backbone = load_backbone(ModelConfig(name=str(self.base), task_type="CAUSAL_LM", max_length=16))
        self.method = self.make(self.backbone.model)
        self.method.reset(self.config)

    def rows(self, index: int) -> ClassifiedSplit:
        words = ANSWERS[index]
        texts = [f"{words[i % 2]} sample {'word ' * (i % 4)}{i}" for i in range(ROWS)]
        rows = TaskRows("t", tuple(words), {"train": (texts, [i % 2 for i in range(ROWS)])}, Prompt())
        return Classification().encode(self.backbone, tokenize_task(self.backbone, rows))["train"]

    def training(
        self, index: int, leave_at: int | None = None, *, own: OwnTraining | None = None, accumulation: int = 1
    ) -> TaskTraining:
        """The stage of task `index`, which the driver leaves after `leave_at` updates; `own` is its `training`."""
        zero = DeepSpeedConfig.model_validate({"zero_stage": self.stage})
        job = Job("t/x", ModelConfig(), self.config, TRAIN, zero, str(self.store), ())  # type: ignore[arg-type]
        order = Order(
            index, accumulation, "v", (), (), f"c/{index}", {"index": index}, zero_shot=False, validation=(), test=(),
            training=own,
        )  # fmt: skip
        logged = itertools.count(1)
        return TaskTraining(
            job, order, f"task {index}", self.backbone, self.method, self.rows(index), open_store(str(self.store)),
            lambda _: None, lambda: next(logged) == leave_at,
        )  # fmt: skip

    def learn(self, index: int) -> Artifact:
        """Trains a task, takes it over, and gives what is stored of it."""
        trained = self.training(index).run().artifact
        self.take([trained])
        return trained

    def take(self, artifacts: Sequence[Artifact]) -> None:
        self.method.extend(artifacts)
        self.committed += artifacts

    @torch.no_grad()
    def outputs(self, task: int | None = None) -> Tensor:
        """Loss of every row of both tasks, as the model answers for one of them."""
        found = []
        with self.method.answering(task):
            for index in range(len(ANSWERS)):
                split = self.rows(index)
                found.append(split.losses(split.batch(np.arange(ROWS))))
        return torch.cat(found)
