"""A small embedded store: sqlite3 with a write-ahead log, one connection, one transaction at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edge.errors import StoreError
from edge.spool.disk import Disk


class Database:
    """Every method may be called from any thread.

    Args:
        path: made where it is absent, readable by its owner alone.
        schema: statements that make the tables.
        version: of the schema.

    Raises:
        StoreError: it is damaged, or of another version.
    """

    def __init__(self, path: Path, disk: Disk, schema: str, version: int) -> None:
        self._disk = disk
        self._lock = threading.RLock()
        new = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            self._prepare(path, schema, version)
            if new:
                path.chmod(0o600)
                self._disk.sync_folder(path.parent)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path, schema: str, version: int) -> None:
        try:
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a commit outlives a power cut
            self._db.execute("PRAGMA foreign_keys = ON")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                mark = f"PRAGMA user_version = {version};"
                self._db.executescript(f"BEGIN IMMEDIATE;{schema}{mark}COMMIT;")
                found = version
        except sqlite3.DatabaseError as e:
            raise StoreError(f"cannot use {path}", str(e), "restore it, or start with another folder") from e
        if found != version:
            why = f"its version is {found}, this program knows {version}"
            raise StoreError(f"cannot use {path}", why, "use the program that made it, or another folder")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when it ends."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._disk.commit(self._db)
            except BaseException:
                with suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a query gives."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._db.close()
