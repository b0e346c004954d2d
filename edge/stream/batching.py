"""How many frames share an inference, where a latency was promised."""

from __future__ import annotations

import math

WINDOW = 32
"""Results after which the latency is judged."""
SHARE = 0.95
"""Part of the results that has to keep the target."""
ROOM = 0.7
"""A batch may grow while this part of the target is kept."""
PATIENT, MOST_PATIENT = 2, 64
"""Windows to wait before growing again after a batch had to shrink, doubling up to the most."""


class BatchSize:
    """The most frames of the next batch: doubled under load, halved when the target is missed.

    Args:
        most: that the engine takes.
        target: seconds from frame to result; None for always as many as the engine takes.

    Attributes:
        limit: of the next batch.
        missed: windows in which the target was missed.
    """

    def __init__(self, most: int, target: float | None = None) -> None:
        self.most, self.target = most, target
        self.limit = most if target is None else 1
        self.missed = 0
        self._seconds: list[float] = []
        self._pressed = 0
        self._patience, self._pause = 0, PATIENT

    def took(self, frames: int, waiting: int) -> None:
        """A batch was formed; so many frames were left waiting."""
        if frames >= self.limit and waiting:
            self._pressed += 1

    def gave(self, seconds: float) -> None:
        """A result came so long after its frame."""
        if self.target is None:
            return
        self._seconds.append(seconds)
        if len(self._seconds) >= WINDOW:
            self._judge(self.target)

    def _judge(self, target: float) -> None:
        slowest = sorted(self._seconds)[math.ceil(SHARE * len(self._seconds)) - 1]
        pressed, self._pressed = self._pressed, 0
        self._seconds.clear()
        self._patience = max(0, self._patience - 1)
        if slowest > target:
            self.missed += 1
            if self.limit > 1:
                self.limit //= 2
                self._patience, self._pause = self._pause, min(2 * self._pause, MOST_PATIENT)
        elif pressed and slowest <= ROOM * target and not self._patience:
            self.limit = min(2 * self.limit, self.most)
