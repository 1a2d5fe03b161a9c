"""The `tasks` entries of generative tasks, and which kind of task an entry is."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from trainers.config import DecodingConfig, NonNegative
from trainers.data.docstring_answers import AnswerTask
from trainers.data.sources import (
    REQUIRED,
    ClBenchmarkTask,
    DocstringsTask,
    FilesData,
    FilesTask,
    HubData,
    HubTask,
    ImportedTask,
    Share,
    TaskBase,
    did_you_mean,
)

Format = Literal["prompt_completion", "messages", "text", "alpaca", "sharegpt"]
TrainOn = Literal["completion", "all_assistant", "last_assistant", "all"]
MetricName = Literal[
    "exact_match", "raw_match", "squad_em", "token_f1", "rouge_l", "rouge_l_words", "edit_similarity", "sari", "bleu",
    "chrf", "first_character", "number_match", "code_similarity", "superni_exact_match", "superni_rouge_l",
    "trace_match", "trace_first_character", "trace_rouge_l", "trace_edit_similarity", "trace_sari", "nll", "perplexity",
]  # fmt: skip
OF_LOSS = ("nll", "perplexity")  # of the model's own probabilities, without an answer
OF_LABELS = ("text_column", "label_column", "labels", "classes")  # keys of classification tasks
COLUMNS: dict[str, tuple[str, ...]] = {  # what rows of a format may hold
    "prompt_completion": (*REQUIRED["prompt_completion"], "references", "tools", "chat_template_kwargs"),
    "messages": (*REQUIRED["messages"], "tools", "chat_template_kwargs"),
    "text": REQUIRED["text"],
    "alpaca": (*REQUIRED["alpaca"], "input", "system", "history"),
    "sharegpt": (*REQUIRED["sharegpt"], "system", "tools"),
}
TRAINABLE: dict[str, tuple[TrainOn, ...]] = {  # by format; the first one is what is trained on if nothing is said
    "prompt_completion": ("completion", "all"),
    "messages": ("all_assistant", "last_assistant", "all"),
    "text": ("all",),
    "alpaca": ("all_assistant", "last_assistant", "all"),
    "sharegpt": ("all_assistant", "last_assistant", "all"),
}
TRACE_METRICS: dict[str, MetricName] = {  # arXiv:2310.06762, by the folder's name
    "C-STANCE": "raw_match", "FOMC": "raw_match", "NumGLUE-cm": "raw_match", "NumGLUE-ds": "raw_match",
    "ScienceQA": "first_character", "MeetingBank": "rouge_l", "Py150": "code_similarity", "20Minuten": "sari",
}  # fmt: skip
TRACE_PARITY: dict[str, MetricName] = {  # what TRACE's own code computes, by the metric that is usual here
    "raw_match": "trace_match", "first_character": "trace_first_character", "rouge_l": "trace_rouge_l",
    "code_similarity": "trace_edit_similarity", "sari": "trace_sari",
}  # fmt: skip


def of_answers(metrics: Iterable[str]) -> tuple[str, ...]:
    """Those of the metrics that need a generated answer."""
    return tuple(name for name in metrics if name not in OF_LOSS)


class GenerativeTask(TaskBase):
    """What every generative task has.

    `metrics` score its answers, the first one is the primary one. `decoding` says how these are generated; None is
    greedily. `chat_template` is a name of the tokenizer's own templates, `chatml`, or a file; None is the tokenizer's
    default. `system` is a system turn for conversations without one. At most a share `max_cut` of a split's answers may
    be cut by `max_length`. A row whose prompt alone fills it is refused or dropped; a prompt that is a string may also
    be cut, in its middle.
    """

    added: ClassVar[tuple[str, ...]] = ("training", "decoding")  # `max_length` was there from the beginning
    objective: ClassVar[str] = "generation"

    metrics: tuple[MetricName, ...] | None = None
    train_on: TrainOn | None = None
    chat_template: str | None = None
    system: str | None = None
    max_cut: Annotated[NonNegative, Field(le=1)] = 0.01
    too_long: Literal["refuse", "drop", "cut"] = "refuse"
    decoding: DecodingConfig | None = None

    @classmethod
    def in_place_of(cls, key: str, entry: Mapping[str, Any]) -> str:
        """What such a task has in place of a key of classification; empty if another key is wrong first."""
        return f"source {entry.get('source')} says what is asked and what is right; remove {key}"

    @model_validator(mode="before")
    @classmethod
    def _has_no_labels(cls, value: Any) -> Any:
        found = [key for key in OF_LABELS if isinstance(value, Mapping) and key in value]
        if found and (fix := cls.in_place_of(found[0], value)):
            raise ValueError(f"{found[0]} belongs to a classification task; {fix}")
        return value

    @field_validator("metrics")
    @classmethod
    def _some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) < len(value)):
            raise ValueError("name each metric once, and at least one, for instance [rouge_l, exact_match]")
        return value

    @model_validator(mode="after")
    def _trainable(self) -> "GenerativeTask":
        fit = TRAINABLE[self.form]
        if self.train_on and self.train_on not in fit:
            raise ValueError(f"train_on {self.train_on!r} does not fit rows of {self.form}; use {' or '.join(fit)}")
        answered = of_answers(self.scored_by)
        if self.form == "text" and answered:
            raise ValueError(f"metrics {answered[0]!r}: plain text has no answers; use nll or perplexity")
        if self.decoding and not answered:
            raise ValueError(
                f"decoding says how answers are generated, and metrics {self.scored_by[0]!r} needs none; remove it"
            )
        return self

    @property
    def form(self) -> Format:
        """The format of its rows."""
        return "prompt_completion"

    @property
    def trained_on(self) -> TrainOn:
        """`train_on`, or what is usual for the format."""
        return self.train_on or TRAINABLE[self.form][0]

    @property
    def scored_by(self) -> tuple[MetricName, ...]:
        """`metrics`, or what is usual for the source and the format."""
        return self.metrics or (("nll",) if self.form == "text" else ("rouge_l",))

    @property
    def by_loss(self) -> bool:
        """Whether its loss judges it: its primary metric is none of answers."""
        return self.scored_by[0] in OF_LOSS


class FormatTask(GenerativeTask):
    """Rows of one of the usual formats. `columns` says which of the data's columns stands for one of the format's."""

    format: Format
    columns: dict[str, str] = Field(default_factory=dict)

    @property
    def form(self) -> Format:
        """`format`."""
        return self.format

    @classmethod
    def in_place_of(cls, key: str, entry: Mapping[str, Any]) -> str:
        """See GenerativeTask."""
        columns = ", ".join(f"{column}: YOUR COLUMN" for column in REQUIRED.get(str(entry.get("format")), ()))
        return f"a task with `format` takes `columns: {{{columns}}}`; remove {key}, or format" if columns else ""

    @model_validator(mode="after")
    def _known_columns(self) -> "FormatTask":
        for name in self.columns:
            if name not in COLUMNS[self.format]:
                known = COLUMNS[self.format]
                raise ValueError(
                    f"columns {name!r} is none of the columns of {self.format}, which are {', '.join(known)}; write "
                    f"FORMAT'S COLUMN: YOUR COLUMN{did_you_mean(name, known)}"
                )
        return self


class GenerativeFilesTask(FilesData, FormatTask):
    """.jsonl, .json, .csv, .tsv or .parquet files, folders of them, patterns, `s3://bucket/key` of any of these, and
    lists of all of them. Text files may be compressed, as .jsonl.gz."""

    tag: ClassVar[str] = "files with format"
    added: ClassVar[tuple[str, ...]] = (*FormatTask.added, "test_share")

    source: Literal["files"]
    train: str | tuple[str, ...]
    test: str | tuple[str, ...] | None = None
    validation: str | tuple[str, ...] | None = None
    test_share: Share | None = None


class GenerativeHubTask(HubData, FormatTask):
    """Rows of a dataset."""

    tag: ClassVar[str] = "hub with format"
    added: ClassVar[tuple[str, ...]] = (*FormatTask.added, "test_share")


class GenerativeImportedTask(FormatTask):
    """A task that an adapter from elsewhere has learned, on rows that nobody named."""

    tag: ClassVar[str] = "imported with format"

    source: Literal["imported"]


class BenchmarkTask(GenerativeTask):
    """A task of a benchmark. `mode: parity` scores, and writes prompts, as the benchmark's own code does."""

    added: ClassVar[tuple[str, ...]] = (*GenerativeTask.added, "mode")

    mode: Literal["honest", "parity"] = "honest"


