"""The settings of methods that add a low-rank update per task to the frozen weights, see `trainers.methods.lowrank`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trainers.config import NonNegative, Positive
from trainers.method_config import MethodConfig


class LowRankConfig(MethodConfig):
    """What the methods with a new LoRA per task have in common.

    A layer gives W0 x + b + Σ_s alpha/rank · B_s A_s x over all tasks. `dropout` is that of what A reads. `rounding` is
    how earlier updates go into bfloat16 weights, as for `oa`.
    """

    most_zero_stage: ClassVar[int] = 2

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rounding: Literal["nearest", "stochastic", "none"] = "nearest"

    @property
    def scaling(self) -> float:
        """c, by which B A is multiplied."""
        return self.alpha / self.rank

    @property
    def rounds(self) -> str | None:
        """The rounding of what is folded; None if nothing is, or nothing is rounded."""
        return None if self.rounding == "none" or self.needs_task else self.rounding


class IncrementalLoraConfig(LowRankConfig):
    """`method: incremental_lora`: a new LoRA per task. Earlier ones are frozen, and all answer together."""

    method: Literal["incremental_lora"]


class OloraConfig(LowRankConfig):
    """`method: olora`: O-LoRA, with the defaults of its authors' code.

    `orthogonality_weight` is λ1, of Σ |A_s A_tᵀ| over earlier tasks s. `norm_weight` is λ2, of ‖A_t‖ + ‖B_t‖.
    """

    method: Literal["olora"]
    rank: Positive = 8
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    orthogonality_weight: NonNegative = 0.5
    norm_weight: NonNegative = 0.0


class InfloraConfig(LowRankConfig):
    """`method: inflora`: InfLoRA. A is fixed: the leading directions of the new task's inputs outside those used.

    After task t, counted from 0, the used directions have a share `energy` + (1 − `energy`) · t / `horizon` of what it
    reads. `horizon` is the number of tasks that a stream is expected to have.
    """

    files: ClassVar[tuple[str, ...]] = ("adapter.safetensors", "bases.safetensors")
    protection_keys: ClassVar[tuple[str, ...]] = ("energy", "horizon")

    method: Literal["inflora"]
    alpha: Annotated[float, Field(gt=0)] = 16.0
    energy: Annotated[float, Field(gt=0, lt=1)] = 0.995
    horizon: Positive = 15


class EllaConfig(LowRankConfig):
    """`method: ella`: ELLA. `alignment_weight` is λ, of ‖ΔW_t ∘ Σ_{s<t} ΔW_s‖²."""

    method: Literal["ella"]
    alignment_weight: NonNegative = 1.0e4


class AdaloraConfig(LowRankConfig):
    """`method: adalora`: AdaLoRA. A task's layers begin with `initial_rank` dimensions each and keep `rank` on average.

    Dimensions are taken off from a share `initial_share` of the task's updates on, after every `interval` of them,
    until a share `final_share` is left. `beta1` and `beta2` smooth what says how important they are. `mode` is as for
    `lora`: with `incremental`, all tasks answer together; with `per_task`, each is answered by its own.
    """

    chooses: ClassVar[str | None] = "the most important dimensions of all layers together stay"
    choice_keys: ClassVar[tuple[str, ...]] = ("initial_rank", "rank", "initial_share", "final_share", "interval")

    method: Literal["adalora"]
    rank: Positive = 8
    mode: Literal["incremental", "per_task"] = "incremental"
    initial_rank: Positive = 12
    initial_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    final_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    interval: Positive = 1
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.85
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.85
    orthogonality_weight: NonNegative = 0.5

    @model_validator(mode="after")
    def _leaves_something_to_take_off(self) -> "AdaloraConfig":
        if self.rank > self.initial_rank:
            raise ValueError(f"rank {self.rank} is above initial_rank {self.initial_rank}; lower rank")
        if self.initial_share + self.final_share >= 1:
            raise ValueError(
                f"initial_share {self.initial_share} and final_share {self.final_share} leave no updates between them; "
                "their sum must be below 1"
            )
        return self

    @property
    def scaling(self) -> float:
        """c: alpha / initial_rank."""
        return self.alpha / self.initial_rank

    @property
    def needs_task(self) -> bool:
        """True for one update per task."""
        return self.mode == "per_task"
