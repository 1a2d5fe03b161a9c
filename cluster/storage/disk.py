"""What a disk refuses, said with the place and what helps there; temporary folders, and the folder of state."""

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from cluster.errors import ConfigError, StoreError

STATE_VARIABLE = "ORTHOPLEX_STATE"
TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # as Python's tempfile reads them
USUAL, STDOUT = "/tmp", Path("/dev/fd/1")
FULL = {errno.ENOSPC, errno.EDQUOT}
FIXES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "raise the quota or delete something there",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.ENOENT: "make that folder",
    errno.ENOTDIR: "make that a folder",
    errno.EIO: "have the disk checked",
}
NOT_FIT = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}  # of a folder that somebody names
LITTLE_BYTES = 64 << 10  # a disk with less than this is full, even if the error does not say of which file it speaks


class DiskError(StoreError):
    """A disk refuses; `number` is the system's for it, if there is one."""

    number: int | None = None


class DiskFullError(DiskError):
    """A disk has no room left, or a quota is used up."""


def told(error: OSError) -> str:
    """The reason of an error, without the numbers and files that libraries put around it."""
    return os.strerror(error.errno) if error.errno in FIXES else str(error.strerror or error)


def of_system(error: Exception) -> OSError:
    """The error of the system that one of a library tells of, as safetensors in Rust's words: "… (os error 28)"."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), str(error)) if number else OSError(str(error))


def refusal(what: str, error: OSError, otherwise: str) -> DiskError:
    """The error for `what` that the disk refuses: its reason, then what helps there, or `otherwise`."""
    helps = [FIXES[error.errno]] if error.errno in FIXES else []
    made = (DiskFullError if error.errno in FULL else DiskError)(
        f"{what}: {told(error)}; {', or '.join([*helps, otherwise])}"
    )
    made.number = error.errno
    return made


@contextmanager
def writing(what: str, otherwise: str) -> Iterator[None]:
    """Errors of the disk that leave the block become StoreErrors: "cannot write {what}: no space left; free some there,
    or {otherwise}". Other OSErrors, as those of connections, stay."""
    try:
        yield
    except OSError as error:
        if error.errno not in FIXES:
            raise
        raise refusal(f"cannot write {what}", error, otherwise) from None


# ---------------------------------------------------------------- temporary folders


class TemporaryRefusedError(StoreError):
    """A disk refuses temporary files."""


class Temporary(tempfile.TemporaryDirectory[str]):
    """A new temporary folder, inside `below` or where Python puts them. That is $TMPDIR, unless it is absent or full:
    then Python passes over it, and takes another without a word. Here that is an error.

    Raises:
        ConfigError: $TMPDIR names no folder that this user can write to.
        TemporaryRefusedError: its disk refuses the folder, or what the block writes into it that it is used in.
    """

    def __init__(self, prefix: str, below: str | Path | None = None) -> None:
        self.place = str(below or temporary_place()[0])
        try:
            if below is None:
                check_named()
            super().__init__(prefix=prefix, dir=below or temporary_folder(), ignore_cleanup_errors=True)
        except OSError as error:
            refused = refused_temporary(error, self.place)
            raise (ConfigError(str(refused)) if error.errno in NOT_FIT else refused) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        refused = isinstance(error, OSError) and is_of(error, Path(self.name))  # before the disk has room again
        super().__exit__(kind, error, traceback)
        if refused and isinstance(error, OSError):
            raise refused_temporary(error, self.place) from None


def temporary_folder() -> str:
    """Where temporary files go."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # it tries this one, /var/tmp and more, and can write to none
        return USUAL


def temporary_place() -> tuple[str, str]:
    """How messages name the folder of temporary files, and its path: what the environment names, or where they go."""
    for variable in TEMPORARY:
        if value := os.environ.get(variable):
            return f"{variable}={value!r}", str(Path(value).absolute())
    return temporary_folder(), temporary_folder()


def check_named() -> None:
    """Raises OSError unless files can be put where the environment names a place for temporary ones."""
    place = temporary_place()[1]
    tempfile.TemporaryDirectory(prefix="orthoplex-", dir=place).cleanup()
    if is_full(Path(place)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)


def refused_temporary(error: OSError, place: str) -> TemporaryRefusedError:
    """The error for temporary files that the disk at a place refuses. It names this machine, which may be any node."""
    what = f"temporary files in {place} on {socket.gethostname()}"
    return TemporaryRefusedError(str(refusal(what, error, f"name another folder in {TEMPORARY[0]}")))


def is_of(error: OSError, folder: Path) -> bool:
    """Whether the disk under a folder refuses: the error names a file in it, or names none and the disk is full. So it
    is if the folder itself is gone; a file that is absent in it is another fault."""
    gone = error.errno == errno.ENOENT and not folder.exists()
    if error.errno not in FULL | {errno.EROFS, errno.EIO} and not gone:
        return False
    if isinstance(error.filename, str | bytes):
        return Path(os.fsdecode(error.filename)).absolute().is_relative_to(folder.absolute())
    return error.errno in FULL and is_full(folder)


def is_full(folder: Path) -> bool:
    """Whether the disk under a folder has next to no room left."""
    try:
        return shutil.disk_usage(folder).free < LITTLE_BYTES
    except OSError:
        return False


def unforeseen(error: OSError) -> DiskError | None:
    """The error for one of the disk that nobody has said the place of; None if it says something else.

    It names the file, if the system has, or the usual places that are full now.
    """
    if error.errno not in FULL and error.errno != errno.EROFS:
        return None
    return refusal(f"cannot write {unnamed(error)}", error, "use another disk")


def unnamed(error: OSError) -> str:
    """What an error speaks of, if it is one of the disk."""
    if error.filename:
        return os.fsdecode(error.filename)
    full = [what for what, folder in usual_places() if is_full(folder)]
    return f"a file; full now: {', '.join(full)}" if full else "a file; none of the usual places is full now"


def usual_places() -> Iterator[tuple[str, Path]]:
    """The folders that commands write to besides those that they are told, by what is in them."""
    if STDOUT.is_file():
        yield "standard output", STDOUT
    yield f"the current folder {Path().absolute()}", Path()
    named, place = temporary_place()
    yield f"temporary files in {named}", Path(place)
    with suppress(ConfigError):
        yield f"{state_folder()} ({STATE_VARIABLE})", state_folder()


# ---------------------------------------------------------------- what this machine keeps


def state_folder() -> Path:
    """The folder in which this machine keeps its memory of logs, the files that it has pulled, and prepared data.

    Raises ConfigError if nobody names one, and this user has no home.
    """
    if named := os.environ.get(STATE_VARIABLE):
        return Path(named)
    try:
        return Path.home() / ".cache" / "orthoplex"
    except RuntimeError:
        raise ConfigError(f"{STATE_VARIABLE}: this user has no home folder; name a folder there") from None
