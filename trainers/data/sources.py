"""Where a task's rows come from: the `tasks` entries of the configuration, and what reading them gives."""

import logging
import stat
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from cluster.resources import TaskResources
from cluster.schema import Frozen, Grown
from cluster.words import brief, nearest
from trainers.config import OwnTraining, Positive, Tokens
from trainers.data.docstrings import DocstringTask, docstring_rows

FORMS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}  # by a file's suffix
PACKED = (".gz", ".bz2", ".xz", ".zst")  # suffixes that may follow
TEST_SHARE = 0.1  # of the training rows, if no test rows are given
HUB_FIX = "check the id, config_name and split, or download it on a machine that has network access"
Share = Annotated[float, Field(gt=0, le=0.5)]
LISTED = 12  # how many names an error message lists
NO_ROWS = (  # of a task that was imported with its adapter
    "was imported without rows, and each task of a run is scored; name some of its rows: source: files, with train and "
    "test"
)
REQUIRED = {  # per format of a generative task, the columns that its rows must have
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
}
GENERATIVE_KEYS = (
    "columns", "train_on", "metrics", "chat_template", "system", "max_cut", "too_long", "decoding",
)  # fmt: skip


def generative_keys(entry: Mapping[str, Any], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """The keys of an entry that are, or are nearest to, keys of generative tasks, with what they mean; those written
    right come first. `known` are the keys of the entry's own kind."""
    yield from ((key, key) for key in GENERATIVE_KEYS if key in entry)
    for key in map(str, entry):
        meant = None if key in (*known, *GENERATIVE_KEYS) else nearest(key, [*known, *GENERATIVE_KEYS, "format"], 0.7)
        if meant in GENERATIVE_KEYS:
            yield key, meant


class TaskBase(Grown):
    """What every task has.

    The row limits override those of the `data` section, `training` overrides `train`, `max_length` overrides that of
    the `model` section, and `resources` override the `cluster` section. `instruction` overrides the benchmark's in a
    prompt. `objective` says what tasks of this source are trained on and judged by,
    see `trainers.objectives.known`.
    """

    added: ClassVar[tuple[str, ...]] = ("max_length", "training")
    objective: ClassVar[str] = "classification"

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    instruction: str | None = None
    max_train_rows: Positive | None = None
    max_test_rows: Positive | None = None
    resources: TaskResources | None = None
    max_length: Tokens | None = None
    training: OwnTraining | None = None

    @model_validator(mode="before")
    @classmethod
    def _train_is_the_file(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("train"), Mapping):
            raise ValueError("train is a file; what a task has in place of the run's `train` stands under `training`")
        return value

    @field_validator("training")
    @classmethod
    def _empty_is_none(cls, value: OwnTraining | None) -> OwnTraining | None:
        return value if value and value.given else None


class LabelledTask(TaskBase):
    """A task whose rows have one label each.

    `classes` names those of its labels that the task takes, in order; rows of the others are left out before anything
    is split or limited. Null takes all.
    """

    added: ClassVar[tuple[str, ...]] = (*TaskBase.added, "classes")

    classes: tuple[str, ...] | None = None

    @field_validator("classes")
    @classmethod
    def _some(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        words = None if value is None else tuple(word.strip() for word in value)
        if words is not None and (len(words) < 2 or len(set(words)) < len(words) or not all(words)):
            raise ValueError(f"name at least two of the task's labels, each once; it has [{listed(map(repr, words))}]")
        return words


class DocstringsTask(LabelledTask):
    """A built-in task over the docstrings of installed libraries; see `trainers.data.docstrings`."""

    source: Literal["docstrings"]
    task: DocstringTask


class ClBenchmarkTask(LabelledTask):
    """A dataset of a CL_Benchmark checkout: `<data_dir>/<category>/<dataset>/{train,test,labels}.json`.

    `dataset` is `<category>/<dataset>`. A dev.json is ignored: in the original it is the test file.
    """

    source: Literal["cl_benchmark"]
    dataset: str


class ColumnsTask(LabelledTask):
    """A table with a text and a label column. `labels` gives the label words in order.

    If no label is a number, whole-number values of the label column are indices into `labels`.
    """

    text_column: str = "text"
    label_column: str = "label"
    labels: tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _classifies(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and (named := list(generative_keys(value, cls.model_fields))):
            unknown = [key for key in value if key not in cls.model_fields]
            misspelt = nearest("format", set(unknown) - set(GENERATIVE_KEYS), cutoff=0.6)
            fix = (
                f"{misspelt!r} is unknown: did you mean 'format'?"
                if misspelt
                else f"name the format of its rows, one of {', '.join(REQUIRED)}, or remove {named[0][0]}"
            )
            key, meant = named[0]
            found = f"{key} belongs" if key == meant else f"{key!r} is unknown: did you mean {meant!r}? It belongs"
            raise ValueError(f"{found} to a generative task; {fix}")
        return value


class FilesData(Frozen):
    """What is asked of the keys `train`, `test` and `validation`, which name files. Without `test`, a `test_share` of
    the training rows are the test set."""

    @model_validator(mode="before")
    @classmethod
    def _tested(cls, value: Any) -> Any:
        return with_test_share(value, "test")

    @field_validator("train", "test", "validation", mode="before", check_fields=False)
    @classmethod
    def _known_suffix(cls, value: Any) -> Any:
        return check_named(value)


class FilesTask(FilesData, ColumnsTask):
    """Local .jsonl, .json, .csv, .tsv or .parquet files, folders of them, patterns, and lists of these, read anew each
    time. Text files may be compressed, as .jsonl.gz."""

    added: ClassVar[tuple[str, ...]] = (*ColumnsTask.added, "test_share")

    source: Literal["files"]
    train: Path | tuple[Path, ...]
    test: Path | tuple[Path, ...] | None = None
    validation: Path | tuple[Path, ...] | None = None
    test_share: Share | None = None


class HubData(Frozen):
    """Any id that `datasets.load_dataset` takes: a Hugging Face hub id, or a local dataset folder; also a folder that
    `save_to_disk` wrote. Without `test_split`, a `test_share` of the training rows are the test set."""

    source: Literal["hub"]
    dataset: str
    config_name: str | None = None
    train_split: str = "train"
    test_split: str | None = "test"
    validation_split: str | None = None
    test_share: Share | None = None

    @model_validator(mode="before")
    @classmethod
    def _tested(cls, value: Any) -> Any:
        return with_test_share(value, "test_split", cls.default_of("test_split"))

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder here, which is read anew each time."""
        return Path(self.dataset).is_dir()

    @property
    def splits(self) -> dict[str, tuple[str, str]]:
        """Per split that there is, its name in the dataset and what messages call it."""
        named = {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}
        return {key: (name, f"{key}_split {name!r} of dataset {self.dataset!r}") for key, name in named.items() if name}


class HubTask(HubData, ColumnsTask):
    """A table of a dataset."""

    added: ClassVar[tuple[str, ...]] = (*ColumnsTask.added, "test_share")


class ImportedTask(ColumnsTask):
    """A task that an adapter from elsewhere has learned, on rows that nobody named; see `NO_ROWS`."""

    source: Literal["imported"]

    @model_validator(mode="after")
    def _has_labels(self) -> "ImportedTask":
        if self.labels is None:
            raise ValueError("labels: name the label words in order; there are no rows to find them in")
        return self


TaskConfig = Annotated[
    DocstringsTask | ClBenchmarkTask | FilesTask | HubTask | ImportedTask, Field(discriminator="source")
]


@dataclass(frozen=True)
class Split:
    """Rows as read: `texts` and `labels` of equal length, of any type; `where` names them in error messages. Of rows of
    several files, `parts` are what messages call each file, and how many rows it has."""

    where: str
    texts: Sequence[Any]
    labels: Sequence[Any]
    parts: tuple[tuple[str, int], ...] = ()

    def place(self, number: int) -> str:
        """What messages call a row; `number` counts all rows from 1."""
        for where, rows in self.parts:
            if number <= rows:
                return f"{where} row {number}"
            number -= rows
        return f"{self.where} row {number}"


@dataclass(frozen=True)
class RawTask:
    """The splits of one task; `labels` is None if they are to be taken from the training rows. `test` may be a share of
    these in place of rows."""

    labels: tuple[str, ...] | None
    train: Split
    validation: Split | None
    test: Split | float


def as_list(given: Any) -> list[Any]:
    """What a key of an entry names, as a list; nothing for null."""
    if given is None:
        return []
    return [*given] if isinstance(given, list | tuple) else [given]


def check_named(given: Any) -> Any:
    """The value of a key that names files. Raises ValueError if it names none, or one whose end is not known."""
    if given is not None and not as_list(given):
        raise ValueError("is an empty list; give the path of a file or folder")
    if other := [name for name in as_list(given) if not isinstance(name, str | Path)]:
        raise ValueError(f"{shown(other[0])}: should be a path, or a list of paths")
    for name in map(str, as_list(given)):
        suffix = Path(name).suffix
        if not name.strip():
            raise ValueError("is empty; give the path of a file or folder")
        if form_of(Path(name)) is None and suffix.lstrip(".").isalnum() and not suffix[1:].isdigit():
            raise ValueError(f"{name!r} ends in {suffix!r}; use a folder, or one of {', '.join(FORMS)}")
    return given


def with_test_share(entry: Any, key: str, usual: str | None = None) -> Any:
    """An entry whose test rows are named by `key`, or by `usual`, or else are a share of the training rows.

    Raises:
        ValueError: both are given.
    """
    if not isinstance(entry, Mapping):
        return entry
    share = entry.get("test_share")
    named = entry.get(key, usual if share is None else None)
    if named is None:
        return {**entry, key: None, "test_share": TEST_SHARE if share is None else share}
    if share is not None:
        raise ValueError(f"test_share takes test rows from the training rows, and {key} names others; remove one")
    return entry


def form_of(path: Path) -> str | None:
    """The form of a file by its name, see `formats.read`; None if it is unknown."""
    plain = path.with_suffix("") if path.suffix in PACKED else path
    form = FORMS.get(plain.suffix)
    return None if form == "parquet" and plain != path else form


def suffix_of(path: Path) -> str:
    """The end of a file's name that tells its form, `.jsonl.gz` for instance."""
    return "".join(path.suffixes[-2:]) if path.suffix in PACKED else path.suffix


def did_you_mean(value: object, options: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the option closest to `value`, whole or after its last slash, in any case.

    Empty if no option is close.
    """
    known = {form.casefold(): option for option in options for form in (option.rsplit("/", 1)[-1], option)}
    near = nearest(str(value).casefold(), known, cutoff=0.6)
    return f"; did you mean {known[near]!r}?" if near else ""


def listed(options: Iterable[str]) -> str:
    """The options as one comma-separated string, cut after the first dozen."""
    names = list(options)
    return ", ".join(names[:LISTED]) + (f", … ({len(names)} in all)" if len(names) > LISTED else "")


def absent(path: Path) -> str:
    """What messages say of a path at which there is nothing, with the folder that a relative one starts at."""
    if str(path).startswith("~"):
        return "starts in a home folder that does not exist"
    return "does not exist" + ("" if path.is_absolute() else f" in {str(Path.cwd())!r}, where relative paths start")


def lacking(path: Path) -> str | None:
    """What messages say of a path at which there is no file with bytes in it; None if there is one."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return absent(path)
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISREG(found.st_mode):
        return "is a folder" if stat.S_ISDIR(found.st_mode) else "is no regular file, but a pipe or a device"
    return None if found.st_size else "is empty"


def shown(value: object) -> str:
    """repr of a value, at most 60 characters."""
    return brief(repr(value), 60)


def read_docstrings(task: DocstringsTask, seed: int) -> RawTask:
    """The built-in task; selection and split are drawn by `seed`."""
    labels, train, test = docstring_rows(task.task, seed)
    splits = [
        Split(f"{key} rows of docstrings/{task.task}", [text for text, _ in rows], [label for _, label in rows])
        for key, rows in (("train", train), ("test", test))
    ]
    return RawTask(labels, splits[0], None, splits[1])


# ---------------------------------------------------------------- through `datasets`


@contextmanager
def quiet(*modules: Any) -> Iterator[None]:
    """Silences logs and warnings of `datasets` and `huggingface_hub` within the block, what tokenizers say of long
    texts, and progress bars of the hub and of `modules`, which may be `datasets`: its import takes a second."""
    import huggingface_hub.utils as hub

    bars: list[tuple[Callable[[], None], Callable[[], None]]] = [
        (module.disable_progress_bars, module.enable_progress_bars)
        for module in (*modules, hub)
        if not module.are_progress_bars_disabled()
    ]
    names = ("datasets", "huggingface_hub", "transformers.tokenization_utils_base")
    loggers = {name: logging.getLogger(name) for name in names}
    levels = {name: logger.level for name, logger in loggers.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for disable, _ in bars:
                disable()
            for logger in loggers.values():
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for _, enable in bars:
                enable()
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
