"""An object on its way into the spool: streamed to disk, durable before it is acknowledged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import RuntimeFault
from edge.spool.disk import Disk, Gauge
from edge.spool.records import Kept

CHECK_BYTES = 8 << 20
"""After so many bytes of one object the free space is looked at again."""


class SpoolFull(RuntimeFault):
    """There is no room. The sender may try again later (0xA700, PS3.4 B.2.3)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object whose bytes are durable; its folder and its row are not yet."""

    name: str
    uid: str
    sop_class: str
    syntax: str
    digest: str
    size: int


class Arrival:
    """One object being received; made by `Spool.arrival`. Used by one thread at a time.

    Whatever happens, it ends with `keep` or `discard`; a process that dies before leaves a file that the next
    start removes.
    """

    def __init__(
        self, disk: Disk, gauge: Gauge, path: Path, entry: Entry, keep: Callable[[Entry], Kept], limit: int
    ) -> None:
        self._disk, self._gauge, self._path, self._keep, self._limit = disk, gauge, path, keep, limit
        self._entry = entry
        self._digest = hashlib.sha256(entry.syntax.encode())
        self._size = self._checked = 0
        self._fd = disk.create(path)

    @property
    def name(self) -> str:
        """The object's name in the spool, for logs."""
        return self._entry.name

    def head(self, data: bytes) -> None:
        """Append what is ours and not the sender's (preamble and file meta information): it counts for no
        comparison."""
        self._append(data)

    def write(self, data: bytes | memoryview) -> None:
        """Append a piece of the data set as it was sent.

        Raises:
            SpoolFull: the disk has no room left for it, or the object is larger than allowed.
            OSError: it cannot be written.
        """
        self._digest.update(data)
        self._append(data)

    def _append(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise SpoolFull("object refused", f"it is larger than {self._limit} bytes", "raise the limit")
        if self._size - self._checked > CHECK_BYTES:
            self._checked = self._size
            check_room(self._gauge)
        self._disk.write(self._fd, data)

    def keep(self) -> Kept:
        """Make it durable. When this returns, the object may be acknowledged.

        Raises:
            OSError, sqlite3.Error: it could not be made durable; nothing is left of it.
        """
        try:
            self._disk.sync(self._fd, self._path)
        except OSError:
            self.discard()
            raise
        self._close()
        e, digest = self._entry, self._digest.hexdigest()
        return self._keep(Entry(e.name, e.uid, e.sop_class, e.syntax, digest, self._size))

    def discard(self) -> None:
        """Leave nothing of it; a second call does nothing."""
        if self._fd >= 0:
            self._close()
            with suppress(OSError):
                self._disk.remove(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)


def check_room(gauge: Gauge) -> None:
    """Raises:
    SpoolFull: the free space is below the watermark.
    """
    if not gauge.room():
        raise SpoolFull("object refused", "the spool's disk is almost full", "free space, or purge sooner")
