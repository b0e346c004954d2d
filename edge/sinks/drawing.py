"""Pictures as videos and windows want them."""

from __future__ import annotations

from edge.types import Image


def in_color(image: Image) -> Image:
    """H × W × 3, also of a grey picture."""
    import cv2
    import numpy as np

    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)


def fit(image: Image, size: tuple[int, int]) -> Image:
    """The whole picture at `size` (width, height), on black where the proportions differ."""
    import cv2
    import numpy as np

    width, height = size
    if (image.shape[1] - width, image.shape[0] - height) in ((0, 0), (1, 0), (0, 1), (1, 1)):
        return np.ascontiguousarray(image[:height, :width])
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - w) // 2, (height - h) // 2
    canvas[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return canvas
