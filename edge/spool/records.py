"""What the spool tells of its objects, its units of work and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edge.errors import RuntimeFault


class LeaseLost(RuntimeFault):
    """A unit of work was given to somebody else, or is done: what this worker found must not be sent."""


class State(str, Enum):
    """How far an object is."""

    RECEIVED = "received"
    """On the disk, and acknowledged."""
    QUEUED = "queued"
    """Its header was read: study and series are known."""
    INFERRED = "inferred"
    """Its result is on the disk."""
    ANSWERED = "answered"
    """Its answer was given, or waits in the outbox of a destination."""
    CONFIRMED = "confirmed"
    """The receiver of the answer has committed to it."""
    QUARANTINED = "quarantined"
    """It failed, or is not what it says; kept for a person to look at."""


class Kept(str, Enum):
    """What became of an object that arrived. Each of them is a success for the sender."""

    STORED = "stored"
    KNOWN = "known"
    """The very same object is here already: nothing was added."""
    APART = "apart"
    """Another object with the same SOP Instance UID is here: this one is quarantined, the first stays."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of the spool.

    Attributes:
        name: path below the spool's folder of objects, random; holds nothing of the patient.
        path: the DICOM file; gone once it was purged.
        uid: SOP Instance UID.
        study, series: their Instance UIDs, empty before the header was read.
        syntax: Transfer Syntax UID.
        received: UNIX seconds.
        reason: why it is quarantined.
    """

    name: str
    path: Path
    uid: str
    sop_class: str
    syntax: str
    study: str
    series: str
    size: int
    received: float
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A unit of work that is leased to one worker.

    Attributes:
        key: a UUID in hex, the same however often the work is taken up again; `2.25.<its number>` is a DICOM
            UID for the answer (PS3.5 B.2).
        objects: what is to be answered, in the order of arrival; each is in exactly one unit of work.
        earlier: objects of the same series that were in units before; with them, this one is an update.
        revision: 1, or one more than the unit of the same series before.
        result: what `inferred` kept, None where nothing was inferred yet.
        attempt: how often it was taken up, with this time; above 1 somebody died at it, or it failed.
        until: UNIX seconds; afterwards somebody else may take it, unless `renew` was called.
    """

    key: str
    study: str
    series: str
    revision: int
    objects: tuple[Stored, ...]
    earlier: tuple[Stored, ...]
    result: bytes | None
    attempt: int
    token: str
    until: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was given.

    Attributes:
        number: rises with every answer; for `Spool.answers(after=…)`.
        key: of the unit of work.
        body: what was given to `answered`.
    """

    number: int
    key: str
    study: str
    series: str
    revision: int
    body: bytes
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept, in seconds since their state changed last.

    What was not answered is never removed.

    Attributes:
        confirmed: files whose answer was confirmed.
        answered: files whose answer was given, but nobody confirmed it.
        quarantined: files that failed.
        remembered: the rows of removed files; so long the same object, sent again, is known, and not answered
            anew.
    """

    confirmed: float = 86400.0
    answered: float = 7 * 86400.0
    quarantined: float = 30 * 86400.0
    remembered: float = 365 * 86400.0
