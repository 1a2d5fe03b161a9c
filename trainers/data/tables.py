"""Tasks of a text and a label column: local files, and what `datasets` finds on the hub or in a folder.

CSV, JSON and Parquet are read by `formats`, as they are written, wherever they come from. Of a dataset on the hub that
is in another form, or that says how its files are to be parsed, the rows are those that `datasets` gives.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import DataError
from cluster.temporary import temporary
from cluster.text_files import NotUtf8, check_regular
from trainers.data.files import data_files, joint_name
from trainers.data.formats import Columns, read
from trainers.data.sources import (
    HUB_FIX,
    REQUIRED,
    TEST_SHARE,
    ColumnsTask,
    FilesTask,
    HubData,
    HubTask,
    RawTask,
    Split,
    TaskBase,
    as_list,
    did_you_mean,
    form_of,
    listed,
    quiet,
)

if TYPE_CHECKING:
    from datasets import DatasetBuilder


def read_files(task: FilesTask) -> RawTask:
    """The configured files."""
    named = {"train": task.train, "validation": task.validation, "test": task.test}
    files = {key: data_files(task.name, key, as_list(given)) for key, given in named.items() if given}
    return table_task(task, {key: [read_file(task, *each) for each in found] for key, found in files.items()})


def read_file(task: FilesTask, path: Path, where: str) -> tuple[str, Columns]:
    """(name for errors, columns) of one file."""
    with as_data_error(task, where, "repair the file"):
        found = read(path, form_of(path) or "", wanted(task))
    if not found.rows and (found.values or not found.names):
        raise DataError(f"task {task.name}: {where} has no rows; add some")
    return where, found


def read_hub(task: HubTask) -> RawTask:
    """The configured splits: a hub id through the user's cache of `datasets`, a local folder always anew, also one that
    `save_to_disk` wrote."""
    import datasets

    tables = dict[str, list[tuple[str, Columns]]]()
    with quiet(datasets), temporary("data") as scratch:
        looked = Looked(task, wanted(task), scratch if task.is_folder else None)
        for key, (split, where) in task.splits.items():
            with as_data_error(task, where, HUB_FIX):
                saved = looked.saved_split(split)
                found = looked.dataset.columns(split) if saved is None else columns_of(saved, looked.names)
                tables[key] = [(where, found)]
        return table_task(task, tables)


def wanted(task: ColumnsTask) -> tuple[str, ...]:
    """The columns that a task names, each once."""
    return tuple(dict.fromkeys((task.text_column, task.label_column)))


def table_task(task: FilesTask | HubTask, tables: Mapping[str, Sequence[tuple[str, Columns]]]) -> RawTask:
    """Splits of (name for errors, columns) per file, by key; class indices become class names."""
    splits = {key: joined([labelled(task, *each) for each in files]) for key, files in tables.items()}
    named = (name for _, found in tables["train"] for name in found.classes.get(task.label_column, ()))
    words = task.labels or tuple(dict.fromkeys(named)) or None
    test = splits.get("test") or task.test_share or TEST_SHARE
    return RawTask(words, splits["train"], splits.get("validation"), test)


def labelled(task: ColumnsTask, where: str, found: Columns) -> Split:
    """The rows of one file. Raises DataError if the text or label column is absent."""
    check_columns(task, where, found)
    names = found.classes.get(task.label_column, ())
    labels = [class_name(value, names) for value in found.values[task.label_column]]
    return Split(where, found.values[task.text_column], labels)


def joined(splits: Sequence[Split]) -> Split:
    """The rows of several files as one split."""
    if len(splits) == 1:
        return splits[0]
    return Split(
        joint_name([each.where for each in splits]),
        [text for each in splits for text in each.texts],
        [label for each in splits for label in each.labels],
        tuple((each.where, len(each.texts)) for each in splits),
    )


def check_columns(task: ColumnsTask, where: str, found: Columns) -> None:
    """Raises DataError if the text or label column is absent."""
    for key, column in (("text_column", task.text_column), ("label_column", task.label_column)):
        if column not in found.values:
            hint = did_you_mean(column, found.names)
            fits = [form for form, needed in REQUIRED.items() if {*needed} <= {*found.names} and form != "text"]
            fix = f"set {key} to one of: {listed(found.names)}{hint}"
            if fits and not hint:
                fix = f"it has {listed(found.names)}, as rows of a generative task: name format: {fits[0]}"
            raise DataError(f"task {task.name}: {key} {column!r} is not a column of {where}; {fix}")


def class_name(value: Any, names: tuple[str, ...]) -> Any:
    """The name of a class index, which CSV holds as a string; any other value as it is."""
    if isinstance(value, str):
        index = -1 if value in names or not value.isdecimal() or len(value) > 9 else int(value)
    else:
        index = value if isinstance(value, int) else -1
    return names[index] if 0 <= index < len(names) else value


# ---------------------------------------------------------------- through `datasets`


@dataclass
class HubDataset:
    """A dataset as `datasets` finds it, and the columns of those of its splits that were read already."""

    task: HubData
    names: tuple[str, ...]  # of the columns that are read
    builder: "DatasetBuilder"
    cache: str | None
    form: str | None  # of the files that `formats` reads; None leaves them to `datasets`
    read: dict[str, Columns] = field(default_factory=dict)

    @classmethod
    def found(cls, task: HubData, names: tuple[str, ...], cache: str | None) -> "HubDataset":
        """Looks the dataset up; `cache` replaces the user's for a local folder."""
        from datasets import load_dataset_builder

        builder = load_dataset_builder(task.dataset, task.config_name, cache_dir=cache)
        form = plain_form(builder)
        return cls(task, names, builder, cache, None if form == "parquet" and cache is None else form)

    def columns(self, split: str) -> Columns:
        """The rows of a split, which may be put together of slices: `train[:80%]`, `train+validation`."""
        if self.form is None:
            return self.loaded(split)
        from datasets import ReadInstruction

        found = Columns()
        for part in ReadInstruction.from_spec(split).to_absolute(Sizes(self)):
            found.add(self.whole(part.splitname).slice(part.from_, part.to))
        return found

    def whole(self, name: str) -> Columns:
        """All rows of one split's files, downloaded if need be."""
        if name not in self.read:
            found, separator = Columns(), getattr(self.builder.config, "sep", None)
            for path in self.files(name):
                found.add(read(path, self.form or "", self.names, separator))
            found.classes |= named_classes(self.builder.info.features, found.values)
            self.read[name] = found
        return self.read[name]

    def files(self, name: str) -> list[Path]:
        """The files of one split, downloaded if need be."""
        from datasets import DownloadConfig, DownloadManager

        source = self.builder
        config = DownloadConfig(cache_dir=self.cache, token=source.token, storage_options=source.storage_options)
        manager = DownloadManager(source.dataset_name, download_config=config)
        fetched = manager.download_and_extract(list(source.config.data_files[name]))
        return [Path(path) for path in manager.iter_files(fetched)]

    def loaded(self, split: str) -> Columns:
        """The rows as `datasets` gives them; CSV as strings."""
        from datasets import load_dataset

        columns, options = list(self.names), {}
        if is_csv(self.builder):
            options = {"usecols": columns, "features": as_strings(self.builder, columns), "na_filter": False}
        task = self.task
        table: Any = load_dataset(task.dataset, task.config_name, split=split, cache_dir=self.cache, **options)
        return columns_of(table, columns)


