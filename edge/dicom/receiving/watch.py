"""A folder that DICOM files are put into: what is whole is taken into the spool, and stays where it is, too.

A file is whole when its writer has closed it, or it was moved in, or it has not changed for a while, and its
pixels are all there. One that stays incomplete is taken after a longer while all the same: what is wrong with
it is then told where everything is that cannot be used, in the quarantine. Names of files may hold those of
patients: nothing is logged but the number of the inode (`find FOLDER -inum NUMBER`).
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.dicom.frames import ends_with_delimiter
from edge.dicom.header import UNDEFINED_LENGTH, read_header
from edge.dicom.part10 import is_dicom
from edge.dicom.receiving.inotify import Inotify
from edge.dicom.receiving.intake import take_in
from edge.dicom.receiving.taken import Taken
from edge.errors import InputError, RuntimeFault
from edge.spool import Spool

log = logging.getLogger("edge.dicom")

SCAN_S = 1.0
"""So often the folder is looked through where the system does not tell what happens in it."""
LOOK_S = 0.25
"""Longest uninterrupted wait."""
SCAN_ANYWAY_S = 60.0
"""The same where it does: other machines may write to a network drive."""
IMPATIENT = 15
"""So many times longer than a whole file has to rest, one that is not whole is waited for."""
AGAIN_S = 5.0
"""Pause after the spool or the folder failed."""

LATER = (sqlite3.Error, RuntimeFault, OSError)


@dataclass(slots=True)
class Newcomer:
    """A file that was not taken yet.

    Attributes:
        mark: its size and when it was changed.
        since: when it was first seen so, `time.monotonic()` seconds.
        due: when it is to be looked at.
    """

    mark: str
    since: float
    due: float


class FolderWatch:
    """Watches from the start until `close`.

    Args:
        settle: seconds that a file must not change, unless its writer is seen to be done with it.

    Raises:
        StoreError: the record of what was taken is damaged.
    """

    def __init__(self, spool: Spool, folder: Path, settle: float = 2.0) -> None:
        self._spool, self._folder, self._settle = spool, folder, settle
        self._taken = Taken(spool.root / "folder.db")
        self._new: dict[Path, Newcomer] = {}
        self._folders: set[Path] = set()
        self._ending = threading.Event()
        self._told = ""
        self._scanned = -SCAN_ANYWAY_S
        self._inotify = self._start_inotify()
        self._thread = threading.Thread(target=self._work, name="dicom-folder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take nothing more; a second call does nothing."""
        self._ending.set()
        self._thread.join()

    def _start_inotify(self) -> Inotify | None:
        try:
            return Inotify()
        except OSError:
            return None

    # ------------------------------------------------------------------ what is there

    def _work(self) -> None:
        try:
            while not self._ending.is_set():
                try:
                    self._look()
                except LATER as e:
                    self._tell(f"the watched folder has to wait: {_why(e)}")
                    self._folders.clear()
                    self._scanned = -SCAN_ANYWAY_S
                    self._ending.wait(AGAIN_S)
        finally:
            self._taken.close()
            if self._inotify:
                self._inotify.close()

    def _look(self) -> None:
        every = SCAN_ANYWAY_S if self._inotify else SCAN_S
        if time.monotonic() - self._scanned >= every:
            self._scanned = time.monotonic()
            self._scan()
        for path, newcomer in list(self._new.items()):
            if newcomer.due <= time.monotonic() and not self._ending.is_set():
                self._try(path)
        due = min((newcomer.due for newcomer in self._new.values()), default=math.inf)
        pause = min(max(due - time.monotonic(), 0.005), LOOK_S)
        if self._inotify is None:
            self._ending.wait(pause)
            return
        for event in self._inotify.wait(pause):
            if event.path is None or event.folder:
                self._scanned = -SCAN_ANYWAY_S
            else:
                self._see(event.path, event.closed)

    def _scan(self) -> None:
        """Look through the folder."""
        there: set[Path] = set()
        for folder, files in _walk(self._folder):
            if self._inotify and folder not in self._folders:
                self._watch(folder)
            for path in files:
                there.add(path)
                self._see(path)
        for path in self._new.keys() - there:
            del self._new[path]
        self._taken.keep(self._name(path) for path in there)

    def _watch(self, folder: Path) -> None:
        assert self._inotify is not None
        try:
            self._inotify.watch(folder)
            self._folders.add(folder)
        except FileNotFoundError:
            pass
        except OSError as e:
            log.warning("the watched folder is looked through every second: %s", e.strerror)
            self._inotify.close()
            self._inotify = None

    def _see(self, path: Path, closed: bool = False) -> None:
        """A file is there: a newcomer, unless it was taken as it is."""
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
            return
        mark = _mark_of(path)
        if mark is None or mark == self._taken.mark(self._name(path)):
            self._new.pop(path, None)
            return
        now, known = time.monotonic(), self._new.get(path)
        if known is None or known.mark != mark:
            known = self._new[path] = Newcomer(mark, now, now + self._settle)
        if closed:
            known.due = now

    # ------------------------------------------------------------------ what is taken

    def _try(self, path: Path) -> None:
        """Take a file if it is whole, or has been waited for long enough."""
        self._see(path)  # it may have changed, or be gone
        newcomer, now = self._new.get(path), time.monotonic()
        if newcomer is None or newcomer.due > now:
            return
        newcomer.due = now + self._settle
        if not is_whole(path) and now - newcomer.since < IMPATIENT * self._settle:
            return
        try:
            if self._take(path, newcomer.mark):
                self._taken.add(self._name(path), newcomer.mark)
                del self._new[path]
        except LATER as e:
            self._tell(f"a file of the watched folder has to wait: {_why(e)}")
            newcomer.due = now + AGAIN_S

    def _take(self, path: Path, mark: str) -> bool:
        """Copy a file that is DICOM; whether it need not be looked at any more."""
        with path.open("rb") as file:
            if not is_dicom(path):
                return True
            try:
                return take_in(self._spool, file, lambda: _mark_of(path) == mark) is not None
            except InputError as e:
                inode = os.fstat(file.fileno()).st_ino
                log.warning("the file of inode %d is left out: %s", inode, e.why or e.what)
                return True

    def _name(self, path: Path) -> str:
        return os.fsencode(path.relative_to(self._folder)).decode("utf-8", "backslashreplace")

    def _tell(self, what: str) -> None:
        """Once for each cause in a row."""
        if what != self._told:
            self._told = what
            log.warning("%s", what)


def is_whole(path: Path) -> bool:
    """Whether the file's pixels are all there; one that is not DICOM is what it is."""
    if not is_dicom(path):
        return True
    try:
        header = read_header(path)
        if not header.streamed or header.pixels.length != UNDEFINED_LENGTH:
            return True
        with path.open("rb") as file:
            return ends_with_delimiter(file, header.pixels.offset)
    except InputError:
        return False


def _walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Folders and their files; hidden folders are left out.

    Raises:
        OSError: the folder is not there.
    """
    os.stat(folder)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), [Path(place, name) for name in sorted(files)]


def _mark_of(path: Path) -> str | None:
    """Size and time of change; None where there is no such file, or nothing in it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_size} {found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) and found.st_size else None


def _why(error: Exception) -> str:
    """Without the name of a file."""
    return getattr(error, "strerror", None) or str(error)
