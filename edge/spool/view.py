"""A look into a spool that another process uses: it changes nothing, and nobody waits for it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from edge.errors import InputError, StoreError
from edge.spool.ledger import VERSION
from edge.spool.records import Answer, State
from edge.spool.work import ANSWERS, answer

_ORDER = list(State)


@dataclass(frozen=True, slots=True)
class StudyState:
    """How far a study is.

    Attributes:
        study: Study Instance UID.
        state: that of its least advanced object; quarantined ones count only where there are no others.
        objects: how many there are, without those in quarantine unless all of them are.
        since: UNIX seconds when the first of them arrived.
    """

    study: str
    state: State
    objects: int
    since: float


class View:
    """Reads the rows of a spool. Used by one thread.

    Args:
        root: the spool's folder.

    Raises:
        InputError: there is no spool.
        StoreError: it cannot be read, or is of another version.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / "spool.db"
        if not self._path.is_file():
            raise InputError(f"no spool in {root}", "there is no spool.db", "give the folder of a receiver")
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        """The write-ahead log lies beside the database while its owner runs. Where that is over and nothing
        may be written there, the database is complete by itself."""
        place = self._path.absolute().as_uri()
        log = self._path.with_name(f"{self._path.name}-wal")
        try:
            try:
                return self._checked(f"{place}?mode=ro")
            except sqlite3.OperationalError:
                if log.exists():
                    raise
                return self._checked(f"{place}?immutable=1")
        except sqlite3.DatabaseError as e:
            raise StoreError(f"cannot read {self._path}", str(e), "check the path and its rights") from e

    def _checked(self, uri: str) -> sqlite3.Connection:
        database = sqlite3.connect(uri, uri=True, timeout=10)
        try:
            database.row_factory = sqlite3.Row
            version = database.execute("PRAGMA user_version").fetchone()[0]
            database.execute("SELECT COUNT(*) FROM units").fetchone()
        except BaseException:
            database.close()
            raise
        if version != VERSION:
            database.close()
            why = f"its version is {version}, this program knows {VERSION}"
            raise StoreError(f"cannot read {self._path}", why, "use the program that made it")
        return database

    def answers(self, after: int = 0) -> list[Answer]:
        """Answers in the order they were given, from the one after `after`."""
        return [answer(row) for row in self._rows(ANSWERS, after)]

    def studies(self) -> list[StudyState]:
        """Studies whose objects' headers were read."""
        query = (
            "SELECT study, state, COUNT(*) AS objects, MIN(received) AS since FROM objects"
            " WHERE study != '' GROUP BY study, state ORDER BY study"
        )
        found: dict[str, list[sqlite3.Row]] = {}
        for row in self._rows(query):
            found.setdefault(row["study"], []).append(row)
        return [_study(study, rows) for study, rows in found.items()]

    def _rows(self, query: str, *values: int) -> list[sqlite3.Row]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as e:
            raise StoreError(f"cannot read {self._path}", str(e), "try again") from e

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _study(study: str, rows: list[sqlite3.Row]) -> StudyState:
    good = [row for row in rows if row["state"] != State.QUARANTINED.value] or rows
    state = min((State(row["state"]) for row in good), key=_ORDER.index)
    return StudyState(study, state, sum(row["objects"] for row in good), min(row["since"] for row in rows))
