"""What a compressed frame says of its own size, to be compared with the header before it is decoded."""

from __future__ import annotations

import struct

JPEG2000_START = b"\xff\x4f\xff\x51"

NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers that stand alone (ISO 10918-1, B.1.1.3)."""

START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})
"""SOF0 to SOF15, and SOF55 of JPEG-LS."""


def declared_size(encoded: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream declares; None where it is none,
    or leaves the rows open."""
    at = encoded.find(JPEG2000_START, 0, 4096)
    if at >= 0 and encoded[:2] != b"\xff\xd8":
        return _jpeg2000(encoded[at + 4 : at + 24])
    if encoded[:2] == b"\xff\xd8":
        return _jpeg(encoded)
    return None


def _jpeg2000(size: bytes) -> tuple[int, int] | None:
    """The SIZ marker segment after its mark (ISO 15444-1, A.5.1)."""
    if len(size) < 20:
        return None
    right, bottom, left, top = struct.unpack(">4L", size[4:20])
    return bottom - top, right - left


def _jpeg(encoded: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in START_OF_FRAME:
            rows, columns = struct.unpack_from(">2H", encoded, at + 5)
            return (rows, columns) if rows else None
        if marker == 0xFF:  # fill bytes
            at += 1
        elif marker in NO_LENGTH:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", encoded, at + 2)[0]
    return None
