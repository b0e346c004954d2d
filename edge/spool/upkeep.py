"""What a spool does at its start, and what it removes with time."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from edge.spool.disk import Disk
from edge.spool.ledger import GONE, Ledger
from edge.spool.records import Retention

log = logging.getLogger(__name__)

UNANSWERED = "state IN ('received', 'queued', 'inferred')"


def folder_of(moment: float) -> str:
    """The folder of what arrives at a moment, UNIX seconds; later ones sort after earlier ones."""
    return time.strftime("%Y%m%d%H", time.gmtime(moment))


def recover(ledger: Ledger, objects: Path, disk: Disk, now: float) -> None:
    """After whatever ended the process before: no leases, no files without a row, no rows without a file."""
    kept = {row["name"] for row in ledger.rows("SELECT name FROM objects WHERE NOT purged")}
    sizes: dict[str, int] = {}
    for path in objects.glob("*/*"):
        name = f"{path.parent.name}/{path.name}"
        if name in kept:
            sizes[name] = path.stat().st_size
        else:
            log.info("%s was never acknowledged: removed", name)
            disk.remove(path)
    needed = ledger.rows(f"SELECT name, size FROM objects WHERE {UNANSWERED}")
    damaged = [row["name"] for row in needed if sizes.get(row["name"]) != row["size"]]
    with ledger.transaction() as db:
        db.execute("UPDATE units SET until = 0, token = '' WHERE until > 0")
        for name in damaged:
            log.error("%s: %s, quarantined", name, GONE)
            lost = "digest = digest || ' lost ' || name"  # so that the same object, sent again, is taken
            change = (
                f"UPDATE objects SET state = 'quarantined', reason = ?, changed = ?, {lost} WHERE name = ?"
            )
            db.execute(change, (GONE, now, name))


def purge(ledger: Ledger, objects: Path, disk: Disk, now: float, keep: Retention) -> int:
    """Rows first, then files: what dies in between leaves files that the next start removes."""
    old = (
        "NOT purged AND (state = 'confirmed' AND changed <= ? OR state = 'answered' AND changed <= ?"
        " OR state = 'quarantined' AND changed <= ?)"
    )
    limits = [now - seconds for seconds in (keep.confirmed, keep.answered, keep.quarantined)]
    empty = "NOT EXISTS (SELECT 1 FROM objects WHERE unit = units.number)"
    with ledger.transaction() as db:
        names = [row["name"] for row in db.execute(f"SELECT name FROM objects WHERE {old}", limits)]
        db.execute(f"UPDATE objects SET purged = 1 WHERE {old}", limits)
        db.execute("DELETE FROM objects WHERE purged AND changed <= ?", (now - keep.remembered,))
        db.execute(f"DELETE FROM answers WHERE unit IN (SELECT number FROM units WHERE {empty})")
        db.execute(f"DELETE FROM units WHERE {empty}")
    for name in names:
        disk.remove(objects / name)
    for folder in objects.iterdir():
        if folder.name < folder_of(now - 3600):  # nothing arrives there any more
            with suppress(OSError):  # not empty
                folder.rmdir()
    return len(names)
