"""OA-Adapter as a `methods.base.Method`: history, bank and artifact of one stream over one model."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from cluster.errors import TrainingError
from trainers.method_config import AdapterConfig, MethodConfig
from trainers.methods.base import (
    Artifact,
    Attached,
    Footprint,
    Kept,
    Lora,
    NotFinite,
    ParamGroup,
    Penalty,
    Reader,
    Row,
    Shares,
    Summary,
    TaskContext,
)
from trainers.methods.oa import artifact, export, initial
from trainers.methods.oa.artifact import ADAPTER_FILE, BASES_FILE, TaskAdapter
from trainers.methods.oa.bank import AdapterBank, ModuleReport, ModuleState, ceiling, check_ranks
from trainers.methods.oa.budget import cap_schedule
from trainers.methods.oa.functional import Felt, kept_evenly, kept_of
from trainers.methods.oa.history import History, angles
from trainers.methods.oa.layers import attach, use
from trainers.methods.oa.rounding import share_kept
from trainers.methods.targets import match_modules, width

PENALTY_TOLERANCE = 1e-3  # relative, of the penalty in the step to its dense reference; TF32 rounds to 5e-4
PENALTY_SLACK = 1e-12  # absolute


class OaMethod:
    """See `methods.base.Method`."""

    history: History

    def __init__(self, model: nn.Module, config: AdapterConfig, dtype: torch.dtype) -> None:
        """Finds the target layers. Raises ConfigError if there are none, or as `check_ranks`."""
        self.model, self.config, self.dtype = model, config, dtype
        self.modules: Mapping[str, nn.Module] = match_modules(model, config.target_modules)
        self.widths = {name: width(module) for name, module in self.modules.items()}
        check_ranks(self.widths, config)

    def reset(self, config: MethodConfig) -> None:
        """See Method. The first call takes a copy of the target layers if the history is folded into them."""
        assert isinstance(config, AdapterConfig)
        self.config = config
        if hasattr(self, "history"):
            self.history.begin(config)
        else:
            self.history = History(self.modules, config, self.dtype)
            attach(self.modules)

    def extend(self, committed: Sequence[Artifact]) -> None:
        """See Method."""
        self.history.extend(*map(parse, committed))

    def begin(self, task: TaskContext) -> Attached:
        """See Method. The adapters are drawn on the CPU, and what rows give is rank 0's: all ranks and devices start
        from the same values.

        Raises:
            TrainingError: earlier tasks fill a layer, and what it could learn would be projected out.
        """
        self._check_room(task.name)
        generator = torch.Generator().manual_seed(task.seed)
        bases = self.history.columns("written"), self.history.columns("read")
        felt = self.history.felt if self.config.functional.weight else []
        bank = AdapterBank(self.widths, self.config, generator, *bases, felt=felt, rows=self._rows(task))
        return OaAttached(bank.to(task.device), self.history, task)

    def _rows(self, task: TaskContext) -> dict[str, Tensor]:
        """The rows of W1 that do not start as drawn, by module."""
        if self.config.initial == "random" or task.resumed:
            return {}
        assert task.reader is not None
        projects, most = self.config.orthogonality.projects_input, {n: ceiling(n, self.config) for n in self.widths}
        read = {n: p_DH if projects else p_DH[:, :0] for n, p_DH in self.history.columns("read").items()}
        return initial.leading_rows(task.reader, self.modules, read, most, task.rank)

    def _check_room(self, task: str) -> None:
        orthogonality = self.config.orthogonality
        sides = {"read": orthogonality.projects_input, "written": orthogonality.projects_output}
        bases = [(side, *item) for side, used in sides.items() if used for item in self.history.columns(side).items()]
        full = [(name, side) for side, name, basis_DH in bases if basis_DH.shape[1] >= basis_DH.shape[0]]
        if full:
            more = f" and {len(full) - 1} more" if len(full) > 1 else ""
            raise TrainingError(
                f"task {task!r}: the directions {full[0][1]} by earlier tasks fill {full[0][0]}{more}, so all that the "
                "task could learn there is projected out. End the stream here, or give a run another `name` with "
                "adapter.orthogonality.max_occupancy below 1 and saturation drop, or with a lower energy"
            )

    def answering(self, task: int | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """See Method. All tasks are answered by all adapters together."""
        return nullcontext()

    def as_lora(self, committed: Sequence[Artifact]) -> dict[str, Lora]:
        """See Method."""
        return export.loras(self.model, [*map(parse, committed)])

    def merge(self, committed: Sequence[Artifact]) -> dict[str, int]:
        """See Method."""
        return export.merge(self.model, [*map(parse, committed)], self.config.rounding)

    def capacity(self) -> Shares:
        """See Method, and `History.occupancy`."""
        return self.history.occupancy()

    def kept(self) -> Kept | None:
        """See Method: of a folded history, ⟨W_stored − W0, ΔW⟩ / ‖ΔW‖²."""
        return share_kept(self.history.changes)

    def footprint(self, tasks: int) -> Footprint:
        """See Method.

        Bytes of the history: at most 4·D·max_rank per module and task for Q, three times (history, bank, one in
        transit). With input-side protection at most 4·D² per module for P. As much for a second moment, if what layers
        give is read, and for that of gradients; and twice 4·D·2K per module and task for C and G, K ≤ D `directions`.
        """
        most = sum(ceiling(name, self.config) * (2 * d + 1) for name, d in self.widths.items())
        widths, functional = self.widths.values(), self.config.functional
        projects = self.config.orthogonality.projects_input
        on = functional.weight > 0
        matrices = projects + (projects or on or self.config.initial == "task") + (on and functional.metric == "loss")
        pairs = 2 * sum(d * min(d, functional.directions) for d in widths) * on * min(functional.tasks, tasks - 1)
        folded = self.config.history == "folded"
        return Footprint(
            trained=most + len(self.widths) - self._frozen_values(),  # and one τ per layer
            kept=min(most, self.config.max_parameters or most),
            copies_weights=folded,
            float32_weights=self._adapted_values() if folded and self.config.rounding == "none" else 0,
            history_bytes=3 * 4 * sum(widths) * self.config.max_rank * max(0, tasks - 1)
            + 4 * matrices * sum(d**2 for d in widths)
            + 2 * 4 * pairs,
        )

    def _frozen_values(self) -> int:
        """How many numbers of W1 are kept, and not trained."""
        return 0 if self.config.train_down else sum(ceiling(n, self.config) * d for n, d in self.widths.items())

    def _adapted_values(self) -> int:
        """How many numbers the weights and biases of the target layers are."""
        return sum(parameter.numel() for module in self.modules.values() for parameter in module.parameters())


class OaAttached:
    """See `methods.base.Attached`: a bank on the layers of a history."""

    expected: Mapping[str, float] = {}  # the dense references of the current step's penalties, if they are checked
    checked = False  # whether penalties were compared which could have failed
    first_check: int | None = None  # the first step seen after warm-up

    def __init__(self, bank: AdapterBank, history: History, task: TaskContext) -> None:
        """`bank` is on the device of the layers."""
        self.module, self.bank, self.history, self.task = bank, bank, history, task
        self.config = bank.config

    def groups(self) -> list[ParamGroup]:
        """See Attached: W1 and W2; and g and τ, at a rate of their own and without weight decay, since they would not
        move otherwise."""
        train = self.task.train
        gate_rate = train.learning_rate * train.budget_learning_rate_factor
        return [
            ParamGroup(self.bank.matrices, train.learning_rate, train.weight_decay),
            ParamGroup(self.bank.gates, gate_rate, 0.0),
        ]

    def penalties(self) -> dict[str, Penalty]:
        """See Attached: L_budget and, each if it has a weight, L_orth and L_f. Also gives the layers their current
        matrices."""
        functional, orthogonality, budget = self._put_on()
        found = {}
        if self.config.orthogonality.penalises:
            found["orthogonality"] = Penalty(self.config.orthogonality.weight, orthogonality)
        found["budget"] = Penalty(self.config.budget_weight, budget)
        if weight := self.config.functional.weight:
            found["functional"] = Penalty(weight, functional)
        return found

    def before_step(self, step: int) -> None:
        """See Attached: moves the cap on the total, and computes references if this step's penalties are checked."""
        task = self.task
        if (most := self.config.max_parameters) is not None:
            self.bank.limit(cap_schedule(step, task.steps, self.bank.full, most))
        self.expected = self.dense_penalties() if self.check_is_due(step) else {}

    def after_step(self, penalties: Mapping[str, Tensor]) -> None:
        """See Attached: the check of the penalties."""
        for name, expected in self.expected.items():
            self.check_penalty(name, float(penalties[name]), expected)
        if self.expected:
            self.checked = min(self.expected.values()) * PENALTY_TOLERANCE >= PENALTY_SLACK

    def check_is_due(self, step: int) -> bool:
        """Whether the penalties of this step are to be compared with their dense references.

        It is from the end of warm-up on, or from where this process resumes the task if that is later, until a check
        could have failed: W2 starts at 0, and 0 is the penalty of any fault. Steps between checks double, since a check
        reads all matrices; the last step is always checked if none before it counted. Without a history there is
        nothing to check.
        """
        steps = self.task.steps
        if self.checked or not self.compared:
            return False
        if step <= min(self.task.train.warmup_steps, steps // 2):
            return step == steps
        self.first_check = step if self.first_check is None else self.first_check
        return step == steps or (step - self.first_check).bit_count() <= 1  # 0, 1, 2, 4, 8 … steps later

    @cached_property
    def compared(self) -> tuple[str, ...]:
        """The penalties that something of the history is in."""
        written = any(q_DH.shape[1] for q_DH in self.history.columns("written").values())
        orthogonality = written and self.config.orthogonality.penalises
        return ("orthogonality",) * orthogonality + ("functional",) * self.bank.feels

    def dense_penalties(self) -> dict[str, float]:
        """Σ over modules ‖Qᵀ W2‖_F², and Σ tr(U C Uᵀ G), in float64, module by module, from whole matrices and the
        history's own Q, C and G: those that are `compared`."""
        found, written = dict.fromkeys(self.compared, 0.0), self.history.columns("written")
        for name, state in self.bank.snapshot().items():
            if "orthogonality" in found:
                found["orthogonality"] += float((written[name].double().T @ state.w2_DR.double()).square().sum())
            if "functional" in found:
                kept = [task[name] for task in self.history.felt if name in task]
                found["functional"] += sum(each.penalty(state.w1_RD, state.w2_DR * state.gamma_R) for each in kept)
        return found

    def check_penalty(self, name: str, found: float, expected: float) -> None:
        """Raises TrainingError if a penalty in the step differs from its dense reference."""
        if abs(found - expected) > PENALTY_TOLERANCE * abs(expected) + PENALTY_SLACK:
            raise TrainingError(
                f"task {self.task.name!r}: the {name} penalty is {found:.6g} in the step and {expected:.6g} "
                "computed from whole matrices, so earlier tasks are not protected. Report this, and use "
                "deepspeed.zero_stage 2 or, for the output side, adapter.orthogonality.mode projection meanwhile"
            )

    def report(self) -> Row:
        """See Attached: mean overlap and r_eff, and every module's r_eff, τ and g."""
        return columns(self.bank.report())

    def finish(self, reader: Reader) -> Artifact:
        """See Attached."""
        states, modules = self.bank.snapshot(), self.bank.report()
        with torch.no_grad():
            self._put_on()
        projects, felt = self.config.orthogonality.projects_input, self._felt(reader)
        moments = reader.second_moments(self.history.modules) if projects else {}
        if not all(tensor.isfinite().all() for state in states.values() for tensor in trained(state)):
            raise NotFinite
        history, energy = self.history, self.config.orthogonality.energy
        kept = replace(artifact.extract(states, history.written, history.read, moments, energy), felt=felt)
        summary = Summary(
            budget=budget(modules),
            active_parameters=kept.parameters,
            overlap=mean(modules, "overlap"),
            angles=angles(history.tasks, kept) if self.task.rank == 0 else [],
            overlaps={name: module.overlap for name, module in modules.items()},
        )
        return Artifact(artifact.dump(kept), summary)

    def detach(self) -> None:
        """See Attached."""
        use(self.history.modules, {})

    def _felt(self, reader: Reader) -> dict[str, Felt]:
        """What later tasks need for L_f; nothing if it has no weight."""
        settings = self.config.functional
        if not settings.weight:
            return {}
        if settings.metric == "none":
            return kept_evenly(on_cpu(reader.second_moments(self.history.modules)), settings.directions)
        moments = reader.loss_moments(self.history.modules)
        reads, feels = ({name: pair[side] for name, pair in moments.items()} for side in (0, 1))
        return kept_of(on_cpu(reads), on_cpu(feels), settings.directions)

    def _put_on(self) -> tuple[Tensor, ...]:
        """Gives the layers their current matrices; returns L_f, L_orth and L_budget."""
        outputs = self.bank(self.history.dtype)
        use(self.history.modules, self.bank.pairs(outputs))
        return outputs[-3:]


def on_cpu(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments on the CPU."""
    return {name: moment_DD.cpu() for name, moment_DD in moments.items()}


def parse(stored: Artifact) -> TaskAdapter:
    """The adapter in a task's files. Raises IntegrityError, see `artifact.parse`."""
    return artifact.parse(stored.files[ADAPTER_FILE], stored.files[BASES_FILE])


def trained(state: ModuleState) -> tuple[Tensor, Tensor, Tensor]:
    """W1, W2 and γ of a module's adapter."""
    return state.w1_RD, state.w2_DR, state.gamma_R


def mean(modules: Mapping[str, ModuleReport], key: str) -> float:
    """Mean of a figure over the modules."""
    total: float = sum(getattr(module, key) for module in modules.values())
    return total / len(modules)


def columns(modules: Mapping[str, ModuleReport]) -> Row:
    """Every module's r_eff, τ and g as columns of the training log, after their means."""
    return {
        "overlap": mean(modules, "overlap"),
        "mean_rank": mean(modules, "rank"),
        **{f"rank/{name}": module.rank for name, module in modules.items()},
        **{f"tau/{name}": module.tau for name, module in modules.items()},
        **{f"g/{name}": module.g_R.tolist() for name, module in modules.items()},
    }


def budget(modules: Mapping[str, ModuleReport]) -> Shares:
    """What each module chose: {"module": {"rank": r_eff, "max_rank": …, "tau": τ}}."""
    return {
        name: {"rank": module.rank, "max_rank": module.g_R.numel(), "tau": module.tau}
        for name, module in modules.items()
    }
