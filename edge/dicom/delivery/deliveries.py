"""The outbox's rows: which object goes to which archive, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edge.dicom.delivery.carrier import Parcel, Report
from edge.dicom.delivery.records import Delivery, Entry, News, State
from edge.spool.database import Database
from edge.spool.disk import Disk

VERSION = 1

SCHEMA = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, told TEXT NOT NULL DEFAULT '', open INTEGER NOT NULL DEFAULT 1,
    changed REAL NOT NULL);
CREATE INDEX open_answers ON answers (open);
CREATE TABLE objects (
    uid TEXT PRIMARY KEY, key TEXT NOT NULL REFERENCES answers, kind TEXT NOT NULL, sop_class TEXT NOT NULL,
    syntax TEXT NOT NULL, name TEXT NOT NULL, purged INTEGER NOT NULL DEFAULT 0);
CREATE INDEX objects_by_key ON objects (key);
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY, uid TEXT NOT NULL REFERENCES objects, destination TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, changed REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '', commits INTEGER NOT NULL, fallback INTEGER NOT NULL,
    asked INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, request TEXT NOT NULL DEFAULT '',
    UNIQUE (uid, destination));
CREATE INDEX deliveries_by_due ON deliveries (destination, state, due);
CREATE TABLE requests (transaction_uid TEXT PRIMARY KEY, destination TEXT NOT NULL, asked REAL NOT NULL);
"""


