"""The spool's rows: one connection, one transaction at a time, arrivals committed in groups."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from edge.spool.arrival import Entry
from edge.spool.database import Database
from edge.spool.disk import Disk
from edge.spool.records import Kept, State

VERSION = 1

GONE = "its file is gone or has lost a part"
APART = "another object with the same SOP Instance UID and other content was here before"

SCHEMA = """
CREATE TABLE objects (
    name TEXT PRIMARY KEY, uid TEXT NOT NULL, sop_class TEXT NOT NULL, syntax TEXT NOT NULL,
    digest TEXT NOT NULL, size INTEGER NOT NULL, received REAL NOT NULL, changed REAL NOT NULL,
    state TEXT NOT NULL,
    study TEXT NOT NULL DEFAULT '', series TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    unit INTEGER REFERENCES units, purged INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX by_content ON objects (uid, digest);
CREATE UNIQUE INDEX one_good ON objects (uid) WHERE state != 'quarantined';
CREATE INDEX by_state ON objects (state, unit, received);
CREATE INDEX by_series ON objects (series);
CREATE INDEX by_unit ON objects (unit);
CREATE TABLE units (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL,
    revision INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    changed REAL NOT NULL, token TEXT NOT NULL DEFAULT '', until REAL NOT NULL DEFAULT 0, result BLOB);
CREATE INDEX units_by_state ON units (state, number);
CREATE INDEX units_by_series ON units (series);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, unit INTEGER UNIQUE NOT NULL REFERENCES units,
    body BLOB NOT NULL);
"""


@dataclass(slots=True, eq=False)
class _Ticket:
    """One arrival that waits for its commit."""

    entry: Entry
    received: float
    kept: Kept | None = None
    error: BaseException | None = None


class Ledger(Database):
    """`spool.db`.

    Args:
        objects: the folder that names of objects are relative to.
    """

    def __init__(self, path: Path, objects: Path, disk: Disk) -> None:
        self._objects = objects
        self._waiting: list[_Ticket] = []
        self._queue = threading.Lock()
        super().__init__(path, disk, SCHEMA, VERSION)

    def keep(self, entry: Entry, received: float) -> Kept:
        """Make an arrived object exist; its bytes are durable already.

        Whoever comes first commits for all who wait, so that the disk is asked once for many.

        Raises:
            OSError, sqlite3.Error: it does not exist.
        """
        ticket = _Ticket(entry, received)
        with self._queue:
            self._waiting.append(ticket)
        with self._lock:
            if ticket.kept is None and ticket.error is None:
                with self._queue:
                    batch, self._waiting = self._waiting, []
                self._commit(batch)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.kept is not None
        return ticket.kept

    def _commit(self, batch: list[_Ticket]) -> None:
        try:
            for folder in {(self._objects / ticket.entry.name).parent for ticket in batch}:
                self._disk.sync_folder(folder)
            with self.transaction() as db:
                outcomes = [_insert(db, ticket) for ticket in batch]
        except BaseException as e:
            for ticket in batch:
                ticket.error = e
            return
        for ticket, outcome in zip(batch, outcomes, strict=True):
            ticket.kept = outcome

    def exists(self, name: str) -> bool:
        """Whether an object has a row."""
        return bool(self.rows("SELECT 1 FROM objects WHERE name = ?", [name]))


def _insert(db: sqlite3.Connection, ticket: _Ticket) -> Kept:
    """A row for a new object, none for a known one; a quarantined one where its UID is another object's."""
    e = ticket.entry
    same = "SELECT 1 FROM objects WHERE uid = ? AND digest = ?"
    if db.execute(same, (e.uid, e.digest)).fetchone():
        return Kept.KNOWN
    other = "SELECT 1 FROM objects WHERE uid = ? AND state != 'quarantined'"
    apart = db.execute(other, (e.uid,)).fetchone() is not None
    state = State.QUARANTINED if apart else State.RECEIVED
    reason = APART if apart else ""
    db.execute(
        "INSERT INTO objects (name, uid, sop_class, syntax, digest, size, received, changed, state, reason)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (e.name, e.uid, e.sop_class, e.syntax, e.digest, e.size, *[ticket.received] * 2, state.value, reason),
    )
    return Kept.APART if apart else Kept.STORED