class SuperniTask(BenchmarkTask):
    """A task of Super-NaturalInstructions: `<data_dir>/<path>/{train,test}.json`, or one file `<data_dir>/<path>.json`
    whose rows are divided by the seed. `data_dir` overrides the run's. `positive_examples` of the file stand before the
    input."""

    added: ClassVar[tuple[str, ...]] = (*BenchmarkTask.added, "positive_examples")

    source: Literal["superni"]
    path: str
    data_dir: str | None = None
    positive_examples: Annotated[int, Field(ge=0, le=100)] = 0

    @property
    def scored_by(self) -> tuple[MetricName, ...]:
        """ROUGE-L with stemmer, unless `metrics` says otherwise."""
        return self.metrics or ("superni_rouge_l" if self.mode == "parity" else "rouge_l",)


class TraceTask(BenchmarkTask):
    """A task of TRACE: `<data_dir>/<path>/{train,eval,test}.json`. `data_dir` overrides the run's."""

    source: Literal["trace"]
    path: str
    data_dir: str | None = None

    @property
    def scored_by(self) -> tuple[MetricName, ...]:
        """The benchmark's metric for the folder of that name, unless `metrics` says otherwise."""
        usual = TRACE_METRICS.get(self.path.rstrip("/").rsplit("/", 1)[-1], "rouge_l")
        return self.metrics or (TRACE_PARITY[usual] if self.mode == "parity" else usual,)


