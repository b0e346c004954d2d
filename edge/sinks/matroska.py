"""Motion JPEG in Matroska, written frame by frame: what is in the file plays, whenever the writer dies.

FFmpeg behind OpenCV's VideoWriter holds 256 KiB back, which is seconds of a quiet scene, and does not tell of
a full disk. Here every frame is a cluster of its own, in the file as soon as `add` returns.
Elements: RFC 9559.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from edge import __version__
from edge.sinks.files import Appended

_UNKNOWN_SIZE = b"\x01" + 7 * b"\xff"
_NO_DURATION = b"\xec\x89" + 9 * b"\x00"
"""A Void element, as long as the Duration that takes its place."""

_UNTIL_2001 = 978_307_200
"""UNIX seconds at Matroska's epoch."""


class Matroska:
    """One video track of JPEG pictures of one size, each shown from its own moment on.

    Args:
        size: width and height.
        date: UNIX seconds of the first picture.
    """

    def __init__(self, path: Path, size: tuple[int, int], date: float) -> None:
        self.frames = 0
        self._file = Appended(path, os.O_EXCL)
        head = _header() + bytes.fromhex("18538067") + _UNKNOWN_SIZE
        info = (
            _element("2ad7b1", _number(1_000_000))  # times in milliseconds
            + _element("4461", struct.pack(">q", round((date - _UNTIL_2001) * 1e9)))
            + _element("4d80", b"edge")
            + _element("5741", f"edge {__version__}".encode())
        )
        # Duration comes first, so its place is known: after the identifier and size of Info.
        whole = _element("1549a966", _NO_DURATION + info)
        self._duration_at = len(head) + len(whole) - len(info) - len(_NO_DURATION)
        try:
            self._file.write(head + whole + _tracks(*size))
        except OSError:
            self.discard()
            raise

    def add(self, jpeg: bytes, seconds: float) -> None:
        """Append a picture.

        Raises:
            OSError: it does not fit; the file holds all those before.
        """
        block = b"\x81\x00\x00\x80" + jpeg  # track 1, no offset to the cluster's time, a key frame
        cluster = _element("e7", _number(max(0, round(1e3 * seconds)))) + _element("a3", block)
        self._file.write(_element("1f43b675", cluster))
        self.frames += 1

    def in_place(self) -> bool:
        """Whether it is still there."""
        return self._file.in_place()

    def close(self, seconds: float) -> None:
        """Note how long it is; a second call does nothing."""
        if not self._file.closed:
            try:
                self._file.overwrite(self._duration_at, _element("4489", struct.pack(">d", 1e3 * seconds)))
            finally:
                self._file.close()

    def discard(self) -> None:
        """Close it and delete it."""
        self._file.close()
        self._file.path.unlink(missing_ok=True)


def _header() -> bytes:
    fields = {"4286": 1, "42f7": 1, "42f2": 4, "42f3": 8, "4287": 4, "4285": 2}
    numbers = b"".join(_element(name, _number(value)) for name, value in fields.items())
    return _element("1a45dfa3", numbers + _element("4282", b"matroska"))


def _tracks(width: int, height: int) -> bytes:
    video = _element("b0", _number(width)) + _element("ba", _number(height))
    track = (
        _element("d7", _number(1))  # track number
        + _element("73c5", _number(1))  # its unique identifier
        + _element("83", _number(1))  # video
        + _element("9c", _number(0))  # no lacing
        + _element("86", b"V_MJPEG")
        + _element("e0", video)
    )
    return _element("1654ae6b", _element("ae", track))


def _element(name: str, data: bytes) -> bytes:
    """Identifier, size and content."""
    length = next(n for n in range(1, 9) if len(data) < (1 << 7 * n) - 1)
    return bytes.fromhex(name) + (len(data) | 1 << 7 * length).to_bytes(length, "big") + data


def _number(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
