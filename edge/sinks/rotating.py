"""A file of lines that is never left torn, and is put aside by size or by time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.sinks.files import Appended, prune, stamped


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a file of lines is kept.

    Attributes:
        append: go on with a file that is there instead of replacing it.
        rotate_bytes: it is put aside before it outgrows this; 0: never.
        rotate_s: it is put aside when this period of the clock, counted in UTC, is over; 0: never.
        keep: how many that were put aside are kept; 0: all.
        sync_s: seconds between calls of fsync while it is written, 0: with every flush; None: none.
        sync_aside: fsync when it is put aside or closed.
    """

    append: bool = False
    rotate_bytes: int = 0
    rotate_s: float = 0.0
    keep: int = 0
    sync_s: float | None = None
    sync_aside: bool = False

    @property
    def rotates(self) -> bool:
        return self.rotate_bytes > 0 or self.rotate_s > 0


class LinesFile:
    """Lines wait in memory until `flush`; what a full disk cuts off is taken back, so all of them are whole.

    All methods raise OSError.

    Args:
        clock: UNIX seconds.
    """

    def __init__(self, path: Path, keeping: Keeping, clock: Callable[[], float] = time.time) -> None:
        self.path, self.keeping, self._clock = path, keeping, clock
        self._lines = bytearray()
        self._unsynced, self._synced = False, time.monotonic()
        self._open(keeping.append)

    def add(self, line: bytes) -> None:
        """Append a line, which ends in a newline."""
        if self.keeping.rotates and self._is_due(len(line)):
            self.flush()
            self._put_aside()
        self._lines += line

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, bytearray()
            if self.file.regular and not self.file.in_place():
                self.reopen()
            self.file.write(lines)
            self._unsynced = True
        every = self.keeping.sync_s
        if self._unsynced and every is not None and time.monotonic() - self._synced >= every:
            self._sync()

    def close(self) -> None:
        try:
            self.flush()
            if self.keeping.sync_aside or self.keeping.sync_s is not None:
                self._sync()
        finally:
            self.file.close()

    def reopen(self) -> None:
        """Go on with the file at the path, whatever became of the one before."""
        self._lines.clear()
        self.file.close()
        self._open(append=True)

    def _open(self, append: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = Appended(self.path, 0 if append else os.O_TRUNC)
        started = self._clock()
        if self.file.regular and self.file.size:
            started = self.file.changed
            self._mend()
        self._period = self._period_of(started)

    def _mend(self) -> None:
        """End a line that was cut off when its writer died: the next one begins on its own."""
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                self.file.write(b"\n")

    def _is_due(self, more: int) -> bool:
        size, keeping = self.file.size + len(self._lines), self.keeping
        if not size:
            return False
        if keeping.rotate_bytes and size + more > keeping.rotate_bytes:
            return True
        return self._period_of(self._clock()) != self._period

    def _period_of(self, moment: float) -> int:
        return int(moment // self.keeping.rotate_s) if self.keeping.rotate_s else 0

    def _put_aside(self) -> None:
        """Rename the file, and begin another. Renaming is atomic: a reader finds all lines at any moment."""
        if self.keeping.sync_aside:
            self._sync()
        now = self._clock()
        os.rename(self.path, stamped(self.path, now))
        self.file.close()
        self._open(append=False)
        if self.keeping.keep:
            prune(self.path, self.keeping.keep)

    def _sync(self) -> None:
        self._unsynced, self._synced = False, time.monotonic()
        self.file.sync()