class DocstringAnswersTask(GenerativeTask):
    """A built-in generative task, see `trainers.data.docstring_answers`."""

    tag: ClassVar[str] = "docstrings with answers"

    source: Literal["docstrings"]
    task: AnswerTask


AnyGenerative = (
    DocstringAnswersTask | GenerativeFilesTask | GenerativeHubTask | GenerativeImportedTask | SuperniTask | TraceTask
)


def kind_of(entry: Any) -> str | None:
    """Which kind of task an entry of `tasks` is, as a mapping or validated, by source and format. What is neither is
    left to some kind, which says that it should be a mapping."""
    if not isinstance(entry, Mapping | TaskBase):
        return "files"
    get = entry.get if isinstance(entry, Mapping) else lambda key: getattr(entry, key, None)
    source = get("source")
    if source == "docstrings" and get("task") in get_args(AnswerTask):
        return DocstringAnswersTask.tag
    if source in ("files", "hub", "imported") and get("format") is not None:
        return f"{source} with format"
    return source if source is None or isinstance(source, str) else str(source)


AnyTask = Annotated[
    Annotated[DocstringsTask, Tag("docstrings")]
    | Annotated[ClBenchmarkTask, Tag("cl_benchmark")]
    | Annotated[FilesTask, Tag("files")]
    | Annotated[HubTask, Tag("hub")]
    | Annotated[ImportedTask, Tag("imported")]
    | Annotated[DocstringAnswersTask, Tag(DocstringAnswersTask.tag)]
    | Annotated[GenerativeFilesTask, Tag(GenerativeFilesTask.tag)]
    | Annotated[GenerativeHubTask, Tag(GenerativeHubTask.tag)]
    | Annotated[GenerativeImportedTask, Tag(GenerativeImportedTask.tag)]
    | Annotated[SuperniTask, Tag("superni")]
    | Annotated[TraceTask, Tag("trace")],
    Discriminator(kind_of),
]
