"""Where to clip a tensor: candidate thresholds from its histogram, for each type.

| method     | the threshold is                                                                              |
|------------|-----------------------------------------------------------------------------------------------|
| max        | the largest magnitude seen                                                                    |
| percentile | what 99.9, 99.99 or 99.999 % of the magnitudes do not exceed                                  |
| entropy    | where the distribution loses least information (Kullback–Leibler divergence; TensorRT's idea) |
| mse        | where the squared error is least                                                              |

Which of them is best is measured, not believed: `sensitivity.py` runs the network with each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.precision import numerics
from edge.precision.histogram import BINS, Histogram
from edge.precision.numerics import QuantType

CANDIDATES = 96
"""Thresholds looked at for the least squared error and the least loss of information."""
NARROWEST = 1 / 16
"""The lowest of them, as a part of the largest magnitude."""
OCTAVE = 2.0 ** (np.arange(1, 16) / 16)
"""Thresholds of fp8 beyond the largest magnitude, as parts of it: its steps double at powers of two, and
where these lie matters more than the top of its range."""
PERCENTILES = (99.9, 99.99, 99.999)
FAINTEST = numerics.TINIEST * numerics.FP8_MAX / NARROWEST
"""Largest magnitude below which a scale could be too small for a device."""
ALIKE = 0.03
"""Candidates that differ by less than this part are one."""


@dataclass(frozen=True, slots=True)
class Range:
    """What was seen of one tensor, and the clipping thresholds with the least squared error.

    Attributes:
        low, high: exact extremes over all samples.
        int8, fp8: magnitude that maps to the type's largest value (symmetric).
        u8: (low, high) of the asymmetric uint8 range; contains zero.
    """

    low: float
    high: float
    int8: float
    fp8: float
    u8: tuple[float, float]

    @property
    def dead(self) -> bool:
        """Whether the tensor was zero or next to it throughout, so that no scale can be given."""
        return max(-self.low, self.high) < FAINTEST


@dataclass(frozen=True, slots=True)
class Candidate:
    """A threshold and the method that proposes it."""

    method: str
    threshold: float


def choose(h: Histogram) -> Range:
    """The thresholds with the least squared error over the histogram, for each type."""
    if h.peak < FAINTEST:
        return Range(h.low, h.high, 0.0, 0.0, (0.0, 0.0))
    seen = _Seen(h)
    return Range(
        h.low,
        h.high,
        seen.least_squares("int8"),
        seen.least_squares("fp8"),
        seen.clipped(seen.least(seen.squared_error_u8)),
    )


def candidates(h: Histogram, kind: QuantType) -> tuple[Candidate, ...]:
    """Thresholds worth a measurement, largest first; those that are nearly alike are one.

    A tensor that was zero or next to it throughout has none.
    """
    if h.peak < FAINTEST:
        return ()
    seen = _Seen(h)
    proposed = [Candidate("max", h.peak)]
    proposed += [Candidate(f"percentile {p:g}", seen.percentile(p)) for p in PERCENTILES[::-1]]
    proposed += [
        Candidate("mse", seen.least_squares(kind)),
        Candidate("entropy", seen.least(seen.divergence(kind))),
    ]
    found: list[Candidate] = []
    for candidate in proposed:
        if all(abs(candidate.threshold / other.threshold - 1) > ALIKE for other in found):
            found.append(candidate)
    return tuple(sorted(found, key=lambda c: -c.threshold))


def relative_noise(h: Histogram, kind: QuantType, threshold: float) -> float:
    """Mean squared rounding error over mean squared value; 0 for a tensor of zeros or next to it."""
    if h.peak < FAINTEST:
        return 0.0
    seen = _Seen(h)
    return seen.squared_error(kind)(threshold) / float(seen.weight @ np.square(seen.x, dtype=np.float64))


class _Seen:
    """The occupied bins of a histogram, each as one value with a weight."""

    def __init__(self, h: Histogram) -> None:
        occupied = np.flatnonzero(h.counts)
        # a bin's centre may lie beyond the extremes
        self.x = np.clip(h.centers[occupied], np.float32(h.low), np.float32(h.high))
        self.weight = h.counts[occupied].astype(np.float64)
        self.low, self.high, self.peak = min(h.low, 0.0), max(h.high, 0.0), h.peak
        self.width = 2.0**h.exponent / BINS

    def least(self, error: Callable[[float], float], beyond: Sequence[float] = ()) -> float:
        """The threshold with the least error; of equal ones the first."""
        parts = [*np.geomspace(1.0, NARROWEST, CANDIDATES), *beyond]
        return float(min((self.peak * part for part in parts), key=error))

    def least_squares(self, kind: QuantType) -> float:
        """The threshold with the least squared error."""
        return self.least(self.squared_error(kind), OCTAVE.tolist() if kind == "fp8" else ())

    def percentile(self, percent: float) -> float:
        """The magnitude that so many of the values do not exceed."""
        magnitude = np.abs(self.x)
        order = np.argsort(magnitude, kind="stable")
        share = np.cumsum(self.weight[order])
        index = int(np.searchsorted(share, share[-1] * percent / 100))
        return max(float(magnitude[order[min(index, len(order) - 1)]]), self.peak * NARROWEST)

    def squared_error(self, kind: QuantType) -> Callable[[float], float]:
        def error(threshold: float) -> float:
            scale = np.float32(threshold / numerics.QMAX[kind])
            rounded = numerics.fake_quantize(self.x, scale, kind)
            return float(self.weight @ np.square(rounded - self.x, dtype=np.float64))

        return error

    def squared_error_u8(self, threshold: float) -> float:
        scale, zero_point = affine(*self.clipped(threshold))
        q = numerics.quantize_u8(self.x, scale, zero_point).astype(np.float32) - zero_point
        return float(self.weight @ np.square(q * scale - self.x, dtype=np.float64))

    def clipped(self, threshold: float) -> tuple[float, float]:
        """Clip at ±threshold whatever reaches beyond it: a short negative tail (SiLU) is kept whole."""
        return max(self.low, -threshold), min(self.high, threshold)

    def divergence(self, kind: QuantType) -> Callable[[float], float]:
        """Kullback–Leibler divergence of the clipped values, which pile up at the ends, from what the type
        makes of the others: the mass of each level spread evenly over the bins that become it. Zeros are
        exact in any type and left out."""
        magnitude = np.abs(self.x)

        def error(threshold: float) -> float:
            inside = (magnitude <= threshold) & (magnitude >= self.width)
            if not inside.any():
                return np.inf
            kept = self.weight[inside]
            scale = np.float32(threshold / numerics.QMAX[kind])
            level = numerics.quantize(self.x[inside], scale, kind).view(np.uint8)
            mass = np.bincount(level, kept, minlength=256)
            spread = (mass / np.maximum(np.bincount(level, minlength=256), 1))[level]
            clipped = kept.copy()
            clipped[0] += self.weight[self.x < -threshold].sum()
            clipped[-1] += self.weight[self.x > threshold].sum()
            return float(clipped @ np.log(clipped / spread * (kept.sum() / clipped.sum())))

        return error


def affine(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of uint8 over `low`…`high`; real zero is a level of its own."""
    scale = np.float32((high - low) / 255) or np.float32(1)
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))
