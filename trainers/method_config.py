"""What the settings of every method have in common, and those of OA-Adapter, LoRA and methods that train weights."""

import importlib.util
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.errors import ConfigError
from cluster.schema import Frozen, Grown
from trainers.config import NonNegative, Positive

MOST_REGEX = 1_000  # characters
MAX_OCCUPANCY = "adapter.orthogonality.max_occupancy"  # as decisions name it


class OrthogonalityConfig(Frozen):
    """How an adapter is kept out of the directions that earlier adapters use.

    Output side: W2 is kept out of the directions that they write, by L_orth times `weight`, or exactly
    (`mode: projection`). Input side: the rows of W1 are kept exactly out of the directions that carry a share `energy`
    of what their layers gave in earlier tasks. With `side: none` neither is. A basis that adapters are kept out of may
    fill a share `max_occupancy` of its layer's width. Beyond that, `saturation` stops the stream or drops the
    directions of least singular value. With neither `weight` nor `projection`, what earlier adapters write only
    measures the overlap; if it fills a layer, the overlap there is 1 whatever is learned, and the stream goes on.
    """

    weight: NonNegative = 0.0
    mode: Literal["penalty", "projection"] = "penalty"
    side: Literal["output", "input", "both", "none"] = "output"
    energy: Annotated[float, Field(gt=0, lt=1)] = 0.95
    max_occupancy: Annotated[float, Field(gt=0, le=1)] = 0.9
    saturation: Literal["stop", "drop"] = "stop"

    @property
    def penalises(self) -> bool:
        """Whether L_orth is part of the loss."""
        return self.side in ("output", "both") and self.mode == "penalty" and self.weight > 0

    @property
    def projects_output(self) -> bool:
        """Whether W2 is parametrised as (I − QQᵀ)V."""
        return self.side in ("output", "both") and self.mode == "projection"

    @property
    def projects_input(self) -> bool:
        """Whether W1 is parametrised as V(I − PPᵀ), and P is collected."""
        return self.side in ("input", "both")

    @property
    def protects_output(self) -> bool:
        """Whether W2 is kept out of Q, by a penalty or exactly."""
        return self.penalises or self.projects_output

    @property
    def counted(self) -> list[str]:
        """The sides whose bases adapters are kept out of, by the names that occupancy has."""
        return ["written"] * self.protects_output + ["read"] * self.projects_input


class FunctionalConfig(Frozen):
    """How much an adapter may change what its layers give on earlier tasks: L_f times `weight`, see
    `trainers.methods.oa.functional`.

    With `metric: loss` a change counts as the earlier task's loss feels it, with `none` as any other of its size. Of
    each task, each layer keeps two matrices as `directions` eigenpairs and a rest. Beyond `tasks` of them the
    oldest are merged.
    """

    weight: NonNegative = 10.0
    metric: Literal["loss", "none"] = "loss"
    directions: Positive = 24
    tasks: Positive = 32


class MethodConfig(Frozen):
    """The settings that every method has: `target_modules` as in PEFT (names, suffixes, a regex, or `all-linear`).

    The class variables say what a run needs to know about a method without importing it. `files` are the names of the
    files that a task leaves in the store, in order; later tasks are trained against the last of them. `package` is one
    that the method needs beside Orthoplex's own. `most_zero_stage` is the highest ZeRO stage that it trains under.
    `counted` says what its parameters are, for people; `trains_base` tells that they are the base's own. `chooses` says
    by which rule layers get different numbers of dimensions, None if they keep what they are given; `choice_keys` are
    the keys of that rule, `protection_keys` those of what keeps tasks apart.
    """

    files: ClassVar[tuple[str, ...]] = ("adapter.safetensors",)
    package: ClassVar[str | None] = None
    most_zero_stage: ClassVar[int] = 3
    counted: ClassVar[str] = "A and B"
    trains_base: ClassVar[bool] = False
    chooses: ClassVar[str | None] = None
    choice_keys: ClassVar[tuple[str, ...]] = ()
    protection_keys: ClassVar[tuple[str, ...]] = ()

    method: str
    target_modules: list[str] | str

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, value: list[str] | str) -> list[str] | str:
        if not value or any(not name for name in value):
            raise ValueError("name at least one module, for instance [output.dense]")
        if isinstance(value, str):
            check_regex(value)
        return value

    def check_installed(self) -> None:
        """Raises ConfigError if the method needs a package that is not installed."""
        if self.package and importlib.util.find_spec(self.package) is None:
            raise ConfigError(
                f"adapter.method: {self.method} needs {self.package}, which is not installed; "
                "`pip install 'orthoplex[methods]'`"
            )

    @property
    def protection(self) -> OrthogonalityConfig | None:
        """What limits the space that tasks fill, for guards and forecasts; None if nothing fills up."""
        return None

    @property
    def protects(self) -> list[str]:
        """How earlier tasks are protected, for people, each with the keys that set it; empty if the method's name says
        it."""
        return []

    @property
    def rounds(self) -> str | None:
        """How the changes that tasks make are rounded into weights narrower than float32; None if they are not."""
        return None

    @property
    def needs_task(self) -> bool:
        """Whether it must know which task a text belongs to when it answers."""
        return False

    @property
    def patterns(self) -> Mapping[str, Mapping[str, float]]:
        """The keys of the section that give single layers a value: regex of the end of a layer's name → value."""
        return {}

    @property
    def takes_quantised(self) -> bool:
        """Whether it can adapt layers that are kept in eight bits, since it does not write the base's weights."""
        return False


