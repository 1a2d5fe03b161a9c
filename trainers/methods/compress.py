"""A stream as one LoRA of one rank and one scale, as servers such as vLLM load it, with a bound on what it loses.

Per layer ΔW = scaling · B A of rank R. Thin QR of B and Aᵀ, then an SVD of the small R × R core, all in float64:

    B = Q_B R_B,   Aᵀ = Q_A R_A,   scaling · R_B R_Aᵀ = U Σ Vᵀ,   B' = Q_B U √Σ,   A' = √Σ Vᵀ Q_Aᵀ

The first r columns of B' and rows of A' are the nearest LoRA of rank r (Eckart, Young, Mirsky): for every input x

    ‖ΔW x − B'_r A'_r x‖ ≤ ‖ΔW − B'_r A'_r‖₂ ‖x‖ ≤ (σ_{r+1} + ρ) ‖x‖,   ρ = 2.01 · 2⁻²⁴ √(σ₁ Σσ)

where ρ is what float32 loses of B' and A'. Columns and rows beyond a layer's own rank are zero.

Shape suffixes: D output width, K input width, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cluster.errors import ConfigError
from trainers.methods.base import Lora, Stream

ALLOWED = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's MaxLoRARanks
EXACT = 1e-5  # of a layer's ‖ΔW‖₂: more than float32 factors of the whole rank lose
HALF_ULP = 2.0**-24


@dataclass(frozen=True)
class Spectrum:
    """One layer's ΔW as U √Σ (D, R) and √Σ Vᵀ (R, K), with Σ (R,), all in float64, σ falling."""

    left_DR: Tensor
    right_RK: Tensor
    sigma_R: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, lora: Lora) -> "Spectrum":
        """The decomposition of a layer's update; nothing of size D × K is made."""
        left_DR, left_RR = torch.linalg.qr(lora.b_DR.double())
        right_KR, right_RR = torch.linalg.qr(lora.a_RK.double().T)
        u_RR, sigma_R, v_RR = torch.linalg.svd(lora.scaling * left_RR @ right_RR.T)
        root_R, count = sigma_R.sqrt(), len(sigma_R)
        return cls(left_DR @ u_RR[:, :count] * root_R, root_R[:, None] * (v_RR[:count] @ right_KR.T), sigma_R)

    @property
    def norm(self) -> float:
        """‖ΔW‖₂."""
        return float(self.sigma_R[0]) if len(self.sigma_R) else 0.0

    def lost(self, rank: int) -> float:
        """A bound on ‖ΔW − ΔW_rank‖₂, rounding to float32 included."""
        beyond = float(self.sigma_R[rank]) if rank < len(self.sigma_R) else 0.0
        return beyond + 2.01 * HALF_ULP * (self.norm * float(self.sigma_R.sum())) ** 0.5

    def relative(self, rank: int) -> float:
        """`lost` as a share of ‖ΔW‖₂."""
        return self.lost(rank) / self.norm if self.norm else 0.0

    def at(self, rank: int) -> Lora:
        """The nearest LoRA of this rank in float32, padded with zeros."""
        kept = min(rank, len(self.sigma_R))
        b_DR, a_RK = (
            self.left_DR.new_zeros(len(self.left_DR), rank),
            self.right_RK.new_zeros(rank, self.right_RK.shape[1]),
        )
        b_DR[:, :kept], a_RK[:kept] = self.left_DR[:, :kept], self.right_RK[:kept]
        return Lora(a_RK.float(), b_DR.float())


@dataclass(frozen=True)
class Compression:
    """A stream at one of the `ALLOWED` ranks."""

    rank: int
    spectra: Mapping[str, Spectrum]

    @cached_property
    def stream(self) -> dict[str, Lora]:
        """The LoRA of every layer."""
        return {name: each.at(self.rank) for name, each in self.spectra.items()}

    @property
    def before(self) -> int:
        """The largest rank before."""
        return max(len(each.sigma_R) for each in self.spectra.values())

    @property
    def worst(self) -> tuple[str, float]:
        """The layer that loses the largest share of its ‖ΔW‖₂, and that share."""
        return worst(self.spectra, self.rank)

    @property
    def energy_lost(self) -> float:
        """‖ΔW − ΔW_rank‖² / ‖ΔW‖², in Frobenius norms over all layers."""
        whole = sum(float(each.sigma_R.square().sum()) for each in self.spectra.values())
        lost = sum(float(each.sigma_R[self.rank :].square().sum()) for each in self.spectra.values())
        return lost / whole if whole else 0.0

    def told(self) -> list[str]:
        """What was done and what it may cost, in lines."""
        name, share = self.worst
        return [
            f"Ranks of up to {self.before} became {self.rank}: a server such as vLLM needs --max-lora-rank {self.rank}",
            f"At worst, in {name}, a layer's output is off by {share:.3g} of ‖ΔW‖₂·‖x‖ for an input x",
            f"Over all layers {self.energy_lost:.3g} of ‖ΔW‖² is lost",
        ]

    def shown(self, most: int = 5) -> list[str]:
        """The bounds of the layers that lose the largest shares, a line each."""
        names = sorted(self.spectra, key=lambda name: -self.spectra[name].relative(self.rank))[:most]
        return [self.line(name, self.spectra[name]) for name in names]

    def line(self, name: str, each: Spectrum) -> str:
        """A layer's bound."""
        lost, share = each.lost(self.rank), each.relative(self.rank)
        return f"  {name}  |error| <= {lost:.3g} |x|, {share:.3g} of its norm {each.norm:.3g}"

    def per_layer(self) -> dict[str, dict[str, float]]:
        """Per layer ‖ΔW‖₂, and the bound on what is lost of it."""
        return {name: {"norm": each.norm, "lost": each.lost(self.rank)} for name, each in self.spectra.items()}


