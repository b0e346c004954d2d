"""The spool: takes objects in, hands them out as units of work, keeps what was found."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from edge.errors import InputError
from edge.spool import upkeep, work
from edge.spool.arrival import Arrival, Entry, check_room
from edge.spool.disk import Disk, Gauge, Watermarks, lock
from edge.spool.ledger import GONE, Ledger
from edge.spool.records import Answer, Claim, Kept, Retention, State, Stored

log = logging.getLogger(__name__)

INDEX_AT_ONCE = 256
"""Headers read in one go; so many rows are changed in one transaction."""

Identify = Callable[[Path], tuple[str, str, str]]
"""Reads SOP, Study and Series Instance UID from a file; raises InputError."""


def dicom_identity(path: Path) -> tuple[str, str, str]:
    from edge.dicom.identity import identify  # pydicom is optional

    return identify(path)


class Spool:
    """The spool in one folder. One process uses it at a time; its methods may be called from any thread.

    Args:
        root: made where it is absent, readable by its owner alone.
        marks: free space at which objects are refused and taken again.
        lease: seconds that a worker has for a unit of work before somebody else may take it.
        attempts: a unit of work that was taken up so often without an end is quarantined: it kills its
            workers. Not few, since a worker may be killed for other reasons, several times in a row.
        max_bytes: of one object.
        clock: UNIX seconds.

    Raises:
        StoreError: another process uses it, or it is damaged beyond use.
    """

    def __init__(
        self,
        root: Path,
        *,
        marks: Watermarks = Watermarks(),  # noqa: B008  # frozen
        lease: float = 300.0,
        attempts: int = 10,
        max_bytes: int = 16 << 30,
        clock: Callable[[], float] = time.time,
        identify: Identify = dicom_identity,
        disk: Disk | None = None,
    ) -> None:
        self.root, self._objects = root, root / "objects"
        self._disk, self._clock, self._identify = disk or Disk(), clock, identify
        self._max_bytes, self._indexing = max_bytes, threading.Lock()
        self._disk.make_folder(self._objects)
        self._fd = lock(root)
        try:
            self._gauge = Gauge(self._disk, root, marks)
            self._ledger = Ledger(root / "spool.db", self._objects, self._disk)
            self._work = work.Work(self._ledger, self._objects, clock, lease, attempts)
            upkeep.recover(self._ledger, self._objects, self._disk, clock())
        except BaseException:
            self.close()
            raise

    # Receiving

    def arrival(self, uid: str, sop_class: str, syntax: str) -> Arrival:
        """Begin to receive an object; see `Arrival`.

        Raises:
            SpoolFull: there is no room.
            OSError: nothing can be written.
        """
        check_room(self._gauge)
        folder = upkeep.folder_of(self._clock())
        if not (self._objects / folder).is_dir():
            self._disk.make_folder(self._objects / folder)
        name = f"{folder}/{uuid.uuid4().hex}.dcm"
        entry = Entry(name, uid, sop_class, syntax, "", 0)
        return Arrival(self._disk, self._gauge, self._objects / name, entry, self._keep, self._max_bytes)

    def _keep(self, entry: Entry) -> Kept:
        try:
            kept = self._ledger.keep(entry, self._clock())
        except (OSError, sqlite3.Error):
            if self._ledger.exists(entry.name):  # the disk failed after it had taken the row
                return Kept.STORED
            self._disk.remove(self._objects / entry.name)
            raise
        if kept is Kept.KNOWN:
            self._disk.remove(self._objects / entry.name)
        elif kept is Kept.APART:
            log.warning("%s has the SOP Instance UID of another object: quarantined", entry.name)
        return kept

    # Working

    def index(self) -> int:
        """Read the headers of what was received, which makes it queued; what cannot be read is quarantined.

        `claim_series` and `claim_object` do so first.

        Returns:
            How many objects were looked at.
        """
        total = 0
        with self._indexing:
            while received := self.objects(State.RECEIVED, INDEX_AT_ONCE):
                found = [self._place(item) for item in received]
                with self._ledger.transaction() as db:
                    for item, (study, series, reason) in zip(received, found, strict=True):
                        state = State.QUARANTINED if reason else State.QUEUED
                        db.execute(
                            "UPDATE objects SET study = ?, series = ?, state = ?, reason = ?, changed = ?"
                            " WHERE name = ? AND state = 'received'",
                            (study, series, state.value, reason, self._clock(), item.name),
                        )
                total += len(received)
        return total

    def _place(self, item: Stored) -> tuple[str, str, str]:
        """Study, series, and why it cannot be used."""
        try:
            uid, study, series = self._identify(item.path)
        except FileNotFoundError:
            return "", "", GONE
        except InputError as e:
            log.warning("%s quarantined: %s", item.name, e.why or e.what)
            return "", "", e.why or e.what
        if uid != item.uid:
            return study, series, "its SOP Instance UID is not the one it was sent under"
        return study, series, "" if series else "it has no Series Instance UID"

    def claim_series(self, quiet: float) -> Claim | None:
        """The oldest series that nothing was added to for `quiet` seconds, as a unit of work; None: not yet.

        What a worker left behind comes first, what was left behind more often last. Slices that come late
        make another unit, with the earlier ones in `Claim.earlier`.
        """
        self.index()
        return self._work.again() or self._work.series(quiet) or self._work.suspect()

    def claim_object(self) -> Claim | None:
        """The oldest queued object as a unit of work, without waiting for its series; None: there is none."""
        self.index()
        return self._work.again() or self._work.object() or self._work.suspect()

    def renew(self, claim: Claim) -> None:
        """Count the lease from now, before it ends.

        Raises:
            LeaseLost: it did.
        """
        self._work.renew(claim)

    def release(self, claim: Claim, failed: bool = False) -> None:
        """Give a unit of work back, as at an orderly end; it counts for no attempt unless it `failed`.

        Raises:
            LeaseLost: somebody else has it, or it is done.
        """
        self._work.release(claim, failed)

    def inferred(self, claim: Claim, result: bytes) -> None:
        """Keep the result: whoever takes the unit up after a crash finds it in `Claim.result`.

        Raises:
            LeaseLost: the lease ended and somebody else took it, or it is done.
        """
        self._work.inferred(claim, result)

    def answered(self, claim: Claim, body: bytes = b"") -> Answer:
        """The answer was given: state and answer in one transaction.

        Answers with a body are an outbox: a sink that writes from `answers(after=…)` writes each once.

        Raises:
            LeaseLost: somebody else has the unit of work, or it was answered before.
        """
        return self._work.answered(claim, body)

    def confirmed(self, key: str) -> bool:
        """The receiver of an answer has committed to it; False where there is no such answer."""
        return self._work.confirmed(key)

    def quarantine(self, claim: Claim, reason: str) -> None:
        """A unit of work cannot be done: its objects stand aside and block nothing.

        Args:
            reason: for people; without values of the header.

        Raises:
            LeaseLost: somebody else has it, or it is done.
        """
        self._work.quarantine(claim, reason)

    def set_aside(self, claim: Claim, name: str, reason: str) -> None:
        """Quarantine one object of a unit of work, which goes on without it.

        Args:
            reason: for people; without values of the header.

        Raises:
            LeaseLost: somebody else has the unit, or it is done.
        """
        self._work.set_aside(claim, name, reason)

    def retry(self, name: str) -> bool:
        """Take an object out of the quarantine, to be tried anew; False where it cannot be."""
        return self._work.retry(name)

    # Looking and tidying

    def objects(self, state: State | None = None, limit: int = -1) -> list[Stored]:
        """Objects in the order of arrival, those of one state or all."""
        where, values = ("WHERE state = ?", [state.value]) if state else ("", [])
        query = f"SELECT * FROM objects {where} ORDER BY received, rowid LIMIT ?"
        return [work.stored(row, self._objects) for row in self._ledger.rows(query, [*values, limit])]

    def answers(self, after: int = 0) -> list[Answer]:
        """Answers in the order they were given, from the one after `after`."""
        return [work.answer(row) for row in self._ledger.rows(work.ANSWERS, [after])]

    def counts(self) -> Counter[State]:
        """Objects by state."""
        rows = self._ledger.rows("SELECT state, COUNT(*) FROM objects GROUP BY state")
        return Counter({State(state): count for state, count in rows})

    def purge(self, retention: Retention) -> int:
        """Remove files that were kept long enough.

        Returns:
            How many were removed.
        """
        return upkeep.purge(self._ledger, self._objects, self._disk, self._clock(), retention)

    def close(self) -> None:
        """Leave the folder; a second call does nothing. What was leased is free again at the next start."""
        if hasattr(self, "_ledger"):
            self._ledger.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