def check_regexes(patterns: dict[str, Any]) -> dict[str, Any]:
    """Returns the patterns. Raises ValueError if a key is not a regex, or a long one."""
    for key in patterns:
        check_regex(key)
    return patterns


def check_regex(pattern: str) -> None:
    """Raises ValueError if a pattern is not a regex, or a long one."""
    if len(pattern) > MOST_REGEX:
        raise ValueError(f"{pattern[:40]!r}… has {len(pattern):,} characters; use at most {MOST_REGEX:,}")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is not a regex: {error}") from None


class AdapterConfig(MethodConfig, Grown):
    """`method: oa`, the default: OA-Adapter, one adapter per task that chooses its own size.

    A layer starts with `max_rank` dimensions and keeps at least `min_rank`, unless `rank_pattern` or `min_rank_pattern`
    gives it another number (regex of the end of its name → dimensions). `max_parameters` limits what the whole task
    keeps. `rounding` is how a folded history goes into bfloat16 weights; with `none`, the layers that it changes are
    held and computed in float32. With `initial: task` the rows of W1 start as the leading directions of what a layer
    gives on the new task, outside of what is protected; without `train_down` they stay what they are at the start.
    `method`, and each of the `added` keys if it changes nothing, are left out of what is stored.
    """

    counted: ClassVar[str] = "W1, W2 and γ"
    added: ClassVar[tuple[str, ...]] = ("rounding", "initial", "train_down", "functional")
    before: ClassVar[dict[str, Any]] = {"functional": FunctionalConfig(weight=0.0)}
    files: ClassVar[tuple[str, ...]] = ("adapter.safetensors", "bases.safetensors")
    chooses: ClassVar[str | None] = "a dimension stays while |g| > τ"
    choice_keys: ClassVar[tuple[str, ...]] = ("threshold", "budget_weight", "min_rank", "max_parameters")
    protection_keys: ClassVar[tuple[str, ...]] = ("orthogonality", "functional")

    method: Literal["oa"] = Field("oa", exclude=True)
    max_rank: Positive = 8
    threshold: NonNegative = 0.2
    budget_weight: NonNegative = 0.003
    min_rank: Annotated[int, Field(ge=0)] = 0
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    min_rank_pattern: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    max_parameters: Positive | None = None
    history: Literal["folded", "concatenated"] = "folded"
    rounding: Literal["nearest", "stochastic", "none"] = "nearest"
    initial: Literal["random", "task"] = "random"
    train_down: bool = True
    orthogonality: OrthogonalityConfig = OrthogonalityConfig()
    functional: FunctionalConfig = FunctionalConfig()

    @field_validator("rank_pattern", "min_rank_pattern")
    @classmethod
    def _regex(cls, value: dict[str, int]) -> dict[str, int]:
        return check_regexes(value)

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> "AdapterConfig":
        if self.min_rank > self.max_rank:
            raise ValueError(f"min_rank {self.min_rank} is above max_rank {self.max_rank}; lower min_rank")
        return self

    @property
    def protection(self) -> OrthogonalityConfig:
        """The settings of the bases, which fill up."""
        return self.orthogonality

    def protects_tasks_of(self, stored: "AdapterConfig") -> bool:
        """Whether tasks that were learned under `stored` kept what these settings protect by; also if they protect by
        nothing. Q is always kept, P and what the loss feels only if they were asked for."""
        cuts, feels = self.orthogonality.projects_input, self.functional.weight > 0
        cut, felt = cuts and stored.orthogonality.projects_input, feels and stored.functional.weight > 0
        return self.orthogonality.protects_output or cut or felt or not (cuts or feels)

    @property
    def protects(self) -> list[str]:
        """W2, W1, and what layers give on earlier tasks; or that nothing does."""
        ways, functional = self.orthogonality, self.functional
        parts = {
            f"W2 by a penalty (orthogonality.weight {ways.weight:g})": ways.penalises,
            "W2 exactly (orthogonality.mode projection)": ways.projects_output,
            f"W1 exactly (orthogonality.side {ways.side}, energy {ways.energy:g})": ways.projects_input,
            f"outputs on earlier tasks by a penalty (functional.weight {functional.weight:g}, metric "
            f"{functional.metric})": functional.weight > 0,
        }
        return [part for part, holds in parts.items() if holds] or ["nothing"]

    @property
    def rounds(self) -> str | None:
        """The rounding of a folded history."""
        return self.rounding if self.history == "folded" and self.rounding != "none" else None

    @property
    def patterns(self) -> Mapping[str, Mapping[str, float]]:
        """Ceilings and floors."""
        return {"rank_pattern": self.rank_pattern, "min_rank_pattern": self.min_rank_pattern}

    @property
    def takes_quantised(self) -> bool:
        """True for a concatenated history, which does not write the weights."""
        return self.history == "concatenated"


