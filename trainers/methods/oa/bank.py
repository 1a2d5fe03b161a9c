"""One task's adapters over all target layers, stacked, so that all but the layers themselves is one batched call.

    U_m = W2_m · diag(γ_m) · W1_m  for every module m;   down_m = W1_m,  up_m = W2_m · diag(γ_m)

The layers get `down` and `up` as plain tensors. In a step, parameters are used in `forward` only. That makes penalty,
budget and gradients exact under every ZeRO stage, since a stage-3 engine gathers a module's parameters only around its
forward pass.

Shape suffixes: M modules of one group (equal width and ceiling), D output width, R rank, H rank of the history.
Source: Wan et al., arXiv:2505.22358, section 3; stacking, floors and the cap on the total are ours.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.method_config import AdapterConfig
from trainers.methods.oa.budget import common_shift, exact_gates, floored_threshold, margins, soft_threshold
from trainers.methods.oa.functional import Felt, Kept, Metric, stacked
from trainers.methods.oa.functional import penalty as functional_penalty
from trainers.methods.oa.layers import Pair
from trainers.methods.oa.orthogonality import overlap, penalty, project_out
from trainers.methods.targets import by_pattern
from trainers.zero import gathered


@dataclass(frozen=True)
class Group:
    """Modules of equal width and ceiling (dimensions at the start), in the order in which they are stacked."""

    names: tuple[str, ...]
    width: int
    rank: int

    @property
    def price(self) -> int:
        """Parameters of one dimension: a row of W1, a column of W2, and γ."""
        return 2 * self.width + 1


@dataclass(frozen=True)
class ModuleState:
    """One module's effective adapter, on the CPU in float32: W1 (R, D), W2 (D, R), g, γ (R,), τ ≥ 0."""

    w1_RD: Tensor
    w2_DR: Tensor
    g_R: Tensor
    gamma_R: Tensor
    tau: float

    @property
    def active_R(self) -> Tensor:
        """(R,) whether a dimension is active: γ ≠ 0, and its column of W2 is not 0."""
        return (self.gamma_R != 0) & self.w2_DR.ne(0).any(0)


@dataclass(frozen=True)
class ModuleReport:
    """One module in training: r_eff, the effective threshold, g (R,), and the scale-free overlap."""

    rank: int
    tau: float
    g_R: Tensor
    overlap: float


