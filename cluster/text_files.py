"""Text files of others: regular files alone, unpacked whatever their names say, and UTF-8 or refused by line."""

import bz2
import gzip
import io
import lzma
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.words import brief

PATH_CHARS = 300  # of a path in a message
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # byte order marks


class NotUtf8(ValueError):
    """A text is not UTF-8; the message says where, and what it may be instead."""


def opened(path: Path) -> io.TextIOWrapper:
    """The text of a file, unpacked if it is compressed by gzip, bzip2, xz or Zstandard, whatever its name says.

    Raises:
        ValueError: it is no regular file, or no UTF-8 by its first bytes.
    """
    stream = unpacked(path)
    head = stream.peek(4)[:4]
    wide = WIDE.get(head[:2]) or ("UTF-16" if head[:2].count(0) == 1 else None)
    if head.startswith(b"PK\x03\x04") or wide:
        stream.close()
        raise ValueError(f"it is {wide}; save it as UTF-8" if wide else "it is a zip archive; unpack it")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def unpacked(path: Path) -> io.BufferedReader:
    """The bytes of a file, unpacked if it is compressed. Raises ValueError if it is no regular file."""
    check_regular(path)
    openers: dict[bytes, Callable[[Path], Any]] = {
        b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"\x28\xb5\x2f\xfd": zstandard,
    }  # fmt: skip
    with path.open("rb") as file:
        head = file.read(8)
    way = next((opener for magic, opener in openers.items() if head.startswith(magic)), None)
    return io.BufferedReader(way(path) if way else path.open("rb", buffering=0))


def check_regular(path: Path) -> None:
    """Raises ValueError for a pipe or a device, of which nobody knows when it ends."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file; give a file")


@contextmanager
def in_utf8(path: Path) -> Iterator[None]:
    """Says of a text file that is not UTF-8 in which line. Raises NotUtf8."""
    try:
        yield
    except UnicodeDecodeError:
        with closing(unpacked(path)) as lines:
            for number, line in enumerate(lines, start=1):
                with undecodable(f"line {number}"):
                    line.decode()
        raise NotUtf8("it is not UTF-8") from None


@contextmanager
def undecodable(place: str) -> Iterator[None]:
    """Names the place of a text that is not UTF-8. Raises NotUtf8."""
    try:
        yield
    except UnicodeDecodeError as error:
        said = f"{place}: byte {error.object[error.start]:#04x} is not UTF-8"
        with suppress(UnicodeDecodeError):
            said += f", and {error.object[error.start : error.start + 1].decode('cp1252')!r} in Windows-1252"
        raise NotUtf8(said) from None


def zstandard(path: Path) -> Any:
    """A file compressed by Zstandard."""
    import pyarrow as pa

    return pa.CompressedInputStream(str(path), "zstd")


def at_home(path: str | Path) -> Path:
    """The path with its `~` resolved; as it is if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def quoted(path: str | Path) -> str:
    """A path in quotation marks, as messages name it."""
    return brief(repr(str(path)), PATH_CHARS)
