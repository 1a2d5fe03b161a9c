"""What a training job is asked to do: frozen, validated sections of the run's configuration."""

import string
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.schema import Frozen, Grown

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
AtLeast = Annotated[int, Field(ge=0)]
Tokens = Annotated[int, Field(ge=4, le=1_000_000)]  # what a row is cut at
FIELDS = ("text", "labels", "instruction", "category", "dataset", "task")
OPTIONS = "Option: {labels} \n"
BENCHMARK = "{instruction}" + OPTIONS + "{text}\nAnswer:"
AT_ONCE = "all tasks at once"  # what people are told is trained with `train.joint`, in the place of a task
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


class ReplayConfig(Frozen):
    """While a task trains, a `share` of each earlier task's training rows is trained on too, see
    `trainers.training.mixing`."""

    share: Annotated[float, Field(gt=0, le=1)]

    def rows(self, size: int) -> int:
        """How many rows of a task of `size` training rows are replayed: the share, at least one."""
        return max(1, round(self.share * size))


class TrainConfig(Grown):
    """Optimisation of one task. `batch_size` is the effective batch over all workers and accumulated micro-batches.

    A task takes the steps of its `epochs`, but at least `min_steps` and at most `max_steps`. A checkpoint of the task
    is stored every `checkpoint_steps` updates. `gradient_checkpointing` computes activations twice instead of keeping
    them. `compile` runs the model's repeated blocks through `torch.compile`. If a device runs out of memory,
    `on_out_of_memory: halve` goes on with twice the accumulated micro-batches. `replay` mixes rows of earlier tasks in.
    `joint` trains on the rows of all tasks at once, as an upper bound of what a stream can reach.
    """

    added: ClassVar[tuple[str, ...]] = ("min_steps", "max_steps", "replay", "joint")

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
    replay: ReplayConfig | None = None
    joint: bool = False

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


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up to 1 over `warmup_steps` (at most half of all), then linear decay to 0 at `total_steps`."""
    warmup = min(warmup_steps, total_steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup))


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
