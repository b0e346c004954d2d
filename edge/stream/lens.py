"""What a picture tells of the lens and the light it was taken with, and what is usual for its feed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge.types import Array, Image

WHITE = 250
"""From this value on a pixel is taken for saturated."""
NEAR = 12
"""Grey levels that do not set a pixel apart from the median of its picture: faint noise."""
USUAL_S = 60.0
"""Time constant of what is usual, in seconds."""
KNOWN_S, KNOWN_LOOKS = 3.0, 5
"""From when on what is usual is known."""

_CELLS = 24_000
"""Cells that sharpness is measured in: few enough for OpenCV not to wake up another thread for them."""
_TILES = (8, 6)
_SHARPEST = 0.9


@dataclass(frozen=True, slots=True)
class Light:
    """How the values of a picture's pixels are distributed.

    Attributes:
        mean, median: 0–255.
        apart: share of values that are not near the median: what can be seen at all, or strong noise.
        white: share of values that are saturated.
    """

    mean: float
    median: int
    apart: float
    white: float


def light(sample: Array) -> Light:
    """From a sample of pixels (`edge.stream.thumb.sample`)."""
    counts = np.bincount(sample.ravel(), minlength=256)
    total = sample.size
    median = int(np.searchsorted(np.cumsum(counts), total / 2))
    near = counts[max(0, median - NEAR) : median + NEAR + 1].sum()
    mean = float(counts @ np.arange(256)) / total
    return Light(mean, median, 1 - float(near) / total, float(counts[WHITE:].sum()) / total)


def sharpness(image: Image | Array) -> float:
    """How steep edges are where they are steepest: the difference of neighbouring pixels, root mean square,
    that the best tenth of the picture's tiles reach.

    The best, because what a picture shows may leave it: without its objects a smooth scene still has sharp
    edges somewhere, and behind a smeared lens none. Measured at about 200 columns, in means of four pixels:
    finer than that is noise to most networks.
    """
    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(4 * _CELLS / max(1, height * width)))
    columns, rows = int(width * scale) // 2, int(height * scale) // 2
    if columns < 2 * _TILES[0] or rows < 2 * _TILES[1]:
        return 0.0
    picked = cv2.resize(image, (2 * columns, 2 * rows), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(picked, cv2.COLOR_BGR2GRAY) if picked.ndim == 3 else picked
    grey = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA)
    across, down = _TILES
    width, height = (columns - 1) // across * across, rows // down * down  # tiles of whole pixels are quick
    steps = cv2.absdiff(grey[:height, 1 : width + 1], grey[:height, :width])
    tiles = cv2.resize(cv2.multiply(steps, steps, dtype=cv2.CV_32F), _TILES, interpolation=cv2.INTER_AREA)
    return math.sqrt(float(np.sort(tiles, axis=None)[int(_SHARPEST * tiles.size)]))


class Usual:
    """Running means over about a minute of healthy pictures.

    Attributes:
        white, mean, sharpness: of `light` and `sharpness`.
    """

    def __init__(self) -> None:
        self.white = self.mean = self.sharpness = 0.0
        self._looks = 0
        self._start = self._last = 0.0

    @property
    def known(self) -> bool:
        return self._looks >= KNOWN_LOOKS and self._last - self._start >= KNOWN_S

    def learn(self, seen: Light, sharp: float, now: float) -> None:
        self._looks += 1
        if self._looks == 1:
            self._start = self._last = now
        weight = max(1 / self._looks, 1 - math.exp((self._last - now) / USUAL_S))
        self._last = now
        self.white += weight * (seen.white - self.white)
        self.mean += weight * (seen.mean - self.mean)
        self.sharpness += weight * (sharp - self.sharpness)