def worst(spectra: Mapping[str, Spectrum], rank: int) -> tuple[str, float]:
    """The layer that loses the largest share of its ‖ΔW‖₂ at a rank, and that share."""
    shares = {name: each.relative(rank) for name, each in spectra.items()}
    name = max(shares, key=shares.__getitem__)
    return name, shares[name]


def compress(stream: Stream, *, max_rank: int | None, tolerance: float | None) -> Compression:
    """The stream at one allowed rank.

    With `max_rank` that is the rank that loses least: `max_rank`, or the smallest allowed one that holds all. Without
    it, the smallest allowed rank whose bound keeps to `tolerance`.

    Args:
        stream: what each layer adds.
        max_rank: one of `ALLOWED`, which the server takes at most. None is the largest.
        tolerance: the largest share of ‖ΔW‖₂ that any layer may lose. None is nothing beyond rounding, `EXACT`.

    Raises:
        ConfigError: the rank is none that is allowed, a layer has a bias, or the tolerance cannot be kept.
    """
    if max_rank is not None and max_rank not in ALLOWED:
        raise ConfigError(f"--max-rank {max_rank}: vLLM allows {', '.join(map(str, ALLOWED))}; use one of these")
    check_unbiased(stream)
    spectra = {name: Spectrum.of(lora) for name, lora in stream.items()}
    bound, most = EXACT if tolerance is None else tolerance, max_rank or ALLOWED[-1]
    smallest = smallest_within(spectra, bound)
    if smallest is None or smallest > most:
        raise ConfigError(refusal(spectra, most, bound, smallest, given=tolerance is not None))
    if max_rank is None:
        return Compression(smallest, spectra)
    holds_all = smallest_within(spectra, EXACT)
    return Compression(min(most, holds_all or most), spectra)


def smallest_within(spectra: Mapping[str, Spectrum], bound: float) -> int | None:
    """The smallest allowed rank at which no layer loses more than a share `bound` of ‖ΔW‖₂; None if there is none."""
    return next((rank for rank in ALLOWED if worst(spectra, rank)[1] <= bound), None)


def check_unbiased(stream: Stream) -> None:
    """Raises ConfigError if a layer's bias changes, which vLLM does not serve."""
    biased = [name for name, lora in stream.items() if lora.shift_D is not None and bool(lora.shift_D.any())]
    if biased:
        raise ConfigError(
            f"--max-rank: {len(biased)} layers change their bias ({biased[0]}, …), and vLLM serves no LoRA bias; serve "
            "the merged model (`orthoplex adapters export --format merged`), or train layers without a bias"
        )


def refusal(spectra: Mapping[str, Spectrum], most: int, bound: float, smallest: int | None, *, given: bool) -> str:
    """What is said if a tolerance cannot be kept."""
    name, share = worst(spectra, most)
    fix = f"use --max-rank {smallest}" if smallest else "serve the merged model (`adapters export --format merged`)"
    asked = f"--tolerance {bound:g}" if given else f"--tolerance (not given: {bound:g}, nothing beyond rounding)"
    return (
        f"{asked}: at rank {most} layer {name} may lose {share:.3g} of ‖ΔW‖₂; {fix}"
        f"{', the smallest allowed rank that keeps to it' if smallest else ''}, or allow {ceiling(share)}"
    )


def needed(stream: Stream) -> list[str]:
    """What a server such as vLLM needs to load a stream as it is, in lines."""
    if any(lora.shift_D is not None and bool(lora.shift_D.any()) for lora in stream.values()):
        return ["vLLM serves no LoRA bias, which this adapter has; serve the merged model there (`adapters export`)"]
    largest = max((lora.rank for lora in stream.values()), default=0)
    fits = next((rank for rank in ALLOWED if rank >= largest), None)
    if fits is None:
        return [f"its rank is {largest}, and vLLM serves {ALLOWED[-1]} at most; compress it with --max-rank"]
    return [f"its rank is {largest}: a server such as vLLM needs --max-lora-rank {fits}; --max-rank compresses it"]


def ceiling(share: float) -> str:
    """The share with two digits, rounded up."""
    return f"{share * 1.05:.2g}"
