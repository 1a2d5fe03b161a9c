"""LoRA by PEFT, one adapter over all tasks or one per task. A baseline: nothing protects earlier tasks.

    h = W0 x + b + (alpha / r) · B A x,   A (R, K) ~ U(−1/√K, 1/√K),   B (D, R) = 0 at the start of a new adapter

Source: Hu et al., arXiv:2106.09685. A task is stored as one file, `adapter.safetensors`, with the names that PEFT gives
its tensors, and `scaling` in its header. PEFT is imported to train or to answer, but not to read or write a file.

Shape suffixes: D output width, K input width, R rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError, IntegrityError
from trainers.method_config import LoraConfig, MethodConfig
from trainers.methods.base import (
    Artifact,
    Attached,
    Footprint,
    Lora,
    NotFinite,
    ParamGroup,
    Penalty,
    Reader,
    Row,
    Shares,
    Stream,
    Summary,
    TaskContext,
    without_threshold,
)
from trainers.methods.targets import dense, device_of, input_width, is_transposed, match_modules, width
from trainers.methods.updates import FILE, check_fits, dump, finite, fresh, parse, update_norm

TRAINING = "in_training"  # PEFT's name of the adapter in training; learned adapters are named after their task


class LoraMethod:
    """See `methods.base.Method`."""

    def __init__(self, model: nn.Module, config: LoraConfig, dtype: torch.dtype) -> None:  # noqa: ARG002
        """Finds the target layers. Raises ConfigError if there are none."""
        self.model, self.config = model, config
        self.modules: Mapping[str, nn.Module] = match_modules(model, config.target_modules)
        self.tuner: Any = None  # PEFT's, while an adapter is in the model
        self.last: dict[str, Lora] = {}
        self.tasks = 0

    def reset(self, config: MethodConfig) -> None:
        """See Method. The layers become again those that PEFT had wrapped."""
        import peft  # noqa: F401  # takes seconds, which are to be spent at a worker's start, not in its first task

        assert isinstance(config, LoraConfig)
        self.config, self.last, self.tasks = config, {}, 0
        self._unload()

    def extend(self, committed: Sequence[Artifact]) -> None:
        """See Method. In `mode: sequential` the adapter is replaced by its newest state."""
        streams = [self._checked(number, each) for number, each in enumerate(committed, start=self.tasks + 1)]
        kept = streams if self.config.needs_task else streams[-1:]
        if kept and self.tasks and not self.config.needs_task:
            self._remove(task_name(self.tasks - 1))
        self.tasks += len(streams) - len(kept)
        for stream in kept:
            self._add(task_name(self.tasks), stream, 0.0)
            self.last, self.tasks = stream, self.tasks + 1
        self._answer(self._newest())

    def begin(self, task: TaskContext) -> Attached:
        """See Method. Raises ConfigError if the adapter that is to go on has another rank."""
        going_on = {} if self.config.needs_task else self.last
        start = going_on or fresh(self.modules, self.config.rank, self.config.alpha / self.config.rank, task.seed)
        if (rank := next(iter(start.values())).rank) != self.config.rank:
            raise ConfigError(f"adapter.rank: {self.config.rank}, but the adapter that goes on has {rank}; set that")
        self._add(TRAINING, start, self.config.dropout)
        self._answer(TRAINING, trained=True)
        return LoraAttached(self, {name: self.model.get_submodule(name) for name in self.modules}, task)

    @contextmanager
    def answering(self, task: int | None) -> Iterator[None]:
        """See Method. With one adapter per task, a task is answered by its own adapter, or by the base before that."""
        if task is None or not self.config.needs_task:
            yield
            return
        self._answer(task_name(task) if task < self.tasks else None)
        try:
            yield
        finally:
            self._answer(self._newest())

    def as_lora(self, committed: Sequence[Artifact]) -> dict[str, Lora]:
        """See Method."""
        return self._checked(len(committed), committed[-1])

    @torch.no_grad()
    def merge(self, committed: Sequence[Artifact]) -> dict[str, int]:
        """See Method."""
        stream = self.as_lora(committed)
        for name, lora in stream.items():
            weight_DK, _ = dense(self.modules[name])
            update_DK = lora.scaling * (lora.b_DR @ lora.a_RK).to(weight_DK.device)
            weight_DK.copy_(weight_DK.float() + update_DK)  # a view of the parameter
        return {name: lora.rank for name, lora in stream.items()}

    def capacity(self) -> Shares:
        """See Method. Nothing is kept apart."""
        return {}

    def kept(self) -> None:
        """See Method. PEFT's matrices are in float32, beside the weights."""

    def footprint(self, tasks: int) -> Footprint:
        """See Method."""
        parameters = sum(self.config.rank * (width(m) + input_width(m)) for m in self.modules.values())
        held = max(0, tasks - 1) if self.config.needs_task else min(1, max(0, tasks - 1))
        return Footprint(trained=parameters, kept=parameters, copies_weights=False, history_bytes=4 * parameters * held)

    def end_training(self) -> None:
        """Takes the adapter in training out of the model."""
        self._remove(TRAINING)
        self._answer(self._newest())

    def _newest(self) -> str | None:
        """PEFT's name of the adapter that was learned last."""
        return task_name(self.tasks - 1) if self.tasks else None

    def _checked(self, number: int, stored: Artifact) -> dict[str, Lora]:
        """A task's adapter. Raises IntegrityError if it is malformed, or not of these layers."""
        stream = parse(stored.files[FILE], "lora")
        check_fits(f"lora: task {number}", stream, self.modules, every=True)
        if len({lora.rank for lora in stream.values()}) != 1:
            raise IntegrityError(f"lora: task {number}: its layers have different ranks; do not use this version")
        return stream

    def _add(self, adapter: str, stream: Stream, dropout: float) -> None:
        """Puts an adapter with these values into the model."""
        from peft import LoraConfig as PeftConfig
        from peft.tuners.lora import LoraModel

        names, lora = list(self.modules), next(iter(stream.values()))
        others = [n for n, _ in self.model.named_modules() if n not in self.modules and _ends_like(n, names)]
        config = PeftConfig(
            r=lora.rank, lora_alpha=lora.rank, lora_dropout=dropout, target_modules=names, init_lora_weights=False,
            exclude_modules=others or None, fan_in_fan_out=any(map(is_transposed, self.modules.values())),
        )  # fmt: skip
        if self.tuner is None:
            self.tuner = LoraModel(self.model, {adapter: config}, adapter)
        else:
            self.tuner.peft_config[adapter] = config
            self.tuner.inject_adapter(self.model, adapter)
        for name, values in stream.items():
            layer: Any = self.model.get_submodule(name)
            device = device_of(self.modules[name])
            layer.scaling[adapter] = values.scaling
            for matrix, value in ((layer.lora_A[adapter], values.a_RK), (layer.lora_B[adapter], values.b_DR)):
                matrix.weight.data = value.to(device, torch.float32, copy=True)

    def _remove(self, adapter: str) -> None:
        """Takes an adapter out of the model. With the last adapter, PEFT's layers are taken out too."""
        self._answer(None)
        self.tuner.delete_adapter(adapter)
        if not self.tuner.peft_config:
            self._unload()

    def _unload(self) -> None:
        if self.tuner is not None:
            self.tuner.unload()
            self.tuner = None

    def _answer(self, adapter: str | None, *, trained: bool = False) -> None:
        """Makes one adapter active, or none."""
        for name in self.modules if self.tuner is not None else ():
            layer: Any = self.model.get_submodule(name)
            layer.set_adapter([adapter] if adapter else [], inference_mode=not trained)


