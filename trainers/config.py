"""What a training job is asked to do: frozen, validated sections of the run's configuration."""

import importlib.util
import re
import string
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from cluster.errors import ConfigError
from cluster.schema import Frozen, Grown

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
AtLeast = Annotated[int, Field(ge=0)]
Tokens = Annotated[int, Field(ge=4, le=1_000_000)]  # what a row is cut at
FIELDS = ("text", "labels", "instruction", "category", "dataset", "task")
OPTIONS = "Option: {labels} \n"
BENCHMARK = "{instruction}" + OPTIONS + "{text}\nAnswer:"
NAMED = {"cl_benchmark": BENCHMARK, "cl_benchmark_prefix": "Task:{category}\nDataset:{dataset}\n" + BENCHMARK}


def check_template(template: str) -> str:
    """Returns the template. Raises ValueError unless it is a named one, or a string that contains {text} once."""
    if template in NAMED:
        return template
    try:
        parsed = [(name, *how) for _, name, *how in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"is not a template ({error}); write {{{{ and }}}} for braces") from None
    fields = [name for name, *_ in parsed]
    if unknown := [name for name in fields if name not in FIELDS]:
        raise ValueError(f"has the unknown field {{{unknown[0]}}}; there are {', '.join(f'{{{f}}}' for f in FIELDS)}")
    if formatted := [name for name, form, conversion in parsed if form or conversion]:
        raise ValueError(f"formats {{{formatted[0]}}}; write the bare name in braces")
    if fields.count("text") != 1:
        raise ValueError(f"needs {{text}} once; or name one of {', '.join(NAMED)}")
    return template


class ModelConfig(Frozen):
    """The frozen base model.

    `name` is a folder, a Hugging Face hub id, `docs-lm` (a small decoder that ships with Orthoplex), or `minilm` (all-
    MiniLM-L6-v2: from the `offline` extra if it is installed, else from the hub). `prompt` is put around every text,
    see `trainers.data.prompts`. `scoring` is how answers of a language model are judged, see
    `trainers.models.text_to_text.TextToText.predict`.
    """

    name: str = "minilm"
    task_type: Literal["LABEL_EMBEDDING", "SEQ_2_SEQ_LM", "CAUSAL_LM"] = "LABEL_EMBEDDING"
    prompt: Annotated[str, AfterValidator(check_template)] = "{text}"
    scoring: Literal["likelihood", "generation"] = "likelihood"
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: Literal["float8"] | None = None
    max_length: Tokens = 128
    revision: str | None = None

    @model_validator(mode="after")
    def _generates(self) -> "ModelConfig":
        if self.scoring == "generation" and self.task_type == "LABEL_EMBEDDING":
            raise ValueError("scoring generation: a LABEL_EMBEDDING model generates no text; use likelihood")
        return self


class OrthogonalityConfig(Frozen):
    """How an adapter is kept out of the directions that earlier adapters use.

    Output side: W2 is kept out of the directions that they write, by L_orth times `weight`, or exactly
    (`mode: projection`). Input side: the rows of W1 are kept exactly out of the directions that carry a share `energy`
    of what their layers gave in earlier tasks. A basis may fill a share `max_occupancy` of its layer's width. Beyond
    that, `saturation` stops the stream or drops the directions of least singular value.
    """

    weight: NonNegative = 5.0
    mode: Literal["penalty", "projection"] = "penalty"
    side: Literal["output", "input", "both"] = "output"
    energy: Annotated[float, Field(gt=0, lt=1)] = 0.95
    max_occupancy: Annotated[float, Field(gt=0, le=1)] = 0.9
    saturation: Literal["stop", "drop"] = "stop"

    @property
    def penalises(self) -> bool:
        """Whether L_orth is part of the loss."""
        return self.side != "input" and self.mode == "penalty"

    @property
    def projects_output(self) -> bool:
        """Whether W2 is parametrised as (I − QQᵀ)V."""
        return self.side != "input" and self.mode == "projection"

    @property
    def projects_input(self) -> bool:
        """Whether W1 is parametrised as V(I − PPᵀ), and P is collected."""
        return self.side != "output"


