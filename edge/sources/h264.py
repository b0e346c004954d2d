"""Pictures of H.264 that never arrived: FFmpeg puts copies in their place and says nothing.

Section numbers are those of ISO/IEC 14496-10 (ITU-T H.264).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_CHROMA_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
_SLICE, _IDR, _SPS, _PPS = 1, 5, 7, 8
_HEAD = 400
"""Bytes of a unit that are looked at; what is read here stands at its beginning."""
_SLICE_HEAD = 32
"""Bytes of a slice in which `frame_num` stands: the numbers before it have at most 13 together."""


@dataclass(frozen=True, slots=True)
class _Sps:
    """What a sequence parameter set says of `frame_num`."""

    bits: int
    gaps_allowed: bool
    colour_planes: bool


class FrameNumbers:
    """Follows `frame_num`, which counts the pictures that others build on (7.4.3)."""

    def __init__(self) -> None:
        self._sps: dict[int, _Sps] = {}
        self._pps: dict[int, int] = {}
        self._last: int | None = None

    def gap(self, data: bytes) -> bool:
        """Whether a picture is missing before this one.

        Args:
            data: an access unit or parameter sets, as a byte stream (annex B).
        """
        for unit in _units(data):
            kind = unit[0] & 31
            try:
                if kind == _SPS:
                    self._read_sps(_Bits(unit[1:]))
                elif kind == _PPS:
                    bits = _Bits(unit[1:])
                    self._pps[bits.ue()] = bits.ue()
                elif kind in (_SLICE, _IDR):
                    return self._read_slice(_Bits(unit[1:_SLICE_HEAD]), kind == _IDR, bool(unit[0] & 0x60))
            except (IndexError, KeyError):
                continue  # cut off, or its parameter set was: the decoder will say so
        return False

    def _read_slice(self, bits: _Bits, is_idr: bool, is_reference: bool) -> bool:
        """The slice header (7.3.3) up to `frame_num`."""
        bits.ue(), bits.ue()  # first_mb_in_slice, slice_type
        sps = self._sps[self._pps[bits.ue()]]
        if sps.colour_planes:
            bits.u(2)
        number, last, count = bits.u(sps.bits), self._last, 1 << sps.bits
        # A picture that nothing builds on has the number that the next one will have.
        self._last = number if is_reference else (number - 1) % count
        if is_idr or last is None or sps.gaps_allowed:
            return False
        return number not in (last, (last + 1) % count)

    def _read_sps(self, bits: _Bits) -> None:
        """The sequence parameter set (7.3.2.1.1) up to `gaps_in_frame_num_value_allowed_flag`."""
        profile = bits.u(8)
        bits.u(16)
        number, colour_planes = bits.ue(), False
        if profile in _CHROMA_PROFILES:
            chroma = bits.ue()
            colour_planes = chroma == 3 and bool(bits.u(1))
            bits.ue(), bits.ue(), bits.u(1)
            if bits.u(1):
                for index in range(12 if chroma == 3 else 8):
                    if bits.u(1):
                        _skip_scaling_list(bits, 16 if index < 6 else 64)
        frame_number_bits = bits.ue() + 4
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1), bits.ue(), bits.ue()
            for _ in range(bits.ue()):
                bits.ue()
        bits.ue()  # max_num_ref_frames
        self._sps[number] = _Sps(frame_number_bits, bool(bits.u(1)), colour_planes)


class _Bits:
    """Reads a unit's bits from the first on, without its emulation prevention bytes (7.4.1).

    Raises:
        IndexError: there are no more.
    """

    def __init__(self, unit: bytes) -> None:
        data = unit[:_HEAD].replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def u(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        if count > self._left:
            raise IndexError
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def ue(self) -> int:
        """An Exp-Golomb number (9.1); a signed one, `se(v)`, is as long."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    """7.3.2.1.1.1: it ends early where the next scale is 0."""
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.ue()
            following = (last + (-(code // 2) if code % 2 == 0 else (code + 1) // 2)) % 256
        last = following or last


def _units(data: bytes) -> Iterator[bytes]:
    """The beginnings of the units of a byte stream (annex B)."""
    start = data.find(b"\0\0\1")
    while 0 <= start < len(data) - 3:
        yield data[start + 3 : start + 3 + _HEAD]
        start = data.find(b"\0\0\1", start + 3)
