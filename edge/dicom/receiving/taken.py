"""What was taken into the spool from a place that does not forget: a restart does not take it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from edge.spool.database import Database
from edge.spool.disk import Disk

SCHEMA = "CREATE TABLE taken (name TEXT PRIMARY KEY, mark TEXT NOT NULL);"


class Taken:
    """Names with a mark of what was taken under them, in one small database.

    What is taken twice all the same, after a crash, is known to the spool; this saves the way.

    Raises:
        StoreError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._rows = Database(path, Disk(), SCHEMA, 1)
        self._marks = {row["name"]: row["mark"] for row in self._rows.rows("SELECT name, mark FROM taken")}

    def __iter__(self) -> Iterator[str]:
        return iter(self._marks)

    def mark(self, name: str) -> str | None:
        """The mark under which it was taken; None: it was not."""
        return self._marks.get(name)

    def add(self, name: str, mark: str) -> None:
        """It was taken."""
        with self._rows.transaction() as db:
            db.execute("INSERT OR REPLACE INTO taken VALUES (?, ?)", (name, mark))
        self._marks[name] = mark

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others: they are not there any more."""
        gone = [(name,) for name in self._marks.keys() - set(names)]
        if gone:
            with self._rows.transaction() as db:
                db.executemany("DELETE FROM taken WHERE name = ?", gone)
            for (name,) in gone:
                del self._marks[name]

    def close(self) -> None:
        self._rows.close()