class MethodConfig(Frozen):
    """The settings that every method has: `target_modules` as in PEFT (names, suffixes, a regex, or `all-linear`).

    The class variables say what a run needs to know about a method without importing it. `files` are the names of the
    files that a task leaves in the store, in order; later tasks are trained against the last of them. `package` is one
    that the method needs beside Orthoplex's own. `most_zero_stage` is the highest ZeRO stage that it trains under.
    """

    files: ClassVar[tuple[str, ...]] = ("adapter.safetensors",)
    package: ClassVar[str | None] = None
    most_zero_stage: ClassVar[int] = 3

    method: str
    target_modules: list[str] | str

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, value: list[str] | str) -> list[str] | str:
        if not value or any(not name for name in value):
            raise ValueError("name at least one module, for instance [output.dense]")
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
    def rounds(self) -> str | None:
        """How the changes that tasks make are rounded into weights narrower than float32; None if they are not."""
        return None

    @property
    def needs_task(self) -> bool:
        """Whether it must know which task a text belongs to when it answers."""
        return False

    @property
    def patterns(self) -> Mapping[str, Mapping[str, int]]:
        """The keys of the section that give single layers a value: regex of the end of a layer's name → value."""
        return {}

    @property
    def takes_quantised(self) -> bool:
        """Whether it can adapt layers that are kept in eight bits, since it does not write the base's weights."""
        return False


class AdapterConfig(MethodConfig, Grown):
    """`method: oa`, the default: OA-Adapter, one adapter per task that chooses its own size.

    A layer starts with `max_rank` dimensions and keeps at least `min_rank`, unless `rank_pattern` or `min_rank_pattern`
    gives it another number (regex of the end of its name → dimensions). `max_parameters` limits what the whole task
    keeps. `rounding` is how a folded history goes into bfloat16 weights; with `none`, the layers that it changes are
    held and computed in float32. `method`, and `rounding: nearest`, are left out of what is stored, since they were
    there before there were others.
    """

    added: ClassVar[tuple[str, ...]] = ("rounding",)
    files: ClassVar[tuple[str, ...]] = ("adapter.safetensors", "bases.safetensors")

    method: Literal["oa"] = Field("oa", exclude=True)
    max_rank: Positive = 16
    threshold: NonNegative = 0.5
    budget_weight: NonNegative = 0.01
    min_rank: Annotated[int, Field(ge=0)] = 0
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    min_rank_pattern: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    max_parameters: Positive | None = None
    history: Literal["folded", "concatenated"] = "folded"
    rounding: Literal["nearest", "stochastic", "none"] = "nearest"
    orthogonality: OrthogonalityConfig = OrthogonalityConfig()

    @field_validator("rank_pattern", "min_rank_pattern")
    @classmethod
    def _regex(cls, value: dict[str, int]) -> dict[str, int]:
        for key in value:
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"{key!r} is not a regex: {error}") from None
        return value

    @model_validator(mode="after")
    def _floor_below_ceiling(self) -> "AdapterConfig":
        if self.min_rank > self.max_rank:
            raise ValueError(f"min_rank {self.min_rank} is above max_rank {self.max_rank}; lower min_rank")
        return self

    @property
    def protection(self) -> OrthogonalityConfig:
        """The settings of the bases, which fill up."""
        return self.orthogonality

    @property
    def rounds(self) -> str | None:
        """The rounding of a folded history."""
        return self.rounding if self.history == "folded" and self.rounding != "none" else None

    @property
    def patterns(self) -> Mapping[str, Mapping[str, int]]:
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


def method_named(section: Any) -> str:
    """The method that an `adapter` section names, be it a mapping or validated; `oa` if it names none."""
    return str(section.get("method", "oa") if isinstance(section, Mapping) else getattr(section, "method", "oa"))


AnyMethod = Annotated[
    Annotated[AdapterConfig, Tag("oa")] | Annotated[LoraConfig, Tag("lora")], Discriminator(method_named)
]