class AdapterBank(nn.Module):
    """Trained per group: W1 (M, R, D) ~ N(0, 1/D), W2 (M, D, R) = 0, g (M, R) ~ N(1, 0.1²), τ (M,) = τ₀; float32.

    U is 0 at the start. Buffers: the bases Q (`written`) and P (`read`) of the history, (M, D, H), zero-padded; C and G
    of its tasks, see `functional.stacked`. Without `train_down`, W1 is a buffer, and part of the bank's state.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        config: AdapterConfig,
        generator: torch.Generator,
        written: Mapping[str, Tensor],
        read: Mapping[str, Tensor],
        *,
        felt: Sequence[Kept] = (),
        rows: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Draws the initial values from `generator`, module by module in the order of `widths`.

        Args:
            widths: module name → output width D.
            config: ranks, threshold, floors, cap and sides.
            generator: on the CPU, so that all ranks and devices start from the same values.
            written, read: module name → (D, H) orthonormal columns, H ≥ 0.
            felt: what is kept of earlier tasks, for the functional penalty.
            rows: module name → (N, D), N ≤ R: the first rows of W1 in place of drawn ones.

        Raises:
            ConfigError: as `check_ranks`.
        """
        super().__init__()
        check_ranks(widths, config)
        self.config = config
        self.groups = grouped(widths, config)
        drawn = {name: _draw(widths[name], ceiling(name, config), generator) for name in widths}
        for name, rows_ND in (rows or {}).items():
            drawn[name][0][: len(rows_ND)] = rows_ND
        floors = {name: floor(name, config) for name in widths}
        for index, group in enumerate(self.groups):
            shape = (len(group.names), group.width, group.rank)
            w1_MRD = torch.stack([drawn[n][0] for n in group.names])
            if config.train_down:
                self.register_parameter(f"W1_{index}", nn.Parameter(w1_MRD))
            else:
                self.register_buffer(f"W1_{index}", w1_MRD)
            self.register_parameter(f"W2_{index}", nn.Parameter(torch.zeros(shape)))
            self.register_parameter(f"g_{index}", nn.Parameter(torch.stack([drawn[n][1] for n in group.names])))
            self.register_parameter(f"tau_{index}", nn.Parameter(torch.full(shape[:1], config.threshold)))
            for name, bases in (("written", written), ("read", read)):
                self._buffer(f"{name}_{index}", _stacked([bases[n] for n in group.names]))
            if felt:
                self._feel(index, [[task.get(n, nothing(group.width)) for task in felt] for n in group.names])
            self._buffer(f"floor_{index}", torch.tensor([floors[n] for n in group.names]))
        self.feels = bool(felt)
        self.full = float(sum(len(group.names) * group.rank * group.price for group in self.groups))
        self.allowed = self.full
        self.has_floors = any(floors.values())

    @property
    def matrices(self) -> list[nn.Parameter]:
        """W1, if it is trained, and W2 of every group, in this order."""
        return self._trained(*(("W1", "W2") if self.config.train_down else ("W2",)))

    @property
    def gates(self) -> list[nn.Parameter]:
        """g and τ of every group, in this order."""
        return self._trained("g", "tau")

    def forward(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """All that a step needs: down (M, R, D) and up (M, D, R) per group in `dtype`, then L_f, L_orth and L_budget.

        The result is a flat tuple, since DeepSpeed's hooks find tensors in nothing else; `pairs` gives its parts names.
        """
        gammas, _ = self._gates()
        functional = orthogonality = self._parameter("W2", 0).new_zeros(())
        outputs: list[Tensor] = []
        for index, gamma_MR in enumerate(gammas):
            w1_MRD, w2_MDR = self._matrices(index)
            written_MDR = w2_MDR * gamma_MR[:, None, :]
            outputs += [w1_MRD.to(dtype), written_MDR.to(dtype)]
            if self.feels:
                metrics = [(self._basis(key, index), self._basis(f"{key}_rest", index)) for key in ("C", "G")]
                functional = functional + functional_penalty(w1_MRD, written_MDR, *metrics)
            if self.config.orthogonality.penalises and self._basis("written", index).shape[-1]:
                orthogonality = orthogonality + penalty(self._parameter("W2", index), self._basis("written", index))
        budget = torch.cat([gamma_MR.abs().sum(-1) for gamma_MR in gammas]).mean()
        return *outputs, functional, orthogonality, budget

    def pairs(self, outputs: tuple[Tensor, ...]) -> dict[str, Pair]:
        """Module name → (down (R, D), up (D, R)) from what `forward` gave."""
        found: dict[str, Pair] = {}
        for index, group in enumerate(self.groups):
            parts = outputs[2 * index].unbind(0), outputs[2 * index + 1].unbind(0)
            found |= dict(zip(group.names, zip(*parts, strict=True), strict=True))
        return found

    def limit(self, allowed: float) -> None:
        """Lets at most `allowed` parameters be open from now on; see `budget.common_shift`."""
        self.allowed = allowed

    @torch.no_grad()
    def snapshot(self) -> dict[str, ModuleState]:
        """Every module's adapter as the forward pass uses it. Collective under ZeRO 3: all ranks must call it."""
        with gathered(self.parameters()):
            gammas, thresholds = self._gates()
            states = {}
            for index, group in enumerate(self.groups):
                w1_MRD, w2_MDR = self._matrices(index)
                parts = (w1_MRD, w2_MDR, self._parameter("g", index), gammas[index], thresholds[index])
                stacks = [part.detach().float().cpu() for part in parts]
                for row, name in enumerate(group.names):
                    w1, w2, g, gamma, tau = (stack[row].clone() for stack in stacks)
                    states[name] = ModuleState(w1, w2, g, gamma, float(tau))
        return {name: states[name] for group in self.groups for name in group.names}

    @torch.no_grad()
    def report(self) -> dict[str, ModuleReport]:
        """A report per module, with one copy to the host per group. Collective under ZeRO 3."""
        reports = {}
        with gathered(self.parameters()):
            gammas, thresholds = self._gates()
            for index, group in enumerate(self.groups):
                w2_MDR, gamma_MR = self._matrices(index)[1], gammas[index]
                active_MR = (gamma_MR != 0) & w2_MDR.ne(0).any(1)
                shares_M = overlap(w2_MDR, gamma_MR, self._basis("written", index))
                columns = [active_MR.sum(-1), thresholds[index], shares_M, *self._parameter("g", index).T]
                table = torch.stack([column.detach().float() for column in columns], dim=1).cpu()
                for name, (rank, tau, share, *_), g_R in zip(group.names, table.tolist(), table[:, 3:], strict=True):
                    reports[name] = ModuleReport(int(rank), tau, g_R.clone(), share)
        return reports

    def _gates(self) -> tuple[list[Tensor], list[Tensor]]:
        """γ (M, R) and the effective thresholds (M,) per group."""
        indices = range(len(self.groups))
        gates = [(self._parameter("g", i), self._parameter("tau", i), self._basis("floor", i)) for i in indices]
        capped = self.allowed < self.full
        if not capped and not self.has_floors:
            thresholds = [tau.abs() for _, tau, _ in gates]
            return [soft_threshold(g, t[:, None]) for (g, *_), t in zip(gates, thresholds, strict=True)], thresholds
        above = [margins(*gate) for gate in gates]
        shift = common_shift(above, [group.price for group in self.groups], self.allowed) if capped else 0.0
        exact = []
        for (g_MR, tau_M, floor_M), margin_MR in zip(gates, above, strict=True):
            threshold_M = floored_threshold(g_MR, tau_M, floor_M if self.has_floors else None, shift)
            exact.append(exact_gates(g_MR, threshold_M, margin_MR > shift))
        return [gamma for gamma, _ in exact], [threshold for _, threshold in exact]

    def _matrices(self, index: int) -> tuple[Tensor, Tensor]:
        """Effective W1 (M, R, D) and W2 (M, D, R) of a group. With input-side protection W1 is projected out of P, with
        `mode: projection` W2 out of Q."""
        w1_MRD, w2_MDR = self._parameter("W1", index), self._parameter("W2", index)
        orthogonality = self.config.orthogonality
        if orthogonality.projects_input:
            w1_MRD = project_out(w1_MRD.transpose(1, 2), self._basis("read", index)).transpose(1, 2)
        if orthogonality.projects_output:
            w2_MDR = project_out(w2_MDR, self._basis("written", index))
        return w1_MRD, w2_MDR

    def _trained(self, *kinds: str) -> list[nn.Parameter]:
        return [self.get_parameter(f"{kind}_{index}") for index in range(len(self.groups)) for kind in kinds]

    def _parameter(self, kind: str, index: int) -> Tensor:
        found: Tensor = getattr(self, f"{kind}_{index}")
        return found

    def _basis(self, kind: str, index: int) -> Tensor:
        return self.get_buffer(f"{kind}_{index}")

    def _feel(self, index: int, layers: Sequence[Sequence[Felt]]) -> None:
        """Buffers of C and G, of each layer of a group and each task."""
        for key, side in (("C", "read"), ("G", "loss")):
            factor_MDSK, rest_MS = stacked([[getattr(felt, side) for felt in layer] for layer in layers])
            self._buffer(f"{key}_{index}", factor_MDSK)
            self._buffer(f"{key}_rest_{index}", rest_MS)

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


def nothing(width: int) -> Felt:
    """What a task that kept nothing of a layer adds to the functional penalty."""
    return Felt(Metric.isotropic(width, 0.0), Metric.isotropic(width, 0.0))


def grouped(widths: Mapping[str, int], config: AdapterConfig) -> tuple[Group, ...]:
    """The modules by width and ceiling, both in order of first appearance."""
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, width in widths.items():
        groups[width, ceiling(name, config)].append(name)
    return tuple(Group(tuple(names), width, rank) for (width, rank), names in groups.items())


def ceiling(name: str, config: AdapterConfig) -> int:
    """Dimensions that the module starts with: by `rank_pattern` if an entry matches it, else `max_rank`."""
    return by_pattern(name, config.rank_pattern, config.max_rank)


def floor(name: str, config: AdapterConfig) -> int:
    """Dimensions that the module keeps at least: by `min_rank_pattern` if an entry matches it, else `min_rank`."""
    return by_pattern(name, config.min_rank_pattern, config.min_rank)


def check_ranks(widths: Mapping[str, int], config: AdapterConfig) -> None:
    """Raises ConfigError if a floor is above its ceiling, or if the floors alone cost more than `max_parameters`."""
    for name in widths:
        if floor(name, config) > ceiling(name, config):
            raise ConfigError(
                f"adapter.min_rank: {floor(name, config)} for {name!r} is above its ceiling of {ceiling(name, config)} "
                "dimensions; lower it"
            )
    least = sum(floor(name, config) * (2 * width + 1) for name, width in widths.items())
    if config.max_parameters is not None and least > config.max_parameters:
        raise ConfigError(
            f"adapter.max_parameters: {config.max_parameters} is less than the {least} that min_rank keeps open; "
            "raise it or lower min_rank"
        )


def _draw(width: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    w1_RD = torch.randn(rank, width, generator=generator) * width**-0.5
    return w1_RD, 1 + 0.1 * torch.randn(rank, generator=generator)


def _stacked(bases: list[Tensor]) -> Tensor:
    """(M, D, H): the bases, padded with zero columns to the largest H."""
    widest = max(basis_DH.shape[1] for basis_DH in bases)
    return torch.stack([nn.functional.pad(basis_DH, (0, widest - basis_DH.shape[1])) for basis_DH in bases])
