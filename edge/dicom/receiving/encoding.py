"""The two things a receiver writes for every object, encoded by hand: general ways cost half of its time."""

from __future__ import annotations

import struct

IMPLEMENTATION_CLASS = "2.25.243816397735861927362485962183655014861"
"""Of this side and the files we write (PS3.7 D.3.3.2): a UID of ours, made from a UUID (PS3.5 B.2)."""

IMPLEMENTATION_VERSION = "EDGE"


def file_meta(sop_class: str, uid: str, syntax: str, sender: str) -> bytes:
    """Preamble, mark and file meta information of a DICOM file (PS3.10 7.1).

    Args:
        sender: AE title that sent it; left out where it is empty or no ASCII.
    """
    body = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
    fields = [(0x02, sop_class), (0x03, uid), (0x10, syntax), (0x12, IMPLEMENTATION_CLASS)]
    body += b"".join(_explicit(number, b"UI", value, b"\0") for number, value in fields)
    body += _explicit(0x13, b"SH", IMPLEMENTATION_VERSION, b" ")
    if sender and sender.isascii():
        body += _explicit(0x16, b"AE", sender, b" ")
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(body)) + body


def store_response(sop_class: str, uid: str, message: int, status: int) -> bytes:
    """The command set of a C-STORE response (PS3.7 9.3.1.2).

    Args:
        message: ID of the request.
    """
    body = _implicit(0x0002, sop_class.encode()) + _implicit(0x0100, struct.pack("<H", 0x8001))
    body += _implicit(0x0120, struct.pack("<H", message)) + _implicit(0x0800, struct.pack("<H", 0x0101))
    body += _implicit(0x0900, struct.pack("<H", status)) + _implicit(0x1000, uid.encode())
    return _implicit(0x0000, struct.pack("<L", len(body))) + body


def _explicit(number: int, vr: bytes, text: str, padding: bytes) -> bytes:
    """An element of group 2, explicit VR little endian."""
    value = text.encode()
    value += padding * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def _implicit(number: int, value: bytes) -> bytes:
    """An element of group 0, implicit VR little endian."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, number, len(value)) + value
