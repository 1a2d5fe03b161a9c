"""Which files an entry of `tasks`, or an option of a command, names: paths, patterns, folders, and `s3://` of these."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from cluster.errors import DataError
from cluster.storage import open_store
from cluster.text_files import at_home, quoted
from trainers.data.sources import FORMS, form_of, lacking, listed

S3 = "s3://"
OF_PATTERNS = re.compile(r"[*?\[]")


def matching(name: str | Path) -> list[Path]:
    """What is at a path; if nothing is, what it matches as a pattern such as `new/*.csv`, in the order of names. As in
    shells, a star stands for no dot at the beginning of a name."""
    path = at_home(name)
    if path.exists():
        return [path]
    there = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    return there if path.name.startswith(".") else [each for each in there if not each.name.startswith(".")]


def data_files(task: str, key: str, names: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """The files that an entry names under a key, each once, in the order of the names; each with what messages call it.
    A folder stands for its data files.

    Raises:
        DataError: nothing is there, or a file is empty or no data file.
    """
    found = once(path for name in names for path in files_at(task, key, name))
    return [(path, f"{key} {str(path)!r}") for path in found]


def files_at(task: str, key: str, name: str | Path) -> list[Path]:
    """The files that one path or pattern names. Raises DataError as `data_files`."""
    try:
        there = matching(name) or [at_home(name)]
        found = [each for path in there for each in within(path)]
        empty = [each for each in found if lacking(each)]
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"task {task}: {key} {quoted(name)} cannot be read ({said}); correct the path under `{key}`"
        ) from None
    if not found:
        raise DataError(f"task {task}: {key} {str(name)!r} holds no file that ends in {', '.join(FORMS)}; add one")
    if empty:
        raise DataError(f"task {task}: {key} {quoted(empty[0])} {lacking(empty[0])}; correct the path under `{key}`")
    if other := next((each for each in found if form_of(each) is None), None):
        raise DataError(
            f"task {task}: {key} {str(other)!r} ends in {other.suffix!r}; use a folder, or one of {', '.join(FORMS)}"
        )
    return found


def within(path: Path) -> list[Path]:
    """The data files of a folder that are not hidden, in the order of their names; of anything else the path itself."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if form_of(each) and not each.name.startswith("."))


def once(paths: Iterable[Path]) -> list[Path]:
    """The paths, without those that are an earlier one, written otherwise."""
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.parent.resolve() / path.name, path)
    return [*first.values()]


def joint_name(names: Sequence[str]) -> str:
    """What messages call several files together."""
    return names[0] if len(names) == 1 else f"{names[0]} and {listed(names[1:])}"


# ---------------------------------------------------------------- object stores


def copied(uri: str, scratch: Path) -> list[Path]:
    """Copies of the data files that `s3://bucket/key` names: one object, those below a prefix, or those that match a
    pattern, in the order of their keys. Their paths end in bucket and key.

    Raises:
        StoreError: the bucket or an object cannot be read.
    """
    bucket, _, key = uri.removeprefix(S3).partition("/")
    store, copies = open_store(f"{S3}{bucket}"), list[Path]()
    for each in keys_at(key, store.list):
        copies.append(scratch / S3.rstrip("/") / bucket / each)
        copies[-1].parent.mkdir(parents=True, exist_ok=True)
        store.download(each, copies[-1])
    return copies


def keys_at(key: str, listed_at: Callable[[str], Sequence[str]]) -> list[str]:
    """The keys of data files that a key, a prefix or a pattern names; `listed_at` gives those that begin with a
    prefix. A star stands for no slash."""
    fixed = OF_PATTERNS.split(key)[0]
    if fixed != key:
        there = listed_at(fixed[: fixed.rfind("/") + 1])
        there = [each for each in there if each.count("/") == key.count("/") and PurePosixPath(each).match(key)]
    else:
        there = [key] if form_of(Path(key)) else listed_at(f"{key.rstrip('/')}/" if key else "")
    return [each for each in there if form_of(Path(each))]


def named(path: Path) -> str:
    """What messages call a file: its path, or the URI that it is a copy of."""
    _, copy, place = str(path).partition(f"/{S3.rstrip('/')}/")
    return f"{S3}{place}" if copy else str(path)
