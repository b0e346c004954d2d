"""Whether anything moved in a feed, so that its engine need not look at the same picture again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from edge.stream.config import MotionConfig, Rectangle
from edge.stream.limit import span
from edge.types import Array

NOISES = 6.0
"""A change is larger than this many times the median difference of a cell from one frame to the next: 5.7
standard deviations of normal noise, where none of 2304 cells comes by chance for hours."""
LOUDEST = 3.0
"""However noisy a cell is, this many times the contrast is a change."""
FAINT = 3
"""Around a cell that has changed, a change as large as a third belongs to it: the edge of an object."""
LEARN = 0.05
"""Grey levels by which the estimate of a cell's noise moves in a frame."""
ADJUST = 8
"""Frames between two adjustments of the limits to the noise."""
BACKGROUND_S = 1.0
"""Time constant of the running background, in seconds: light that drifts is followed, an object is not."""

_AROUND = np.ones((3, 3), np.uint8)


class Motion(NamedTuple):
    """What the gate says of a frame.

    Attributes:
        run: whether the engine has to look at it.
        share: part of the picture (or of its regions) that differs from what the engine last looked at, or
            from the running background if that is more; 0 to 1, and 0 for the first frame.
    """

    run: bool
    share: float


class MotionGate:
    """Compares thumbnails with what the engine last looked at.

    A change stays one until a frame that shows it is run: none is missed because its first frame was dropped.
    How much a cell has to change follows its own noise, measured from frame to frame by a running median,
    which neither objects that pass nor key frames disturb. What changes more slowly than objects do (light)
    is run when it has added up to a change, and else every `refresh_s`.
    """

    def __init__(self, settings: MotionConfig) -> None:
        self._settings = settings
        self._ran = -math.inf
        self._last: Array = np.zeros(0, np.uint8)
        self._still = self._reference = self._last

    def decide(self, thumb: Array, now: float) -> Motion:
        """Whether a frame is to be run; asked for every frame that could be, whoever else wants it run.

        Args:
            thumb: `edge.stream.thumb.thumbnail` of it. Another shape than before begins anew.
            now: seconds, on any clock that does not go back.
        """
        if thumb.shape != self._last.shape:
            self._begin(thumb, now)
            return Motion(True, 0.0)
        self._learn(thumb, now)
        changed = self._share(thumb, self._reference)
        share = max(changed, self._share(thumb, self._still))
        due = now - self._ran >= self._settings.refresh_s
        return Motion(due or changed >= self._least, share)

    def ran(self, thumb: Array, now: float) -> None:
        """The engine looks at this frame: from now on changes are measured against it.

        Where nothing has changed, against the background, which has less noise.
        """
        if thumb.shape != self._last.shape:
            self._begin(thumb, now)
        self._ran = now
        change = cv2.bitwise_or(self._change(thumb, self._reference), self._change(thumb, self._still))
        self._reference = np.where(change, thumb, self._still)

    def _begin(self, thumb: Array, now: float) -> None:
        self._ran = -math.inf
        self._last = self._still = self._reference = thumb
        self._background = thumb.astype(np.float32)
        self._noise: Array | None = None
        self._frames, self._learned = 1, now
        self._mask = region_mask(self._settings.regions, thumb.shape)
        self._cells = cv2.countNonZero(self._mask)
        self._least = max(1, math.floor(self._settings.share * self._cells)) / self._cells
        self._adjust(np.zeros(thumb.shape, np.float32))

    def _share(self, thumb: Array, before: Array) -> float:
        change = cv2.bitwise_and(self._change(thumb, before), self._mask)
        return float(cv2.countNonZero(change) / self._cells)

    def _change(self, thumb: Array, before: Array) -> Array:
        """255 in the cells that differ: those that do clearly, and what belongs to them around."""
        difference = cv2.absdiff(thumb, before)
        clear = cv2.compare(difference, self._limit, cv2.CMP_GE)
        if not cv2.hasNonZero(clear):
            return np.asarray(clear)
        faint = cv2.compare(difference, self._faint, cv2.CMP_GE)
        return np.asarray(cv2.bitwise_and(cv2.dilate(clear, _AROUND), faint))

    def _learn(self, thumb: Array, now: float) -> None:
        """Follow background and noise; a frame that repeats the one before says nothing of the noise."""
        self._frames += 1
        step = cv2.absdiff(thumb, self._last)
        self._last = thumb
        if self._noise is None:
            self._noise = np.full(thumb.shape, np.median(step), np.float32)
        elif cv2.countNonZero(step):
            self._noise += np.where(step > self._noise, np.float32(LEARN), np.float32(-LEARN))
        if self._frames % ADJUST == 2:
            self._adjust(self._noise)
        weight = max(1 / self._frames, 1 - math.exp(min(0.0, self._learned - now) / BACKGROUND_S))
        self._learned = now
        cv2.accumulateWeighted(thumb, self._background, weight)
        self._still = cv2.convertScaleAbs(self._background)

    def _adjust(self, noise: Array) -> None:
        least = math.ceil(self._settings.contrast)
        self._limit = np.clip(NOISES * noise, least, min(255, LOUDEST * least)).astype(np.uint8)
        self._faint = np.maximum(self._limit // FAINT, 1)


def region_mask(regions: Sequence[Rectangle], shape: tuple[int, ...]) -> Array:
    """255 in the cells of a thumbnail where motion counts, 0 elsewhere; no regions: everywhere."""
    mask = np.zeros(shape, np.uint8)
    for left, top, width, height in regions or ((0.0, 0.0, 1.0, 1.0),):
        mask[slice(*span(top, height, shape[0])), slice(*span(left, width, shape[1]))] = 255
    return mask
