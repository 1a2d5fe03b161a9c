"""Small disks that can be full or read-only: tmpfs mounts, since root may write to folders that nobody may."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

BLOCK_BYTES = 4096


@dataclass(frozen=True)
class Disk:
    """A disk of its own, mounted at `path`."""

    path: Path

    def fill(self) -> Path:
        """Writes a file until nothing more fits. Returns it: without it there is room again."""
        filler = self.path / ".filler"
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            with suppress(OSError):
                while os.write(descriptor, b"x" * BLOCK_BYTES):
                    pass
        finally:
            os.close(descriptor)
        return filler

    def free_bytes(self) -> int:
        """How much still fits."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def remount(self, how: str) -> None:
        """Makes it read-only (`ro`), or writable again (`rw`)."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.path], check=True)


@contextmanager
def small_disk(path: Path, kib: int) -> Iterator[Disk]:
    """A disk of so many KiB at a path, which is made."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", path]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user cannot mount a disk: {done.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)
