"""Percentiles of a run of any length in a fixed amount of memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from edge.backends import DEVICE_STAGES, Span

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

    def spread_ms(self) -> dict[str, float]:
        """Percentiles and maximum, in milliseconds."""
        values = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        return {**{name: _ms(self.percentile(q)) for name, q in values.items()}, "max": _ms(self.maximum)}


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
        return self.histograms["total"].spread_ms()

    def means_ms(self) -> dict[str, float]:
        """Mean of every stage, in milliseconds."""
        return {stage: _ms(histogram.mean) for stage, histogram in self.histograms.items()}


ONE_IN = 4
"""Batches of which one is judged for overlap: it takes longer than everything else that is counted."""


class DeviceTimes:
    """How long the device's stages took, and how much of the copying ran beside another batch's execution.

    Args:
        slots: in flight at the same time; a batch is judged once as many later ones are known.
    """

    def __init__(self, slots: int) -> None:
        self.histograms = {stage: Histogram() for stage in DEVICE_STAGES}
        self._margin = slots + 1
        self._window: deque[Mapping[str, Span]] = deque(maxlen=2 * self._margin + 1)
        self._moved = self._hidden = 0.0
        self._until_judged = 0

    @property
    def batches(self) -> int:
        return self.histograms["execute"].count

    def add(self, spans: Mapping[str, Span]) -> None:
        """One batch's stages, batches in the order they were submitted."""
        for stage, (start, end) in spans.items():
            self.histograms[stage].add(end - start)
        self._window.append(spans)
        if len(self._window) == self._window.maxlen:
            self._until_judged -= 1
            if self._until_judged < 0:
                self._until_judged = ONE_IN - 1
                self._judge(self._margin)

    def summary(self) -> dict[str, Any]:
        """Means in milliseconds; `overlap_ratio` is None before enough batches ran beside each other."""
        ratio = self._hidden / self._moved if self._moved else None
        return {
            "batches": self.batches,
            "stages_ms": {stage: _ms(histogram.mean) for stage, histogram in self.histograms.items()},
            "execute_p99_ms": _ms(self.histograms["execute"].percentile(0.99)),
            "overlap_ratio": None if ratio is None else round(ratio, 4),
        }

    def _judge(self, index: int) -> None:
        """Count the batch's copies and preprocessing, and the part of them that others' execution hid."""
        others = [spans["execute"] for i, spans in enumerate(self._window) if i != index]
        busy = merged(others)
        for stage, (start, end) in self._window[index].items():
            if stage != "execute":
                self._moved += end - start
                self._hidden += sum(max(0.0, min(end, b) - max(start, a)) for a, b in busy)


def merged(spans: list[Span]) -> list[Span]:
    """The same time as spans that do not overlap, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
