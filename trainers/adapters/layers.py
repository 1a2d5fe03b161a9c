"""The adapter itself and how it sits on a frozen linear layer.

    h_t = (I + U_t) h_{t−1},   U_t = W2 · diag(γ) · W1,   h_{t−1} = what the layer gives with all earlier tasks in it

Shape suffixes: B batch, D output width of the adapted layer, R rank, K input width of the layer.
Source: Wan et al., arXiv:2505.22358. The adapter reads the layer's output, so W1 is (R, D), not (R, K).
"""

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cluster.errors import ConfigError
from trainers.adapters.budget import floored_threshold, soft_threshold
from trainers.adapters.orthogonality import project_out
from trainers.config import AdapterConfig


class OAAdapter(nn.Module):
    """U h = W2 · diag(γ) · W1 · h for one module.

    Trained: W1 (R, D) ~ N(0, 1/D), W2 (D, R) = 0, g (R,) ~ N(1, 0.1²), τ (1,) = τ₀. U is 0 at the start.
    """

    written: Tensor
    read: Tensor

    def __init__(
        self, width: int, config: AdapterConfig, generator: torch.Generator, written_DH: Tensor, read_DH: Tensor
    ) -> None:
        """Draws the initial values from `generator`; the bases Q and P of the history are (D, H), H ≥ 0 each."""
        super().__init__()
        rank = config.max_rank
        self.W1 = nn.Parameter(torch.randn(rank, width, generator=generator) * width**-0.5)
        self.W2 = nn.Parameter(torch.zeros(width, rank))
        self.g = nn.Parameter(1 + 0.1 * torch.randn(rank, generator=generator))
        self.tau = nn.Parameter(torch.full((1,), config.threshold))
        self.min_rank = config.min_rank
        self.projects_output = config.orthogonality.projects_output and written_DH.shape[1] > 0
        self.projects_input = config.orthogonality.projects_input and read_DH.shape[1] > 0
        self.register_buffer("written", written_DH, persistent=False)
        self.register_buffer("read", read_DH, persistent=False)
        self.moment_DD: Tensor | None = None

    def forward(self, h: Tensor) -> Tensor:
        """h (…, D) → U h (…, D), computed in h's dtype. Adds Σ h hᵀ to `moment_DD` where that is set."""
        if self.moment_DD is not None:
            rows = h.detach().reshape(-1, h.shape[-1]).float()
            self.moment_DD += rows.T @ rows
        scaled = nn.functional.linear(h, self.input_matrix().to(h.dtype)) * self.gamma().to(h.dtype)
        return nn.functional.linear(scaled, self.output_matrix().to(h.dtype))

    def gamma(self) -> Tensor:
        """γ (R,) = soft_threshold(g, τ) with τ held by the floor `min_rank`."""
        return soft_threshold(self.g, self.threshold())

    def active(self) -> Tensor:
        """Which dimensions count (R,): γ ≠ 0 and a column of W2 that writes something."""
        return (self.gamma() != 0) & self.output_matrix().ne(0).any(0)

    def threshold(self) -> Tensor:
        """τ (1,) as it acts: non-negative, capped so that `min_rank` dimensions stay on."""
        return floored_threshold(self.g, self.tau, self.min_rank)

    def input_matrix(self) -> Tensor:
        """W1 (R, D) as it acts: with input-side protection, the part of its rows outside P."""
        return project_out(self.W1.T, self.read).T if self.projects_input else self.W1

    def output_matrix(self) -> Tensor:
        """W2 (D, R) as it acts: under `mode: projection`, the part of its columns outside Q."""
        return project_out(self.W2, self.written) if self.projects_output else self.W2


class OALinear(nn.Linear):
    """A frozen `nn.Linear` that adds its adapter's output; it still answers `.weight` and `.bias`."""

    adapter: OAAdapter

    def forward(self, x: Tensor) -> Tensor:
        """x (B, …, K) → h + U h (B, …, D) with h = W x + b."""
        h = super().forward(x)
        return h + self.adapter(h)


def match_modules(model: nn.Module, target_modules: Sequence[str] | str) -> dict[str, nn.Linear]:
    """Linear layers named by `target_modules` with PEFT's rules, in the model's order.

    A list holds whole names or suffixes after a dot; a string is a regex over whole names; `all-linear` takes every
    linear layer.

    Raises:
        ConfigError: an entry matches no linear layer; the message suggests near names.
    """
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    if target_modules == "all-linear":
        return linears
    if isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise ConfigError(f"adapter.target_modules: {target_modules!r} is not a regex: {error}") from None
        chosen = {name: module for name, module in linears.items() if pattern.fullmatch(name)}
        if not chosen:
            if any(_named(name, target_modules) for name in linears):
                raise ConfigError(
                    f"adapter.target_modules: a text is a regex over whole names; write [{target_modules}]"
                )
            raise _no_match(target_modules, linears)
        return chosen
    for target in target_modules:
        if not any(_named(name, target) for name in linears):
            raise _no_match(target, linears)
    return {name: m for name, m in linears.items() if any(_named(name, target) for target in target_modules)}


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _no_match(target: str, linears: dict[str, nn.Linear]) -> ConfigError:
    suffixes = sorted({re.sub(r"^.*\.\d+\.", "", name) for name in linears})
    near = difflib.get_close_matches(target, suffixes, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"linear layers here: {', '.join(suffixes)}"
    return ConfigError(f"adapter.target_modules: {target!r} matches no linear layer of the model; {hint}")


def attach(modules: dict[str, nn.Linear], adapters: dict[str, OAAdapter]) -> None:
    """Puts each adapter on its layer by swapping the layer's class; parameter names of the base do not change."""
    for name, linear in modules.items():
        linear.__class__ = OALinear
        linear.adapter = adapters[name].to(linear.weight.device)


def detach(modules: dict[str, nn.Linear]) -> None:
    """Takes the adapters off and gives each layer its class back."""
    for linear in modules.values():
        linear.__class__ = nn.Linear
        del linear.adapter
