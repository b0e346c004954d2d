"""Spools for tests: objects that need no DICOM package, a clock to turn, a disk whose power is cut."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

from edge.errors import InputError
from edge.spool import Disk, Kept, Spool, Watermarks


class Clock:
    """UNIX seconds that a test turns."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def content(uid: str, series: str = "1.2.3", text: str = "") -> bytes:
    """An object: not DICOM, but `read_identity` can read it."""
    return f"{uid}|9.9|{series}|{text}".encode()


def read_identity(path: Path) -> tuple[str, str, str]:
    uid, study, series, *_ = [*path.read_text().split("|"), "", "", ""]
    if uid == "damaged":
        raise InputError("cannot read it", "it is damaged", "")
    return uid, study, series


def open_spool(root: Path, clock: Clock | None = None, **how: Any) -> Spool:
    how = {"marks": Watermarks(0, 0), "identify": read_identity, **how}
    return Spool(root, clock=clock or Clock(), **how)


def send(spool: Spool, uid: str, data: bytes | None = None) -> Kept:
    """What a receiver does with one object, in two pieces."""
    arrival = spool.arrival(uid, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
    data = content(uid) if data is None else data
    try:
        arrival.write(data[:4])
        arrival.write(data[4:])
        return arrival.keep()
    finally:
        arrival.discard()


class PowerCut(BaseException):
    """The machine is off: nothing that comes after it happens."""


class CutDisk(Disk):
    """A disk whose power is cut before or after its `steps`-th step; what was not synced is then lost.

    Args:
        steps: how many steps still happen; None: the power stays on.
        after: the last step has happened, but nobody learns of it.
    """

    def __init__(self, steps: int | None, after: bool = False, seed: int = 0) -> None:
        self.left, self.after, self.random = steps, after, random.Random(seed)
        self.unsynced_files: set[Path] = set()
        self.unsynced_names: set[Path] = set()
        self.open: set[int] = set()

    def _step(self, happens: Any) -> Any:
        if self.left is None:
            return happens()
        self.left -= 1
        if self.left < 0 and not (self.after and self.left == -1):
            raise PowerCut
        result = happens()
        if self.left < 0:
            raise PowerCut
        return result

    def make_folder(self, path: Path) -> None:
        if not path.exists():
            self.unsynced_names.add(path)
        super().make_folder(path)

    def create(self, path: Path) -> int:
        def happens() -> int:
            self.unsynced_files.add(path)
            self.unsynced_names.add(path)
            fd = Disk.create(self, path)
            self.open.add(fd)
            return fd

        return int(self._step(happens))

    def write(self, fd: int, data: bytes | memoryview) -> None:
        self._step(lambda: Disk.write(self, fd, data))

    def sync(self, fd: int, path: Path) -> None:
        self._step(lambda: self.unsynced_files.discard(path))

    def sync_folder(self, path: Path) -> None:
        def happens() -> None:
            self.unsynced_names = {name for name in self.unsynced_names if name.parent != path}

        self._step(happens)

    def commit(self, database: sqlite3.Connection) -> None:
        self._step(lambda: Disk.commit(self, database))

    def remove(self, path: Path) -> None:
        self._step(lambda: Disk.remove(self, path))

    def outage(self) -> None:
        """Lose what was not synced: names at random, bytes from a random place on."""
        for path in sorted(self.unsynced_files):
            if path.is_file():
                os.truncate(path, self.random.randrange(path.stat().st_size + 1))
        for path in sorted(self.unsynced_names, reverse=True):
            if path.is_file() and self.random.random() < 0.7:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
