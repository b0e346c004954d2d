"""Percentiles of a run of any length in a fixed amount of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

STAGES = ("capture", "queue", "preprocess", "infer", "postprocess", "total")

_SHORTEST = 1e-6
_LONGEST = 1e4
_STEP = math.log(1.02)  # neighbouring buckets differ by 2 %, so a percentile is off by 1 % at most
_OFFSET = math.log(_SHORTEST)
_BUCKETS = int((math.log(_LONGEST) - _OFFSET) / _STEP) + 2


class Histogram:
    """Durations in buckets of equal ratio, 1 µs to 10 000 s; count, sum and maximum are exact.

    One thread writes. Others may read at any time; they may miss what is being written.
    """

    __slots__ = ("buckets", "count", "maximum", "total")

    def __init__(self) -> None:
        self.buckets = [0] * _BUCKETS
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration; a negative one (a clock that was set) counts as zero."""
        index = 0
        if seconds > _SHORTEST:
            index = min(int((math.log(seconds) - _OFFSET) / _STEP) + 1, _BUCKETS - 1)
        self.buckets[index] += 1
        self.count += 1
        self.total += max(seconds, 0.0)
        if seconds > self.maximum:
            self.maximum = seconds

    def percentile(self, q: float) -> float:
        """The duration in seconds that a share `q` (0–1) of all durations does not exceed; 0 without any."""
        rank = max(1, math.ceil(q * self.count))
        seen = 0
        for index, count in enumerate(self.buckets):
            seen += count
            if seen >= rank:
                middle = math.exp(_OFFSET + (index - 0.5) * _STEP)
                return min(middle, self.maximum)
        return self.maximum

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


class StageTimes:
    """One histogram per stage of a feed's results."""

    def __init__(self) -> None:
        self.histograms = {stage: Histogram() for stage in STAGES}

    def add(self, stages: Mapping[str, float]) -> None:
        histograms = self.histograms
        for stage, seconds in stages.items():
            histograms[stage].add(seconds)

    def latency_ms(self) -> dict[str, float]:
        """Percentiles of the total, in milliseconds."""
        total = self.histograms["total"]
        values = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        latency = {name: _ms(total.percentile(q)) for name, q in values.items()}
        return {**latency, "max": _ms(total.maximum)}

    def means_ms(self) -> dict[str, float]:
        """Mean of every stage, in milliseconds."""
        return {stage: _ms(histogram.mean) for stage, histogram in self.histograms.items()}


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
