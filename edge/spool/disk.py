"""The steps whose order makes things durable, in one place: a test cuts the power between any two."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from edge.errors import StoreError


class Disk:
    """The file system and the database's commits as they are."""

    def make_folder(self, path: Path) -> None:
        """Make it with its parents; each is synced into the one above it."""
        missing = [path]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(folder.parent)

    def create(self, path: Path) -> int:
        """Open a new file for writing; nobody else may read it."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes | memoryview) -> None:
        """Append all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def sync(self, fd: int, path: Path) -> None:
        """The file's bytes outlive a power cut."""
        os.fsync(fd)

    def sync_folder(self, path: Path) -> None:
        """The names in the folder outlive a power cut."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def commit(self, database: sqlite3.Connection) -> None:
        """The open transaction outlives a power cut."""
        database.execute("COMMIT")

    def remove(self, path: Path) -> None:
        """Remove a file; one that is gone already is fine."""
        path.unlink(missing_ok=True)

    def free(self, path: Path) -> int:
        """Bytes that may still be written there."""
        return shutil.disk_usage(path).free


@dataclass(frozen=True, slots=True)
class Watermarks:
    """When objects are refused for want of space, and when they are taken again.

    Attributes:
        refuse_below: free bytes under which nothing more is taken.
        accept_above: free bytes from which objects are taken again; higher, so that it does not flutter.
    """

    refuse_below: int = 1 << 30
    accept_above: int = 5 << 28

    def __post_init__(self) -> None:
        if not 0 <= self.refuse_below <= self.accept_above:
            raise ValueError("watermarks: 0 ≤ refuse_below ≤ accept_above")


class Gauge:
    """Whether there is room, by watermarks that do not flutter."""

    def __init__(self, disk: Disk, folder: Path, marks: Watermarks) -> None:
        self._disk, self._folder, self._marks = disk, folder, marks
        self._refusing = False

    def room(self) -> bool:
        """Look now; costs one system call."""
        free = self._disk.free(self._folder)
        self._refusing = free < (self._marks.accept_above if self._refusing else self._marks.refuse_below)
        return not self._refusing


def lock(root: Path) -> int:
    """Only one process may use a folder: what its next start tidies must be nobody's.

    Raises:
        StoreError: another one does.
    """
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        os.close(fd)
        fix = "stop it, or name another folder"
        raise StoreError(f"cannot use {root}", "another process uses it", fix) from e
    return fd
