"""Less of a feed: fewer of its frames, a part of its picture."""

from __future__ import annotations

import math

from edge.stream.config import Rectangle
from edge.types import Image

SMOOTHING = 0.1
"""Weight of the newest pause in their running mean."""


class RateLimit:
    """Which frames of a feed are looked at: every `stride`-th, and of those at most `fps` a second.

    Frames are due on a grid, and the one nearest to each grid point is taken, so that 20 of 30 a second are
    20: no beat between the two rates and no jitter makes them 15.

    Args:
        fps: most frames a second on average; None: all.
    """

    def __init__(self, fps: float | None, stride: int = 1) -> None:
        self._interval = 0.0 if fps is None else 1 / fps
        self._stride = stride
        self._count = 0
        self._due = 0.0
        self._last = math.inf
        self._pause = 0.0

    def allows(self, moment: float) -> bool:
        """Whether the frame of this moment is looked at; asked once for every frame, in their order.

        Args:
            moment: seconds, on any clock; where it jumps back, counting begins anew.
        """
        self._count += 1
        if (self._count - 1) % self._stride:
            return False
        if not self._interval:
            return True
        if moment < self._due - self._pause_before(moment) / 2:
            return False
        self._due = max(self._due, moment - self._interval) + self._interval
        return True

    def _pause_before(self, moment: float) -> float:
        """The mean pause between frames so far, at most that between those that are taken."""
        pause, self._last = moment - self._last, moment
        if pause < 0:  # the first frame, or the clock jumped back
            self._due = moment
            return self._pause
        pause = min(pause, self._interval)
        self._pause += SMOOTHING * (pause - self._pause) if self._pause else pause
        return self._pause


def crop(image: Image, roi: Rectangle) -> Image:
    """The part of a picture that `roi` names, at least one pixel, as a view."""
    height, width = image.shape[:2]
    left, right = span(roi[0], roi[2], width)
    top, bottom = span(roi[1], roi[3], height)
    part: Image = image[top:bottom, left:right]
    return part


def span(start: float, length: float, size: int) -> tuple[int, int]:
    """From a start and a length as parts of `size` pixels: first and behind the last, at least one."""
    first = min(round(start * size), size - 1)
    return first, min(max(round((start + length) * size), first + 1), size)
