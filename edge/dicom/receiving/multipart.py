"""The first part of a multipart body (RFC 2387), read as it comes: an object of gigabytes is never held."""

from __future__ import annotations

from collections.abc import Iterator

from edge.errors import InputError

LONGEST_HEAD = 1 << 16
"""Bytes before the part's content: headers are a few hundred."""


class FirstPart:
    """What a body holds between its first headers and the boundary after them.

    Args:
        pieces: of the body, as they come.
        boundary: without the dashes before it.

    Attributes:
        complete: the closing boundary was met.

    Raises:
        InputError: it does not begin as such a body does.
    """

    def __init__(self, pieces: Iterator[bytes], boundary: str) -> None:
        self._pieces, self._end = pieces, f"\r\n--{boundary}".encode()
        self._buffer = b"\r\n"  # so that a body that begins with its boundary is none but the others
        self.complete = False
        self._skip(self._end)
        self._skip(b"\r\n")
        self._buffer = b"\r\n" + self._buffer  # a part may have no headers
        self._skip(b"\r\n\r\n")

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end alone."""
        while not self.complete and len(self._buffer) < size + len(self._end) and self._more():
            pass
        place = -1 if self.complete else self._buffer.find(self._end)
        if place >= 0:
            self._buffer, self.complete = self._buffer[:place], True
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece

    def _skip(self, mark: bytes) -> None:
        while (place := self._buffer.find(mark)) < 0:
            if len(self._buffer) > LONGEST_HEAD or not self._more():
                raise InputError("no object in the answer", "it is no multipart body", "check the service")
        self._buffer = self._buffer[place + len(mark) :]

    def _more(self) -> bool:
        piece = next(self._pieces, b"")
        self._buffer += piece
        return bool(piece)