class OwnTraining(Grown):
    """A task's `training`: values in place of those of `train`. Null, or a key left out, is the run's own value."""

    added: ClassVar[tuple[str, ...]] = ("epochs", "learning_rate", "batch_size", "min_steps", "max_steps")

    epochs: Positive | None = None
    learning_rate: Rate | None = None
    batch_size: Positive | None = None
    min_steps: AtLeast | None = None
    max_steps: Positive | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The values that are not null."""
        return {key: value for key, value in self if value is not None}


class TrainConfig(Grown):
    """Optimisation of one task. `batch_size` is the effective batch over all workers and accumulated micro-batches.

    A task takes the steps of its `epochs`, but at least `min_steps` and at most `max_steps`. A checkpoint of the task
    is stored every `checkpoint_steps` updates. `gradient_checkpointing` computes activations twice instead of keeping
    them. `compile` runs the model's repeated blocks through `torch.compile`. If a device runs out of memory,
    `on_out_of_memory: halve` goes on with twice the accumulated micro-batches.
    """

    added: ClassVar[tuple[str, ...]] = ("min_steps", "max_steps")

    epochs: Positive = 3
    min_steps: AtLeast = 0
    max_steps: Positive | None = None
    batch_size: Positive = 32
    gradient_accumulation_steps: Positive = 1
    eval_batch_size: Positive = 64
    learning_rate: Rate = 1.0e-3
    budget_learning_rate_factor: Rate = 10.0
    warmup_steps: AtLeast = 20
    weight_decay: NonNegative = 0.0
    max_grad_norm: NonNegative = 1.0
    logging_steps: Positive = 10
    checkpoint_steps: Positive | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    on_out_of_memory: Literal["stop", "halve"] = "stop"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainConfig":
        return self.checked()

    def checked(self, own: OwnTraining | None = None) -> "TrainConfig":
        """The configuration itself. Raises ValueError if one key excludes another; a task's values are those of `own`,
        others are the run's."""
        if self.max_steps is not None and self.min_steps > self.max_steps:
            least, most = (
                f"{key} {getattr(self, key)}{' of `train`' if own and key not in own.given else ''}"
                for key in ("min_steps", "max_steps")
            )
            raise ValueError(f"{least} is above {most}; lower min_steps, or raise max_steps")
        return self

    def with_own(self, own: OwnTraining | None) -> "TrainConfig":
        """The configuration with a task's own values. Raises ValueError if they exclude others."""
        return self.model_copy(update=own.given).checked(own) if own else self

    def steps(self, rows: int) -> int:
        """Optimizer steps of a task with that many training rows: epochs · ceil(rows / batch_size), but at least
        `min_steps` and at most `max_steps`."""
        least = max(self.min_steps, -(-rows // self.batch_size) * self.epochs)
        return least if self.max_steps is None else min(least, self.max_steps)

    def task_seed(self, index: int) -> int:
        """The seed of task `index` (0-based), different for every task and every `seed`."""
        return self.seed * 1_000_003 + index


class DecodingConfig(Frozen):
    """How the answers of a generative task are generated: the likeliest token each time (`temperature` 0), the
    likeliest of `beams` answers, or samples.

    A sample is drawn from softmax(logits / `temperature`), from its `top_k` likeliest tokens, and from the fewest
    likeliest ones that have a share `top_p`. `seed` and the prompt's tokens draw it, so that it does not depend on
    workers and batches. An answer has at most `max_new_tokens`, else as many as the longest training answer, and ends
    before the first of the `stop` strings.
    """

    temperature: Annotated[NonNegative, Field(le=100)] = 0.0
    top_k: Positive | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    beams: Annotated[int, Field(ge=1, le=64)] = 1
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    stop: tuple[str, ...] = ()

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("an empty string would end every answer at once; name strings that follow an answer")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> "DecodingConfig":
        given = [
            key for key in ("top_k", "top_p", "seed") if getattr(self, key) != type(self).model_fields[key].default
        ]
        if given and not self.temperature:
            raise ValueError(f"{given[0]} says how samples are drawn, and temperature 0 draws none; set temperature")
        if self.beams > 1 and self.temperature:
            raise ValueError(f"beams {self.beams} look for the likeliest answer, and temperature draws one; remove one")
        return self


GREEDY = DecodingConfig()


class DeepSpeedConfig(Frozen):
    """The ZeRO stage of every task. Stage 3 also partitions the frozen model, which is then whole on no worker."""

    zero_stage: Literal[0, 1, 2, 3] = 2
