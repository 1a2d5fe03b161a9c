"""How new weights become numbers of the model's dtype, and how much of a change they then hold.

bfloat16 has 8 bits of precision. A change of a weight that is smaller than half the distance to the next number is lost
if it is rounded to the nearest. Rounded stochastically, it is kept on average, and each weight gets noise of at most
one such distance. A weight that is held in float32 is not rounded.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainers.methods.base import Kept

Rounding = Literal["nearest", "stochastic", "none"]
AT_ONCE = 2**22  # values whose random bits are in memory at the same time
LOW = 0xFFFF  # the bits of a float32 that bfloat16 has no room for
WORD = 0xFFFFFFFF


def rounded(value: Tensor, dtype: torch.dtype, rounding: Rounding, name: str) -> Tensor:
    """`value` in float32, rounded to `dtype`. `stochastic` is for bfloat16; a wider dtype needs no rounding, so whoever
    asks for `none` gives the weights one.

    `name` is that of the parameter. With it the result is a function of `value` alone, on any device: it is the same
    after a resume, in an export and on every rank.
    """
    if rounding != "stochastic" or dtype != torch.bfloat16:
        return value.to(dtype)
    return stochastic(value, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))


def stochastic(value: Tensor, seed: int) -> Tensor:
    """Each value to one of its two neighbours in bfloat16, so that the mean over seeds is the value itself.

        P(up) = (value − below) / (above − below)

    A number that bfloat16 has stays what it is. The draw of an element depends on `seed` and its place alone. So a
    value that grows crosses to the next number once, and does not jump about while other tasks are added.

    Args:
        value: float32, any shape.
        seed: 32 bits.
    """
    bits = value.contiguous().view(torch.int32).reshape(-1)
    found = torch.empty_like(bits)
    for start in range(0, bits.numel(), AT_ONCE):
        part = bits[start : start + AT_ONCE]
        places = torch.arange(start, start + part.numel(), dtype=torch.int64, device=value.device)
        draws = (_mixed(_mixed(places) ^ seed) & LOW).int()
        added = torch.where(value.reshape(-1)[start : start + AT_ONCE].isfinite(), part + draws, part)
        found[start : start + AT_ONCE] = added & ~LOW
    return found.view(torch.float32).view(value.shape).bfloat16()


def _mixed(word: Tensor) -> Tensor:
    """32 bits from 32 bits, one to one, each of which depends on all: the hash of Wellons, `lowbias32`, with constants
    below 2^31, so that no product overflows int64."""
    word = word ^ (word >> 16)
    word = (word * 0x21F0AAAD) & WORD
    word = word ^ (word >> 15)
    word = (word * 0x735A2D97) & WORD
    return word ^ (word >> 15)


@dataclass(frozen=True)
class Change:
    """A change ΔW of weights, and what of it is in them as they are stored.

    `held` is ⟨W_stored − W0, ΔW⟩ and `asked` ‖ΔW‖², over one layer or several.
    """

    held: float = 0.0
    asked: float = 0.0

    @staticmethod
    def of(original: Tensor, exact: Tensor, stored: Tensor) -> "Change":
        """From W0, W0 + ΔW and W_stored, of equal shape."""
        asked, held = exact.float() - original.float(), stored.float() - original.float()
        return Change(float((held * asked).sum(dtype=torch.float64)), float(asked.square().sum(dtype=torch.float64)))

    def __add__(self, other: "Change") -> "Change":
        return Change(self.held + other.held, self.asked + other.asked)

    @property
    def share(self) -> float:
        """⟨W_stored − W0, ΔW⟩ / ‖ΔW‖²: 1 if all is kept, 0 if nothing is. 1 for no change."""
        return self.held / self.asked if self.asked else 1.0


def write(old: Tensor, new: Tensor, rounding: Rounding, name: str) -> Change:
    """Writes `new` in float32 over `old`, a view of a parameter, rounded once to its dtype; `name` is the parameter's.

    Returns what of the change is there then. It is not measured for float32, which takes the change as it is.
    """
    stored = rounded(new, old.dtype, rounding, name)
    change = Change() if old.dtype == torch.float32 else Change.of(old, new, stored)
    old.copy_(stored)
    return change


def total(changes: Mapping[str, Change]) -> Change:
    """All layers' changes as one."""
    return sum(changes.values(), Change())


def share_kept(changes: Mapping[str, Change]) -> Kept | None:
    """⟨W_stored − W0, ΔW⟩ / ‖ΔW‖² over all layers and per layer; None if no layer was rounded."""
    if not changes:
        return None
    return Kept(total(changes).share, {name: change.share for name, change in changes.items()})
