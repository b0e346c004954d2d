"""Units of work: formed of queued objects, leased, answered once."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.spool.ledger import Ledger
from edge.spool.records import Answer, Claim, LeaseLost, State, Stored

ANSWERS = (
    "SELECT answers.*, key, study, series, revision, state FROM answers"
    " JOIN units ON units.number = answers.unit WHERE answers.number > ? ORDER BY answers.number"
)
"""Rows for `answer`, of the answers after a number."""


SUSPECT = 2
"""So often a unit is left behind by its workers until it is looked at after all others."""


class Work:
    """The units of one spool; see `edge.spool.Spool` for what each method does."""

    def __init__(
        self, ledger: Ledger, objects: Path, clock: Callable[[], float], lease: float, attempts: int
    ) -> None:
        self._ledger, self._objects, self._clock = ledger, objects, clock
        self._lease, self._attempts = lease, attempts

    def again(self) -> Claim | None:
        """The oldest unit that a worker left behind once, or whose result is there."""
        return self._left_behind(f"(attempts < {SUSPECT} OR state = 'inferred')")

    def suspect(self) -> Claim | None:
        """The oldest unit that was left behind more often; one that was too often is quarantined.

        It comes after all others: it may be what kills workers. If it is not, it was only the first one after
        each start, and is now less likely to be there when a worker is killed for another reason.
        """
        return self._left_behind(f"attempts >= {SUSPECT} AND state = 'queued'")

    def _left_behind(self, which: str) -> Claim | None:
        with self._ledger.transaction() as db:
            while True:
                row = db.execute(
                    "SELECT number, attempts, state FROM units WHERE state IN ('queued', 'inferred')"
                    f" AND until <= ? AND {which} ORDER BY number LIMIT 1",
                    (self._clock(),),
                ).fetchone()
                if row is None:
                    return None
                if row["state"] == "inferred" or row["attempts"] < self._attempts:
                    claim = self._lease_out(db, row["number"])
                    if claim.objects:  # all of them may have been lost
                        return claim
                self._move(db, row["number"], State.QUARANTINED, f"given up after {row['attempts']} attempts")

    def series(self, quiet: float) -> Claim | None:
        now = self._clock()
        with self._ledger.transaction() as db:
            row = db.execute(
                "SELECT study, series FROM objects WHERE state = 'queued' AND unit IS NULL"
                " GROUP BY study, series"
                " HAVING MAX(received) <= ? OR MAX(received) > ?"  # from the future: the clock was set back
                " ORDER BY MIN(received) LIMIT 1",
                (now - quiet, now + quiet),
            ).fetchone()
            if row is None:
                return None
            place = (row["study"], row["series"])
            number = self._form(db, *place)
            fresh = "study = ? AND series = ? AND state = 'queued' AND unit IS NULL"
            db.execute(f"UPDATE objects SET unit = ? WHERE {fresh}", (number, *place))
            return self._lease_out(db, number)

    def object(self) -> Claim | None:
        with self._ledger.transaction() as db:
            row = db.execute(
                "SELECT name, study, series FROM objects WHERE state = 'queued' AND unit IS NULL"
                " ORDER BY received, rowid LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            number = self._form(db, row["study"], row["series"])
            db.execute("UPDATE objects SET unit = ? WHERE name = ?", (number, row["name"]))
            return self._lease_out(db, number)

    def renew(self, claim: Claim) -> None:
        with self._ledger.transaction() as db:
            number = self._held(db, claim)
            db.execute("UPDATE units SET until = ? WHERE number = ?", (self._clock() + self._lease, number))

    def release(self, claim: Claim, failed: bool) -> None:
        with self._ledger.transaction() as db:
            number = self._held(db, claim)
            free = "UPDATE units SET until = 0, token = '', attempts = attempts - ? WHERE number = ?"
            db.execute(free, (0 if failed else 1, number))

    def inferred(self, claim: Claim, result: bytes) -> None:
        with self._ledger.transaction() as db:
            number = self._held(db, claim)
            db.execute("UPDATE units SET result = ? WHERE number = ?", (result, number))
            self._move(db, number, State.INFERRED)

    def answered(self, claim: Claim, body: bytes) -> Answer:
        with self._ledger.transaction() as db:
            number = self._held(db, claim)
            given = db.execute("INSERT INTO answers (unit, body) VALUES (?, ?)", (number, body)).lastrowid
            self._move(db, number, State.ANSWERED)
        assert given is not None
        return Answer(given, claim.key, claim.study, claim.series, claim.revision, body, False)

    def confirmed(self, key: str) -> bool:
        with self._ledger.transaction() as db:
            row = db.execute("SELECT number, state FROM units WHERE key = ?", (key,)).fetchone()
            if row is None or row["state"] not in ("answered", "confirmed"):
                return False
            if row["state"] == "answered":
                self._move(db, row["number"], State.CONFIRMED)
            return True

    def quarantine(self, claim: Claim, reason: str) -> None:
        with self._ledger.transaction() as db:
            self._move(db, self._held(db, claim), State.QUARANTINED, reason)

    def set_aside(self, claim: Claim, name: str, reason: str) -> None:
        with self._ledger.transaction() as db:
            number = self._held(db, claim)
            aside = "UPDATE objects SET state = 'quarantined', reason = ?, changed = ?"
            db.execute(f"{aside} WHERE name = ? AND unit = ?", (reason, self._clock(), name, number))

    def retry(self, name: str) -> bool:
        again = "UPDATE objects SET state = 'received', reason = '', unit = NULL, changed = ? WHERE name = ?"
        try:
            with self._ledger.transaction() as db:
                values = (self._clock(), name)
                return db.execute(f"{again} AND state = 'quarantined' AND NOT purged", values).rowcount == 1
        except sqlite3.IntegrityError:  # another object with this UID is good
            return False

    def _form(self, db: sqlite3.Connection, study: str, series: str) -> int:
        """A new unit of a series, one revision after the last."""
        cursor = db.execute(
            "INSERT INTO units (key, study, series, revision, state, changed) VALUES (?, ?, ?, 1 +"
            " (SELECT COALESCE(MAX(revision), 0) FROM units WHERE study = ? AND series = ?), 'queued', ?)",
            (uuid.uuid4().hex, study, series, study, series, self._clock()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _lease_out(self, db: sqlite3.Connection, number: int) -> Claim:
        token, until = uuid.uuid4().hex, self._clock() + self._lease
        lease = "UPDATE units SET token = ?, until = ?, attempts = attempts + 1 WHERE number = ?"
        db.execute(lease, (token, until, number))
        unit = db.execute("SELECT * FROM units WHERE number = ?", (number,)).fetchone()
        same = "FROM objects WHERE study = ? AND series = ? AND state != 'quarantined' AND NOT purged"
        place = (unit["study"], unit["series"], number)
        order = "ORDER BY received, rowid"
        own = db.execute(f"SELECT * {same} AND unit = ? {order}", place).fetchall()
        earlier = db.execute(f"SELECT * {same} AND unit < ? {order}", place).fetchall()
        return Claim(
            unit["key"],
            unit["study"],
            unit["series"],
            unit["revision"],
            tuple(stored(row, self._objects) for row in own),
            tuple(stored(row, self._objects) for row in earlier),
            unit["result"],
            unit["attempts"],
            token,
            until,
        )

    def _held(self, db: sqlite3.Connection, claim: Claim) -> int:
        """The unit's number, while it is this worker's.

        A lease that ended but that nobody else took is still good: the work is the same.
        """
        query = "SELECT number FROM units WHERE key = ? AND token = ? AND state IN ('queued', 'inferred')"
        row = db.execute(query, (claim.key, claim.token)).fetchone()
        if row is None:
            why = "another worker has it, or it is done"
            raise LeaseLost(f"unit {claim.key} is not this worker's", why, "leave its result out")
        return int(row["number"])

    def _move(self, db: sqlite3.Connection, number: int, state: State, reason: str = "") -> None:
        now = self._clock()
        db.execute("UPDATE units SET state = ?, changed = ? WHERE number = ?", (state.value, now, number))
        if state is not State.INFERRED:  # it still has its worker
            db.execute("UPDATE units SET token = '', until = 0 WHERE number = ?", (number,))
        move = "UPDATE objects SET state = ?, reason = ?, changed = ? WHERE unit = ?"
        db.execute(f"{move} AND state != 'quarantined'", (state.value, reason, now, number))


def stored(row: sqlite3.Row, objects: Path) -> Stored:
    """A row of the table of objects."""
    same = ("name", "uid", "sop_class", "syntax", "study", "series", "size", "received", "reason")
    values: dict[str, Any] = {field: row[field] for field in same}
    return Stored(path=objects / row["name"], state=State(row["state"]), **values)


def answer(row: sqlite3.Row) -> Answer:
    """A row of the tables of answers and units."""
    same = ("number", "key", "study", "series", "revision", "body")
    values: dict[str, Any] = {field: row[field] for field in same}
    return Answer(confirmed=row["state"] == "confirmed", **values)