@dataclass
class Looked:
    """A data set, of which these columns are read; it is looked up once for all of its splits. `cache` replaces the
    user's for a local folder."""

    task: HubData
    names: tuple[str, ...]
    cache: str | None

    @cached_property
    def dataset(self) -> HubDataset:
        """As `datasets` finds it."""
        return HubDataset.found(self.task, self.names, self.cache)

    @cached_property
    def saved(self) -> Mapping[str, Any] | None:
        """The splits of a folder that `save_to_disk` of `datasets` wrote; None if it is no such folder. Raises
        ValueError if a folder, of whichever kind, holds a pipe or a device."""
        from datasets import DatasetDict, load_from_disk

        folder = Path(self.task.dataset)
        for path in folder.rglob("*") if self.task.is_folder else ():
            if path.exists() and not path.is_dir():
                check_regular(path)
        if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return None
        saved: Any = load_from_disk(self.task.dataset)
        return saved if isinstance(saved, DatasetDict) else {"train": saved}

    def saved_split(self, split: str) -> Any:
        """A split of `saved`; None if there are none. Raises ValueError as `saved`, or if it is not among them."""
        if self.saved is not None and split not in self.saved:
            raise ValueError(f"the folder has the splits {listed(map(str, self.saved))}")
        return self.saved and self.saved[split]


def columns_of(table: Any, names: Sequence[str]) -> Columns:
    """Those columns of a table of `datasets` that it has, with the names of their classes."""
    there = [name for name in names if name in table.column_names]
    values = {name: table[name][:] for name in there}
    return Columns(tuple(table.column_names), values, named_classes(table.features, there))


class Sizes(Mapping[str, int]):
    """Rows per split. A split is read if it is asked for."""

    def __init__(self, dataset: HubDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, name: str) -> int:
        return self.dataset.whole(name).rows

    def __contains__(self, name: object) -> bool:
        return name in self.dataset.builder.config.data_files

    def __iter__(self) -> Iterator[str]:
        return iter(self.dataset.builder.config.data_files)

    def __len__(self) -> int:
        return len(self.dataset.builder.config.data_files)


def plain_form(builder: "DatasetBuilder") -> str | None:
    """The form of a dataset's files for `formats.read`. None if it is another, or if the dataset says how to parse them
    by more than the separator."""
    from datasets import BuilderConfig
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet

    forms = {Csv: "csv", Json: "json", Parquet: "parquet"}
    form = next((form for kind, form in forms.items() if isinstance(builder, kind)), None)
    if form is None:
        return None
    config = builder.config
    given = {each.name for each in fields(config)} - {each.name for each in fields(BuilderConfig)} - {"sep", "features"}
    usual = type(config)(name=config.name)
    return form if all(getattr(config, key) == getattr(usual, key) for key in given) else None


def is_csv(builder: "DatasetBuilder") -> bool:
    """Whether `datasets` parses CSV for this dataset."""
    from datasets.packaged_modules.csv.csv import Csv

    return isinstance(builder, Csv)


def as_strings(builder: "DatasetBuilder", columns: list[str]) -> Any:
    """Columns of strings, but for those that the dataset calls class indices."""
    from datasets import ClassLabel, Features, Value

    own = builder.info.features or {}
    return Features({name: own[name] if isinstance(own.get(name), ClassLabel) else Value("string") for name in columns})


def named_classes(features: Any, columns: Any) -> dict[str, tuple[str, ...]]:
    """The class names of those columns that hold class indices."""
    found = {name: getattr((features or {}).get(name), "names", None) for name in columns}
    return {name: tuple(names) for name, names in found.items() if names}


@contextmanager
def as_data_error(task: TaskBase, where: str, fix: str) -> Iterator[None]:
    """Turns whatever reading raises into one DataError without its traceback."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        fix = "save it as UTF-8" if isinstance(error, UnicodeDecodeError | NotUtf8) else fix
        raise DataError(f"task {task.name}: {where} cannot be read ({lines[0]}); {fix}") from None
