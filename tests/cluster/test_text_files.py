"""Text files are unpacked, and refused by line if they are not UTF-8, or at once if they are no files."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cluster.text_files import NotUtf8, at_home, check_regular, in_utf8, opened, quoted

PACKERS: tuple[Callable[[bytes], bytes], ...] = (bytes, gzip.compress, bz2.compress, lzma.compress)


def text_of(path: Path) -> str:
    with in_utf8(path), closing(opened(path)) as file:
        return file.read()


@pytest.mark.parametrize("pack", PACKERS)
def test_texts_arrive_whatever_packs_them(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(pack("\ufeffü\r\nτ\n".encode()))
    assert text_of(path) == "ü\r\nτ\n"
    path.write_bytes(pack(b"good\n" * 9_000 + b"d\xe9j\xe0\n" + b"\x81\n"))
    with pytest.raises(NotUtf8, match=r"^line 9001: byte 0xe9 is not UTF-8, and 'é' in Windows-1252$"):
        text_of(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a\n\x81b", "line 2: byte 0x81 is not UTF-8$"),
        ("ab".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        ("ab".encode("utf-16-le"), "it is UTF-16"),
        (b"PK\x03\x04", "it is a zip archive; unpack it"),
        (b"a\nb\xc3", "line 2: byte 0xc3 is not UTF-8"),
    ],
)
def test_what_is_no_utf8(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        text_of(tmp_path / "x")


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for call in (check_regular, opened):
            with pytest.raises(ValueError, match="it is no regular file; give a file"):
                call(path)
    (tmp_path / "x").touch()
    check_regular(tmp_path / "x")


def test_homes_and_long_paths() -> None:
    assert at_home("~") == Path.home() and at_home("~nosuchuser/x") == Path("~nosuchuser/x")
    assert quoted("a b") == "'a b'" and len(quoted("x" * 5_000)) == 300
