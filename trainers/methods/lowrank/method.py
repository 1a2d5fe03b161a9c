"""A new low-rank update per task, beside those of earlier tasks: the base of the methods here, and incremental LoRA.

    h = (W0 + Σ_{s<t} c B_s A_s) x + b + c B_t A_t dropout(x),   c = alpha / rank
    A_t ~ U(−1/√K, 1/√K),   B_t = 0 at the start

Earlier updates are folded into the frozen weight, from W0 in float32, so a step costs the same at any number of tasks
and the fold is undone bit for bit. If a method answers each task with its own update, nothing is folded. Incremental
LoRA is this alone: earlier updates are frozen, and all answer together. A method here is a subclass that changes the
initial values, the penalties, or what is trained.

Shape suffixes: D output width, K input width, R rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from trainers.lowrank_config import LowRankConfig
from trainers.method_config import MethodConfig
from trainers.methods.base import (
    Artifact,
    Attached,
    Files,
    Footprint,
    Kept,
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
from trainers.methods.lowrank.history import stacked, write_sum
from trainers.methods.lowrank.layers import Updated
from trainers.methods.lowrank.pairs import Pairs
from trainers.methods.oa.layers import attach, use
from trainers.methods.oa.rounding import Change, share_kept
from trainers.methods.originals import Originals
from trainers.methods.targets import input_width, match_modules, width
from trainers.methods.updates import FILE, check_fits, dump, finite, fresh, parse


class LowRankMethod:
    """See `methods.base.Method`."""

    every_layer = True  # whether each task updates all target layers

    def __init__(self, model: nn.Module, config: LowRankConfig, dtype: torch.dtype) -> None:
        """Finds the target layers. Raises ConfigError if there are none."""
        self.model, self.config, self.dtype = model, config, dtype
        self.modules: Mapping[str, nn.Module] = match_modules(model, config.target_modules)
        self.originals = Originals(self.modules)
        self.tasks: list[Stream] = []
        self.changes: dict[str, Change] = {}

    def reset(self, config: MethodConfig) -> None:
        """See Method. The first call takes a copy of the target layers if updates are folded into them."""
        assert isinstance(config, LowRankConfig)
        self.config, self.tasks, self.changes = config, [], {}
        attach(self.modules, Updated)
        for name, module in self.modules.items():
            self.originals.put_back(name)
            module.__dict__["rate"] = config.dropout
        if not config.needs_task:
            self.originals.keep()
        self.answer(None)

    def extend(self, committed: Sequence[Artifact]) -> None:
        """See Method. Each layer is written once, for any number of tasks."""
        added = [self.parsed(number, each) for number, each in enumerate(committed, start=len(self.tasks) + 1)]
        self.tasks += added
        if self.config.needs_task:
            self.answer(self.newest)
            return
        for name in dict.fromkeys(name for stream in added for name in stream):
            self._fold(name)

    def begin(self, task: TaskContext) -> Attached:
        """See Method."""
        return LowRankAttached(self, self.pairs(task).to(task.device), task)

    def pairs(self, task: TaskContext) -> Pairs:
        """What is trained, with its initial values, on any device. Collective."""
        return Pairs(self.fresh(task.seed))

    def fresh(self, seed: int) -> dict[str, Lora]:
        """Initial values as LoRA has them."""
        return fresh(self.modules, self.config.rank, self.config.scaling, seed)

    @contextmanager
    def answering(self, task: int | None) -> Iterator[None]:
        """See Method. With one update per task, a task is answered by its own, or by the base before that."""
        if task is None or not self.config.needs_task:
            yield
            return
        self.answer(self.tasks[task] if task < len(self.tasks) else None)
        try:
            yield
        finally:
            self.answer(self.newest)

    def as_lora(self, committed: Sequence[Artifact]) -> dict[str, Lora]:
        """See Method: the updates stacked, or the last one if each task has its own."""
        return {name: stacked(updates) for name, updates in self._answering(committed).items()}

    @torch.no_grad()
    def merge(self, committed: Sequence[Artifact]) -> dict[str, int]:
        """See Method. With `rounding` none the whole model becomes float32, as for `oa`."""
        if self.config.rounding == "none":
            self.model.float()
        found = self._answering(committed)
        for name, updates in found.items():
            write_sum(self.modules[name], updates, self.config.rounding, name)
        return {name: sum(update.rank for update in updates) for name, updates in found.items()}

    def capacity(self) -> Shares:
        """See Method. Nothing is kept apart."""
        return {}

    def kept(self) -> Kept | None:
        """See Method: ⟨W_stored − W0, ΔW⟩ / ‖ΔW‖² of what is folded."""
        return share_kept(self.changes)

    def footprint(self, tasks: int) -> Footprint:
        """See Method."""
        parameters = self.config.rank * sum(width(m) + input_width(m) for m in self.modules.values())
        exact = self.config.rounding == "none" and not self.config.needs_task
        weights = sum(parameter.numel() for module in self.modules.values() for parameter in module.parameters())
        return Footprint(
            trained=parameters,
            kept=parameters,
            copies_weights=not self.config.needs_task,
            history_bytes=4 * parameters * max(0, tasks - 1),
            float32_weights=weights if exact else 0,
        )

    def files(self, stream: Stream, reader: Reader) -> Files:  # noqa: ARG002
        """What is stored of a trained task, with its updates still on the layers. Collective."""
        return {FILE: dump(stream)}

    def parsed(self, number: int, stored: Artifact) -> Stream:
        """A task's updates. Raises IntegrityError if they are malformed, or not of these layers."""
        stream = parse(stored.files[FILE], self.config.method)
        check_fits(f"{self.config.method}: task {number}", stream, self.modules, every=self.every_layer)
        return stream

    def answer(self, stream: Stream | None) -> None:
        """Puts one task's update on the layers beside what is folded into them; None takes it off."""
        found = {}
        for name, update in (stream or {}).items():
            device = next(self.modules[name].parameters()).device
            found[name] = (
                update.a_RK.to(device, self.dtype), (update.scaling * update.b_DR).to(device, self.dtype)
            )  # fmt: skip
        use(self.modules, found)

    @property
    def newest(self) -> Stream | None:
        """The update that answers if no task is named; None if all are folded, or there is none."""
        return self.tasks[-1] if self.config.needs_task and self.tasks else None

    def past(self) -> dict[str, list[Lora]]:
        """Layer → its updates so far, in the order of the tasks; empty lists before the first."""
        return {name: [stream[name] for stream in self.tasks if name in stream] for name in self.modules}

    def _answering(self, committed: Sequence[Artifact]) -> dict[str, list[Lora]]:
        """Layer → its updates in these tasks, or in the last of them if each task has its own."""
        streams = [self.parsed(number, each) for number, each in enumerate(committed, start=1)]
        streams = streams[-1:] if self.config.needs_task else streams
        found = {name: [stream[name] for stream in streams if name in stream] for name in self.modules}
        return {name: updates for name, updates in found.items() if updates}

    def _fold(self, name: str) -> None:
        """Writes the sum of all tasks into a layer."""
        updates = [stream[name] for stream in self.tasks if name in stream]
        write = partial(write_sum, self.modules[name], updates, self.config.rounding, name)
        self.changes |= self.originals.rewrite(name, self.config.rounding, write)


