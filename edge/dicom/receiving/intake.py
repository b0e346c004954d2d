"""From a Part 10 file, wherever it comes from, to the spool: copied as it is, and never decoded."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge.errors import InputError
from edge.spool import Kept, Spool

PIECE = 1 << 20

LONGEST_META = 1 << 16
"""File meta information is a few hundred bytes; what is longer is none."""

LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations with a length of 32 bits (PS3.5 7.1.2)."""

SOP_CLASS, SOP_INSTANCE, SYNTAX = 0x02, 0x03, 0x10
"""Elements of group 2 that a file must have (PS3.10 7.1)."""


class Readable(Protocol):
    """Bytes, piece by piece."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end alone."""
        ...


@dataclass(frozen=True, slots=True)
class Meta:
    """What the file meta information says.

    Attributes:
        head: preamble, mark and file meta information, as they are.
    """

    head: bytes
    sop_class: str
    uid: str
    syntax: str


def take_in(spool: Spool, source: Readable, whole: Callable[[], bool] = lambda: True) -> Kept | None:
    """Copy a Part 10 file into the spool; when this returns, it is there for good.

    Args:
        whole: asked when all was read, whether that was all of it; if not, nothing is kept.

    Returns:
        None where it was not whole.

    Raises:
        InputError: it is no Part 10 file.
        SpoolFull: the spool has no room for it.
        OSError: it cannot be read, or not be written.
    """
    meta = read_meta(source)
    arrival = spool.arrival(meta.uid, meta.sop_class, meta.syntax)
    try:
        arrival.head(meta.head)
        while piece := source.read(PIECE):
            arrival.write(piece)
        return arrival.keep() if whole() else None
    finally:
        arrival.discard()


def read_meta(source: Readable) -> Meta:
    """Read preamble, mark and file meta information (PS3.10 7.1).

    Raises:
        InputError: they are not there, or lack what they must have.
    """
    start = source.read(144)
    if len(start) < 144 or start[128:132] != b"DICM" or start[132:140] != b"\2\0\0\0UL\4\0":
        raise InputError("no DICOM file", "it has no file meta information (PS3.10 7.1)", "leave it out")
    (length,) = struct.unpack("<L", start[140:])
    body = source.read(length) if length <= LONGEST_META else b""
    values = _values(body)
    found = [values.get(number, b"").rstrip(b"\0 ").decode("ascii", "replace") for number in _NEEDED]
    if len(body) != length or not all(found):
        raise InputError("no DICOM file", "its file meta information is damaged", "get it again")
    return Meta(start + body, *found)


_NEEDED = (SOP_CLASS, SOP_INSTANCE, SYNTAX)


def _values(body: bytes) -> dict[int, bytes]:
    """Elements of group 2, explicit VR little endian, by number."""
    values: dict[int, bytes] = {}
    place = 0
    while place + 12 <= len(body):
        group, number, vr, length = struct.unpack_from("<HH2sH", body, place)
        place += 8
        if vr in LONG:
            (length,) = struct.unpack_from("<L", body, place)
            place += 4
        if group == 2:
            values[number] = body[place : place + length]
        place += length
    return values
