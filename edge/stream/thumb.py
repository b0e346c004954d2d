"""Small things to decide by, made of a picture only when somebody asks: a grey copy, a sample, a mark."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from edge.types import Array, Image

SIDE = 64
"""Most columns and rows of a thumbnail."""
SAMPLES = 4
"""Pixels a side that a cell of a thumbnail is the mean of; more would not be seen, and cost."""
MARK_ROWS = 8
"""Rows of a picture that its mark is made of."""

WIDENED = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
"""From the range of video, 16–235, to 0–255."""


class Glance:
    """What can be seen of a picture at a glance, each part made when it is first asked for.

    Args:
        image: H × W × 3 BGR or H × W grey, uint8.
        narrow: a grey image's black is 16 and its white 235, as in most video; what is made of it is 0–255.
    """

    def __init__(self, image: Image | Array, narrow: bool = False) -> None:
        self.image, self.narrow = image, narrow

    @cached_property
    def mark(self) -> int:
        """A number that the same picture has again, and one with a sensor's noise never: a twentieth of the
        cost of a thumbnail, but it knows nothing of what is between its rows."""
        height = len(self.image)
        step = -(-height // MARK_ROWS)
        return hash(self.image[step // 2 :: step].tobytes())

    @cached_property
    def sample(self) -> Array:
        """See `sample`."""
        return self._widened(sample(self.image))

    @cached_property
    def thumb(self) -> Array:
        """See `thumbnail`."""
        return self._widened(thumbnail(self.image))

    def _widened(self, small: Array) -> Array:
        return np.asarray(cv2.LUT(small, WIDENED)) if self.narrow else small


def thumbnail(image: Image | Array) -> Array:
    """The picture in grey, its proportions kept, at most 64 × 64 cells; smaller pictures stay as large.

    Args:
        image: H × W × 3 BGR or H × W grey, uint8; a view of a larger picture will do.

    Returns:
        Rows × columns uint8: each cell the mean of a grid of pixels.
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    samples = max(1, min(SAMPLES, int(1 / scale)))
    picked = cv2.resize(image, (columns * samples, rows * samples), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(picked, cv2.COLOR_BGR2GRAY) if picked.ndim == 3 else picked
    return np.asarray(cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA))


def sample(image: Image | Array) -> Array:
    """A grid of at most 64 × 40 single pixels in grey: each has all the noise of the sensor."""
    height, width = image.shape[:2]
    down, across = -(-height // 40), -(-width // SIDE)
    picked = np.array(image[down // 2 :: down, across // 2 :: across])
    return np.asarray(cv2.cvtColor(picked, cv2.COLOR_BGR2GRAY)) if picked.ndim == 3 else picked
