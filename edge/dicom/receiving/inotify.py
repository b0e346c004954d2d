"""Linux's inotify: which files of watched folders were closed after writing, or moved in."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE = 0x008, 0x080, 0x100
IN_Q_OVERFLOW, IN_ISDIR, IN_ONLYDIR = 0x4000, 0x40000000, 0x01000000
"""Values of <sys/inotify.h>."""

EVENT = struct.Struct("iIII")
"""Watch, mask, cookie, and length of the name that follows."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in a watched folder.

    Attributes:
        path: of the file or folder; None: events were lost.
        closed: it was closed after writing, or moved there.
        folder: it is a folder that is new there.
    """

    path: Path | None
    closed: bool = False
    folder: bool = False


class Inotify:
    """Watches folders, each without those inside it.

    Raises:
        OSError: this system has no inotify, or allows no more of it.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("inotify is Linux's")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._folders: dict[int, Path] = {}
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def watch(self, folder: Path) -> None:
        """
        Raises:
            OSError: it is gone, or there are too many watches.
        """
        mask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_ONLYDIR
        watch = self._checked(self._libc.inotify_add_watch(self._fd, os.fsencode(folder), mask))
        self._folders[watch] = folder

    def wait(self, seconds: float) -> list[Event]:
        """What happened, once something has; nothing where nothing does in so many seconds."""
        if not self._poll.poll(1e3 * seconds):
            return []
        events: list[Event] = []
        data = os.read(self._fd, 1 << 16)
        place = 0
        while place < len(data):
            watch, mask, _, length = EVENT.unpack_from(data, place)
            name = data[place + EVENT.size : place + EVENT.size + length].rstrip(b"\0")
            place += EVENT.size + length
            folder = self._folders.get(watch)
            if mask & IN_Q_OVERFLOW:
                events.append(Event(None))
            elif folder is not None and name:
                closed = bool(mask & (IN_CLOSE_WRITE | IN_MOVED_TO))
                events.append(Event(folder / os.fsdecode(name), closed, bool(mask & IN_ISDIR)))
        return events

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
