"""What every way to an archive has: objects to carry, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from edge.dicom.delivery.destination import Destination, ScuDestination, StowDestination
from edge.errors import RuntimeFault


class Unreachable(RuntimeFault):
    """The archive cannot be reached, or takes nothing now: everything that waits for it waits on."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """An object to be sent.

    Attributes:
        syntax: UID of the transfer syntax that its file is in.
        path: a DICOM file (PS3.10).
    """

    uid: str
    sop_class: str
    syntax: str
    path: Path


class Fate(Enum):
    """What an archive does with an object."""

    STORED = "stored"
    LATER = "later"
    """It may take it at another time."""
    REFUSED = "refused"
    """It takes no such object, now or later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an object, with a reason where it was not just stored; holds nothing of the patient."""

    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What an archive says of a request to commit (PS3.4 J.3.3).

    Attributes:
        transaction: UID of the request.
        committed: SOP Instance UIDs that it keeps.
        failed: SOP Instance UIDs that it does not, with the reason.
    """

    transaction: str
    committed: Sequence[str]
    failed: Mapping[str, str] = field(default_factory=dict)


class Carrier(Protocol):
    """One way to one archive; used by one thread."""

    def send(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Outcome]]:
        """Send objects; each outcome comes as soon as it is known.

        Raises:
            Unreachable: what has no outcome yet has not arrived, as far as is known.
        """
        ...

    def commit(
        self,
        transaction: str,
        parcels: Sequence[Parcel],
        reported: Callable[[Report], bool],
        settled: Callable[[], bool],
    ) -> None:
        """Ask the archive to commit to what it has stored.

        Args:
            reported: told what it says, if it does so at once; from another thread.
            settled: whether it has said so elsewhere.

        Raises:
            Unreachable: it was not asked.
        """
        ...

    def echo(self) -> str:
        """Look whether it answers; what it says of itself.

        Raises:
            Unreachable: it does not.
        """
        ...

    def close(self) -> None:
        """Leave nothing open."""
        ...


def carrier(destination: Destination) -> Carrier:
    """The way to a destination.

    Raises:
        MissingPackage: it needs one that is not installed.
        InputError: its certificates cannot be used.
    """
    if isinstance(destination, ScuDestination):
        from edge.dicom.delivery.scu import ScuCarrier

        return ScuCarrier(destination)
    from edge.dicom.delivery.stow import StowCarrier

    assert isinstance(destination, StowDestination)
    return StowCarrier(destination)


CLASS_NOT_SUPPORTED = 0x0122
DUPLICATE = 0x0111

STATUSES = {
    0x0106: "an attribute has a value that it does not take",
    0x0110: "it failed while processing",
    DUPLICATE: "it has an object of this UID already",
    0x0112: "it has no such object",
    0x0117: "it takes the SOP Instance UID for none",
    0x0119: "its object of this UID is of another class",
    CLASS_NOT_SUPPORTED: "it does not take the SOP class",
    0x0124: "this side may not do so",
    0x0131: "it knew the transaction already",
    0x0211: "it does not know the operation",
    0x0213: "its resources are at an end",
}
"""Statuses and failure reasons in words (PS3.7 C, PS3.3 C.14.1.1)."""


def words(status: int) -> str:
    """A status for people."""
    if status >> 8 == 0xA7:
        text = "it is out of resources"
    elif status >> 8 == 0xA9:
        text = "the data set does not match its SOP class"
    elif status >> 12 == 0xC:
        text = "it cannot understand the object"
    elif status >> 12 == 0xB:
        text = "with a warning"
    else:
        text = STATUSES.get(status, "it failed")
    return f"{text} (0x{status:04X})"


def outcome_of(status: int) -> Outcome:
    """What a status of C-STORE or a failure reason of STOW-RS means (PS3.4 B.2.3, PS3.18 I.2.2)."""
    if status == 0:
        return Outcome(Fate.STORED)
    if status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116, DUPLICATE):
        return Outcome(Fate.STORED, words(status))
    final = status >> 8 == 0xA9 or status >> 12 == 0xC or status in (CLASS_NOT_SUPPORTED, 0x0117)
    return Outcome(Fate.REFUSED if final else Fate.LATER, words(status))
