"""Look-up tables as DICOM stores them: a descriptor of three numbers, and entries (PS3.3 C.11.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class LookUpTable:
    """
    Attributes:
        entries: one for each input value from `first` on.
        first: values below it get the first entry; values beyond the last entry get the last.
        bits: width of an entry.
    """

    entries: NDArray[np.uint16]
    first: int
    bits: int

    def __call__(self, values: Array) -> NDArray[np.uint16]:
        """The entry of each value; fractions are rounded."""
        whole = np.rint(np.nan_to_num(values)) if values.dtype.kind == "f" else values
        index = np.clip(whole, self.first, self.first + len(self.entries) - 1).astype(np.int64) - self.first
        return np.asarray(self.entries[index])


def look_up_table(descriptor: Any, data: Any, little: bool, signed: bool) -> LookUpTable:
    """Read a table.

    Args:
        descriptor: number of entries (0: 65536), first value mapped, bits of an entry.
        data: bytes (OW), or numbers (US).
        little: byte order of the file.
        signed: the values looked up may be negative; then a first value over 32767 was meant negative.

    Raises:
        InputError: there are fewer entries than the descriptor says.
    """
    count, first, bits = (int(n) for n in descriptor)
    count = count & 0xFFFF or 1 << 16  # read as signed where the pixels are
    if signed and first > 0x7FFF:
        first -= 1 << 16
    entries = _entries(data, count, little)
    if len(entries) < count or not 1 <= bits <= 16:
        raise InputError(
            "cannot apply a look-up table",
            f"its descriptor says {count} entries of {bits} bits, and {len(entries)} are there",
            "check the file, for example with dciodvfy or dcmdump",
        )
    width = min(bits, entries.itemsize * 8)  # some files say 16 bits of entries that have 8
    entries = entries[:count].astype(np.uint16)
    return LookUpTable(entries, first, max(width, int(entries.max()).bit_length()))


def _entries(data: Any, count: int, little: bool) -> Array:
    """Entries of 16 bits each, or of 8 where the bytes suffice for no more."""
    if not isinstance(data, bytes | bytearray):
        numbers = np.atleast_1d(np.asarray(data, np.int64))
        return (numbers & 0xFFFF).astype(np.uint16)
    words = np.frombuffer(data, "<u2" if little else ">u2", len(data) // 2)
    if len(words) >= count:
        return words
    return np.frombuffer(words.astype("<u2").tobytes() + data[2 * len(words) :], np.uint8)  # low byte first


def table_of(item: Any, little: bool, signed: bool) -> LookUpTable:
    """The table of an item of Modality LUT Sequence or VOI LUT Sequence."""
    return look_up_table(item.LUTDescriptor, item.LUTData, little, signed)