class Deliveries(Database):
    """`outbox.db`.

    Args:
        objects: the folder that names of objects are relative to.
        clock: UNIX seconds.
    """

    def __init__(self, path: Path, objects: Path, disk: Disk, clock: Callable[[], float]) -> None:
        self._objects, self._clock = objects, clock
        super().__init__(path, disk, SCHEMA, VERSION)

    def put(self, key: str, entries: Iterable[Entry]) -> None:
        """New rows for what has none yet."""
        now = self._clock()
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO answers (key, changed) VALUES (?, ?)", (key, now))
            for e in entries:
                values = (e.uid, key, e.kind, e.sop_class, e.syntax, e.name)
                columns = "(uid, key, kind, sop_class, syntax, name)"
                db.execute(f"INSERT OR IGNORE INTO objects {columns} VALUES (?, ?, ?, ?, ?, ?)", values)
                for name, state in e.to.items():
                    db.execute(
                        "INSERT OR IGNORE INTO deliveries (uid, destination, state, due, changed, commits,"
                        " fallback) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (e.uid, name, state.value, now, now, name in e.commits, state is State.SPARE),
                    )

    def known(self, uid: str) -> bool:
        """Whether there is such an object, or was."""
        return bool(self.rows("SELECT 1 FROM objects WHERE uid = ?", [uid]))

    # Sending

    def waiting(self, destination: str, limit: int) -> list[Parcel]:
        """What is due, the longest due first."""
        where = "destination = ? AND state = 'waiting' AND due <= ? ORDER BY due, number LIMIT ?"
        return self._parcels(where, [destination, self._clock(), limit])

    def stored(self, destination: str, uid: str, warning: str) -> None:
        now = self._clock()
        change = "state = 'sent', attempts = attempts + 1, reason = ?, changed = ?, due = ?, request = ''"
        self._change(change, [warning, now, now], destination, [uid])

    def later(
        self, destination: str, uids: Sequence[str], due: float | None, reason: str, attempts: int
    ) -> None:
        """They were tried once more.

        Args:
            due: of the next attempt; None: they keep their place in the queue.
            attempts: after so many they are given up, if it is not 0.
        """
        state = "state = CASE WHEN ? > 0 AND attempts + 1 >= ? THEN 'given up' ELSE 'waiting' END"
        change = f"{state}, attempts = attempts + 1, due = COALESCE(?, due), reason = ?, changed = ?"
        self._change(change, [attempts, attempts, due, reason, self._clock()], destination, uids)

    def refused(self, destination: str, uid: str, reason: str) -> str:
        """It is never tried again; what is spare of the same answer goes out instead.

        Returns:
            The kinds that do, as `SC`; empty where there are none.
        """
        now = self._clock()
        same = """destination = ? AND fallback AND uid != ? AND state != 'given up' AND uid IN
            (SELECT uid FROM objects WHERE key = (SELECT key FROM objects WHERE uid = ?))"""
        values = (destination, uid, uid)
        kinds = f"SELECT DISTINCT kind FROM deliveries JOIN objects USING (uid) WHERE {same}"
        own = "destination = ? AND uid = ?"
        with self.transaction() as db:
            spare = db.execute(f"SELECT fallback FROM deliveries WHERE {own}", (destination, uid)).fetchone()[
                0
            ]
            instead = "" if spare else ", ".join(row[0].upper() for row in db.execute(kinds, values))
            if instead:
                free = f"UPDATE deliveries SET state = 'waiting', due = ?, changed = ? WHERE {same}"
                db.execute(f"{free} AND state = 'spare'", (now, now, *values))
                reason = f"{reason}; {instead} instead"
            state = State.REPLACED if instead else State.GIVEN_UP
            change = "state = ?, attempts = attempts + 1, reason = ?, changed = ?"
            last = (state.value, reason, now, destination, uid)
            db.execute(f"UPDATE deliveries SET {change} WHERE {own}", last)
        return instead

    def attempts(self, destination: str, uid: str) -> int:
        """How often it was tried."""
        query = "SELECT attempts FROM deliveries WHERE destination = ? AND uid = ?"
        return int(self.rows(query, [destination, uid])[0]["attempts"])

    # Commitment

    def uncommitted(self, destination: str, limit: int) -> list[Parcel]:
        """What the archive is to be asked for."""
        where = "destination = ? AND state = 'sent' AND commits AND due <= ? ORDER BY due, number LIMIT ?"
        return self._parcels(where, [destination, self._clock(), limit])

    def asked(self, destination: str, transaction: str, uids: Sequence[str], due: float) -> None:
        """The archive is about to be asked; nothing more is until `due`."""
        now = self._clock()
        with self.transaction() as db:
            db.execute("INSERT INTO requests VALUES (?, ?, ?)", (transaction, destination, now))
            for uid in uids:
                db.execute(
                    "UPDATE deliveries SET request = ?, asked = asked + 1, due = ?"
                    " WHERE destination = ? AND uid = ? AND state = 'sent'",
                    (transaction, due, destination, uid),
                )

    def ask_later(self, destination: str, uids: Sequence[str], due: float, reason: str) -> None:
        """The archive could not be asked."""
        self._change("due = ?, reason = ?", [due, reason], destination, uids)

    def times_asked(self, destination: str, uids: Sequence[str]) -> int:
        """How often one of them was asked for, at most."""
        marks = ", ".join("?" * len(uids))
        query = f"SELECT MAX(asked) AS most FROM deliveries WHERE destination = ? AND uid IN ({marks})"
        return int(self.rows(query, [destination, *uids])[0]["most"] or 0)

    def open(self, transaction: str) -> bool:
        """Whether a report of this request is still expected."""
        query = "SELECT 1 FROM deliveries WHERE request = ? AND state = 'sent' LIMIT 1"
        return bool(self.rows(query, [transaction]))

    def reported(self, report: Report, again: int) -> bool:
        """What an archive says of a request; what it does not keep is sent again, `again` times.

        Returns:
            Whether there was such a request.
        """
        now = self._clock()
        with self.transaction() as db:
            query = "SELECT destination FROM requests WHERE transaction_uid = ?"
            row = db.execute(query, (report.transaction,)).fetchone()
            if row is None:
                return False
            own = "WHERE destination = ? AND uid = ? AND request = ? AND state = 'sent'"
            for uid in report.committed:
                change = "UPDATE deliveries SET state = 'committed', reason = '', changed = ?"
                db.execute(f"{change} {own}", (now, row[0], uid, report.transaction))
            for uid, reason in report.failed.items():
                change = """UPDATE deliveries SET failed = failed + 1, reason = ?, changed = ?, due = ?,
                    state = CASE WHEN failed < ? THEN 'waiting' ELSE 'given up' END"""
                values = (f"it did not commit: {reason}", now, now, again, row[0], uid, report.transaction)
                db.execute(f"{change} {own}", values)
        return True

    # Telling, looking, tidying

    def next_due(self, destination: str) -> float | None:
        """When the next thing is to be done for an archive."""
        query = """SELECT MIN(due) AS due FROM deliveries WHERE destination = ?
            AND (state = 'waiting' OR state = 'sent' AND commits)"""
        due = self.rows(query, [destination])[0]["due"]
        return None if due is None else float(due)

    def untold(self) -> list[News]:
        """Answers of which something is new."""
        query = """
            SELECT key, told, SUM(state = 'waiting') AS waiting, SUM(state = 'given up') AS lost,
                SUM(state = 'sent' AND commits) AS asked, SUM(state = 'committed') AS committed,
                GROUP_CONCAT(CASE WHEN state = 'given up' THEN destination || ': ' || reason END, '; ') AS why
            FROM answers LEFT JOIN objects USING (key) LEFT JOIN deliveries USING (uid)
            WHERE open GROUP BY key"""
        found = []
        for row in self.rows(query):
            what = "delivered"
            if row["lost"]:
                what = "given up"
            elif row["committed"] and not row["asked"]:
                what = "confirmed"
            busy = row["waiting"] or (row["lost"] and row["asked"])
            if not busy and what != row["told"]:
                found.append(
                    News(row["key"], what, row["why"] or "", row["told"] == "delivered", not row["asked"])
                )
        return found

    def told(self, news: News) -> None:
        """The application knows."""
        with self.transaction() as db:
            change = "UPDATE answers SET told = ?, open = ?, changed = ? WHERE key = ?"
            db.execute(change, (news.what, not news.last, self._clock(), news.key))

    def retry(self) -> int:
        """Everything that was given up waits again; how many objects that is."""
        now = self._clock()
        with self.transaction() as db:
            keys = (
                "SELECT key FROM objects JOIN deliveries USING (uid) WHERE state = 'given up' AND NOT purged"
            )
            db.execute(f"UPDATE answers SET told = '', open = 1 WHERE key IN ({keys})")
            change = """
                UPDATE deliveries SET state = 'waiting', attempts = 0, failed = 0, due = ?, changed = ?
                WHERE state = 'given up' AND uid IN (SELECT uid FROM objects WHERE NOT purged)"""
            return db.execute(change, (now, now)).rowcount

    def all(self, state: State | None = None) -> list[Delivery]:
        """Every delivery in the order in which it was put, those of one state or all."""
        where, values = ("WHERE state = ?", [state.value]) if state else ("", [])
        query = f"SELECT * FROM deliveries JOIN objects USING (uid) {where} ORDER BY number"
        return [
            Delivery(
                row["uid"],
                row["key"],
                row["kind"],
                row["destination"],
                State(row["state"]),
                row["attempts"],
                row["due"],
                row["reason"],
            )
            for row in self.rows(query, values)
        ]

    def counts(self) -> dict[str, dict[State, int]]:
        """Objects of each archive by state."""
        found: dict[str, dict[State, int]] = {}
        query = "SELECT destination, state, COUNT(*) AS n FROM deliveries GROUP BY destination, state"
        for row in self.rows(query):
            found.setdefault(row["destination"], {})[State(row["state"])] = row["n"]
        return found

    def kept_names(self) -> set[str]:
        """Files that are needed."""
        return {row["name"] for row in self.rows("SELECT name FROM objects WHERE NOT purged")}

    def purge(self, done: float, lost: float, remembered: float) -> list[str]:
        """Mark as gone what was told so many seconds ago: done, or given up; then forget it.

        Returns:
            Files that may be removed.
        """
        now = self._clock()
        ended = "told IN ('delivered', 'confirmed') AND changed <= ? OR told = 'given up' AND changed <= ?"
        busy = """SELECT key FROM objects JOIN deliveries USING (uid)
            WHERE state = 'waiting' OR state = 'sent' AND commits"""
        old = f"key IN (SELECT key FROM answers WHERE {ended}) AND key NOT IN ({busy})"
        with self.transaction() as db:
            values = (now - done, now - lost)
            names = [row[0] for row in db.execute(f"SELECT name FROM objects WHERE {old}", values)]
            db.execute(f"UPDATE objects SET purged = 1 WHERE {old}", values)
            gone = (
                "SELECT key FROM answers WHERE changed <= ? AND key IN (SELECT key FROM objects WHERE purged)"
            )
            keys = [row[0] for row in db.execute(gone, (now - remembered,))]
            for key in keys:
                uids = "SELECT uid FROM objects WHERE key = ?"
                db.execute(f"DELETE FROM deliveries WHERE uid IN ({uids})", (key,))
                db.execute("DELETE FROM objects WHERE key = ?", (key,))
                db.execute("DELETE FROM answers WHERE key = ?", (key,))
            db.execute("DELETE FROM requests WHERE asked <= ?", (now - remembered,))
        return names

    def _parcels(self, where: str, values: Sequence[float | str]) -> list[Parcel]:
        query = "SELECT uid, sop_class, syntax, name FROM deliveries JOIN objects USING (uid)"
        return [
            Parcel(row["uid"], row["sop_class"], row["syntax"], self._objects / row["name"])
            for row in self.rows(f"{query} WHERE {where}", values)
        ]

    def _change(
        self, change: str, values: Sequence[float | str | None], destination: str, uids: Sequence[str]
    ) -> None:
        with self.transaction() as db:
            for uid in uids:
                own = "WHERE destination = ? AND uid = ?"
                db.execute(f"UPDATE deliveries SET {change} {own}", (*values, destination, uid))
