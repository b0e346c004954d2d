"""Counts of a tensor's values in bounded memory, the same whatever the order they come in.

A histogram's edge is a power of two that doubles when a larger value arrives, and doubling merges bins
pairwise. Short of underflow, scaling by powers of two is exact in binary floating point, so the counts are
the same as if the final edge had been known from the start.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge.types import Array

BINS = 4096
"""Bins on each side of zero; at least half of them lie within the largest value seen."""
SMALLEST_EDGE = -100
"""Exponent of the first edge: at −126 the bins' scale would leave float32."""
CHUNK = 1 << 15
"""Values counted at a time."""


class Histogram:
    """Counts of one tensor's values in 2 · BINS equal bins over ±2^exponent, and their exact extremes."""

    def __init__(self) -> None:
        self.exponent = SMALLEST_EDGE
        self.counts = np.zeros(2 * BINS, np.int64)
        self.low = np.inf
        self.high = -np.inf

    @classmethod
    def of(cls, exponent: int, counts: NDArray[np.int64], low: float, high: float) -> Histogram:
        """One that was counted before."""
        h = cls()
        h.exponent, h.counts, h.low, h.high = exponent, counts, low, high
        return h

    def add(self, values: Array) -> None:
        """Count every value, in chunks that stay in the processor's cache.

        Raises:
            FloatingPointError: a value is NaN or infinite.
        """
        flat = values.ravel()
        scaled, index = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.intp)
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            self._widen(float(chunk.min()), float(chunk.max()))
            part, where = scaled[: chunk.size], index[: chunk.size]
            np.floor(np.multiply(chunk, np.float32(BINS / 2.0**self.exponent), out=part), out=part)
            where[:] = part
            where += BINS
            self.counts += np.bincount(where, minlength=2 * BINS)

    def _widen(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high)):  # minimum and maximum pass NaN on
            raise FloatingPointError("NaN or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))

    def _reach(self, peak: float) -> None:
        """Double the edge until `peak` lies strictly inside it."""
        needed = int(np.frexp(peak)[1]) if peak > 0 else SMALLEST_EDGE
        while self.exponent < needed:
            shift = min(needed - self.exponent, BINS.bit_length())
            self.counts = _merge(self.counts, shift)
            self.exponent += shift

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        same = (self.exponent, self.low, self.high) == (other.exponent, other.low, other.high)
        return same and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def peak(self) -> float:
        """The largest magnitude seen."""
        return max(-self.low, self.high)

    @property
    def centers(self) -> NDArray[np.float32]:
        width = 2.0**self.exponent / BINS
        return ((np.arange(-BINS, BINS) + 0.5) * width).astype(np.float32)


def _merge(counts: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """The same counts with an edge 2^shift times as far out."""
    index = np.arange(-BINS, BINS) >> shift
    merged = np.zeros_like(counts)
    np.add.at(merged, index + BINS, counts)
    return merged