class LowRankAttached:
    """See `methods.base.Attached`: a task's matrices on the layers of a method."""

    def __init__(self, method: LowRankMethod, module: Pairs, task: TaskContext) -> None:
        """`module` is on the device of the layers."""
        self.method, self.module, self.task = method, module, task

    def groups(self) -> list[ParamGroup]:
        """See Attached."""
        train = self.task.train
        return [ParamGroup([*self.module.parameters()], train.learning_rate, train.weight_decay)]

    def penalties(self) -> dict[str, Penalty]:
        """See Attached. Also gives the layers their current matrices."""
        pairs, penalties = self.module.split(self.module(self.method.dtype))
        use(self.method.modules, pairs)
        return penalties

    def before_step(self, step: int) -> None:
        """See Attached."""

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:
        """See Attached."""

    def report(self) -> Row:
        """See Attached: the mean rank, and ‖ΔW‖_F of every layer."""
        ranks = [each["rank"] for each in self.budget().values()]
        norms = {f"norm/{name}": value for name, value in self.module.norms().items()}
        return {"mean_rank": sum(ranks) / len(ranks), **norms}

    def budget(self) -> Shares:
        """See `methods.base.Summary`: all layers have the same rank."""
        ranks = dict.fromkeys(self.module.names, float(self.method.config.rank))
        return without_threshold(ranks, ranks)

    @torch.no_grad()
    def finish(self, reader: Reader) -> Artifact:
        """See Attached."""
        self.penalties()
        stream = self.module.snapshot()
        files = self.method.files(stream, reader)
        if not finite(stream):
            raise NotFinite
        kept = sum(update.a_RK.numel() + update.b_DR.numel() for update in stream.values())
        return Artifact(files, Summary(budget=self.budget(), active_parameters=kept))

    def detach(self) -> None:
        """See Attached."""
        self.method.answer(self.method.newest)