class LoraConfig(MethodConfig):
    """`method: lora`: plain LoRA by PEFT, a baseline that does not protect earlier tasks.

    The update of a layer is alpha/rank · B A. `mode: sequential` goes on training one adapter over all tasks.
    `mode: per_task` trains a new one per task and answers each task with its own. It therefore needs to know the task
    when it answers.
    """

    package: ClassVar[str | None] = "peft"
    most_zero_stage: ClassVar[int] = 2  # PEFT would put its matrices into layers that are partitioned already

    method: Literal["lora"]
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mode: Literal["sequential", "per_task"] = "sequential"

    @property
    def needs_task(self) -> bool:
        """True for one adapter per task."""
        return self.mode == "per_task"


class WeightsConfig(MethodConfig):
    """Methods that train the base's own weights. `target_modules: all` of `full` and `ewc` is every parameter of the
    model, embeddings and norms too; else it is the weights and biases of the target layers."""

    most_zero_stage: ClassVar[int] = 2  # the weights would be shared out before they are copied
    counted: ClassVar[str] = "changed weights"
    trains_base: ClassVar[bool] = True


class FullConfig(WeightsConfig):
    """`method: full`: sequential fine-tuning. It needs a small `train.learning_rate`, such as 2e-5."""

    method: Literal["full"]


class EwcConfig(WeightsConfig):
    """`method: ewc`: fine-tuning with Elastic Weight Consolidation.

    `weight` is λ of λ/2 Σ F̄ (θ − θ*)². F̄ sums the diagonal empirical Fisher information of the tasks; `decay`, as in
    online EWC, multiplies the sum before a task is added. A task's own is measured on `fisher_rows` of its training
    rows, on all if it is null, one at a time.
    """

    files: ClassVar[tuple[str, ...]] = ("adapter.safetensors", "fisher.safetensors")

    method: Literal["ewc"]
    weight: NonNegative = 1000.0
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    fisher_rows: Positive | None = None


KeptRank = Positive | Annotated[float, Field(gt=0, lt=1)]


class OsftConfig(WeightsConfig):
    """`method: osft`: Orthogonal Subspace Fine-Tuning by PEFT, which keeps the leading singular directions of weights.

    A layer keeps `effective_rank` of them, a number or a share of all it has, unless `rank_pattern` gives it another
    (regex of the end of its name → number or share); `rank_growth` is the share that it keeps in addition with every
    task. `projection: values` computes with factors that are projected off
    what is kept, and so keeps it exactly; `gradients` projects gradients alone, as published, and leaves it to AdamW.
    """

    package: ClassVar[str | None] = "peft"

    method: Literal["osft"]
    effective_rank: KeptRank = 0.5
    rank_pattern: Annotated[dict[str, KeptRank], AfterValidator(check_regexes)] = Field(default_factory=dict)
    rank_growth: Annotated[float, Field(ge=0, lt=1)] = 0.0
    projection: Literal["values", "gradients"] = "values"

    @property
    def patterns(self) -> Mapping[str, Mapping[str, float]]:
        """Ranks kept."""
        return {"rank_pattern": self.rank_pattern}
