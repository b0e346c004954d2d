"""A durable spool for received DICOM objects: what was acknowledged is answered, exactly once, whatever dies.

    SPOOL/spool.db            a row an object, a row a unit of work (sqlite3, write-ahead log)
    SPOOL/objects/2025013123/ the objects that arrived in this hour (UTC), under random names
    SPOOL/lock                held by the one process that uses the spool

    received ─► queued ─► inferred ─► answered ─► confirmed          quarantined, with a reason, from anywhere

An object is written under its final, random name; then its bytes are synced, then its folder, and only then
is its row committed. The row is what makes it exist: a file without one was never acknowledged and is removed
at the next start. Names hold no patient data.

What a source does with it, for ever:

    spool = Spool(folder)
    claim = spool.claim_series(quiet=30)        # or claim_object(); None while nothing is ready
    result = claim.result or infer(claim.objects, claim.earlier)
    spool.inferred(claim, result)               # from here on it is never inferred again
    deliver(result, key=claim.key)              # the key is the same after a crash, so a receiver can tell
    spool.answered(claim, line)                 # the answer and the state in one transaction
    spool.confirmed(claim.key)                  # when the archive has committed to it
"""

from edge.spool.arrival import Arrival, SpoolFull
from edge.spool.disk import Disk, Watermarks
from edge.spool.records import Answer, Claim, Kept, LeaseLost, Retention, State, Stored
from edge.spool.spool import Spool

__all__ = [
    "Answer",
    "Arrival",
    "Claim",
    "Disk",
    "Kept",
    "LeaseLost",
    "Retention",
    "Spool",
    "SpoolFull",
    "State",
    "Stored",
    "Watermarks",
]