class LoraAttached:
    """See `methods.base.Attached`."""

    def __init__(self, method: LoraMethod, layers: Mapping[str, Any], task: TaskContext) -> None:
        """`layers` are PEFT's, by the name of what they wrap."""
        self.method, self.layers, self.task = method, layers, task
        self.module = Matrices(self.pairs().values())

    def pairs(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """A (R, K) and B (D, R) of every layer."""
        return {
            name: (layer.lora_A[TRAINING].weight, layer.lora_B[TRAINING].weight) for name, layer in self.layers.items()
        }

    def groups(self) -> list[ParamGroup]:
        """See Attached."""
        train = self.task.train
        return [ParamGroup([*self.module.parameters()], train.learning_rate, train.weight_decay)]

    def penalties(self) -> dict[str, Penalty]:
        """See Attached: none."""
        return {}

    def before_step(self, step: int) -> None:
        """See Attached."""

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:
        """See Attached."""

    @torch.no_grad()
    def report(self) -> Row:
        """See Attached: the rank, and ‖ΔW‖_F of every layer."""
        norms = [update_norm(a_RK, b_DR) for a_RK, b_DR in self.pairs().values()]
        scaled = (self.scaling * torch.stack(norms)).tolist()
        norm_columns = {f"norm/{name}": value for name, value in zip(self.layers, scaled, strict=True)}
        return {"mean_rank": float(self.method.config.rank), **norm_columns}

    @torch.no_grad()
    def finish(self, reader: Reader) -> Artifact:  # noqa: ARG002
        """See Attached."""
        stream = {
            name: Lora(a_RK.detach().cpu().clone(), b_DR.detach().cpu().clone(), scaling=self.scaling)
            for name, (a_RK, b_DR) in self.pairs().items()
        }
        if not finite(stream):
            raise NotFinite
        new = self.method.config.needs_task or not self.method.tasks  # a sequential adapter is counted once
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        ranks = {name: lora.rank for name, lora in stream.items()}
        budget = without_threshold(ranks, ranks)
        return Artifact({FILE: dump(stream)}, Summary(budget=budget, active_parameters=parameters if new else 0))

    def detach(self) -> None:
        """See Attached."""
        self.method.end_training()

    @property
    def scaling(self) -> float:
        """alpha / r of the adapter in training."""
        return float(next(iter(self.layers.values())).scaling[TRAINING])


class Matrices(nn.Module):
    """What an engine trains: every A and B; the parameters are shared with PEFT's layers."""

    def __init__(self, pairs: Any) -> None:
        super().__init__()
        for index, (a_RK, b_DR) in enumerate(pairs):
            self.register_parameter(f"A_{index}", a_RK)
            self.register_parameter(f"B_{index}", b_DR)


def task_name(task: int) -> str:
    """PEFT's name of the adapter of task `task`, from 0."""
    return f"task{task}"


def _ends_like(name: str, targets: Sequence[str]) -> bool:
    """Whether PEFT would take a layer for one of the targets, which it matches by the end of the name."""
    return any(name.endswith(f".{target}") for target in targets)
