"""Files that sinks write for months: whole pieces, names with their time, and an end to the oldest."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from edge.errors import InputError

_STAMP = r"-\d{8}T\d{6}\.\d{3}Z(-\d+)?"


class Appended:
    """A file that grows by whole pieces, unbuffered: a piece that does not fit leaves nothing behind.

    Attributes:
        size: bytes that are in it.
        regular: it is a file, not a pipe or device.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o666)
        status = os.fstat(self.fd)
        self.size, self.regular = status.st_size, stat.S_ISREG(status.st_mode)
        self.changed: float = status.st_mtime
        self._id = (status.st_dev, status.st_ino)

    def write(self, piece: bytes | bytearray) -> None:
        """Append all of it.

        Raises:
            OSError: it does not fit; the file is as long as before.
        """
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[os.write(self.fd, rest) :]
        except OSError:
            if self.regular:
                os.truncate(self.fd, self.size)
            raise
        self.size += len(piece)

    def in_place(self) -> bool:
        """Whether it is still the file at its path: not removed, moved or replaced."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._id

    def overwrite(self, at: int, piece: bytes) -> None:
        """Replace bytes that are in it already."""
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags & ~os.O_APPEND)  # or Linux appends whatever the offset
        os.pwrite(self.fd, piece, at)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)

    def sync(self) -> None:
        """Onto the disk, so that it outlives a power cut. Pipes and most devices have none."""
        if self.regular:
            os.fsync(self.fd)

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if not self.closed:
            fd, self.fd = self.fd, -1
            os.close(fd)

    @property
    def closed(self) -> bool:
        return self.fd < 0


def stamped(path: Path, moment: float) -> Path:
    """A free name beside `path` that tells the moment, UNIX seconds: `out-20250131T235959.125Z.jsonl`.

    What was named in the same millisecond before sorts before it, too.
    """
    utc = datetime.fromtimestamp(moment, timezone.utc)
    named = path.with_stem(f"{path.stem}-{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03}Z")
    time, first = _age(named)
    number = max((n for t, n in map(_age, _stamped_beside(path)) if t == time), default=first - 1) + 1
    return free(named if number == first else named.with_stem(f"{named.stem}-{number}"))


def free(path: Path) -> Path:
    """`path`, or where something is there already, the same with a number."""
    stem, number = path.stem, 2
    while os.path.lexists(path):
        path, number = path.with_stem(f"{stem}-{number}"), number + 1
    return path


def prune(path: Path, keep: int) -> None:
    """Delete the oldest files that are called as `stamped(path, …)` calls them, all but `keep`."""
    files = sorted(_stamped_beside(path), key=_age)
    for old in files[: max(0, len(files) - keep)]:
        old.unlink(missing_ok=True)


def _stamped_beside(path: Path) -> Iterator[Path]:
    name = re.compile(re.escape(path.stem) + _STAMP + re.escape(path.suffix))
    return (file for file in path.parent.iterdir() if name.fullmatch(file.name))


def _age(path: Path) -> tuple[str, int]:
    """Sorts by time, and by number where the time is the same."""
    time, _, number = path.stem.rpartition("Z")
    return time, int(number[1:] or 1)


def check_writable(path: Path) -> None:
    """Fail before the run, not at its first result; leaves nothing behind but the folder.

    Raises:
        InputError: nothing can be written beside `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise InputError(f"cannot write {path}", e.strerror or str(e), "check the path and its rights") from e
