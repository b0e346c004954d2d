"""A small grey copy of a picture, to decide things by, and a sample that tells pictures apart exactly."""

from __future__ import annotations

import cv2
import numpy as np

from edge.types import Array, Image

SIDE = 64
"""Most columns and rows of a thumbnail."""
SAMPLES = 4
"""Pixels a side that a cell of a thumbnail is the mean of; more would not be seen, and cost."""


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
    """A grid of at most 64 × 40 pixels exactly as they are: the noise of a sensor changes it every time."""
    height, width = image.shape[:2]
    down, across = -(-height // 40), -(-width // SIDE)
    return np.array(image[down // 2 :: down, across // 2 :: across])
