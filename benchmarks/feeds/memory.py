"""Cameras whose pictures lie in memory: reading costs nothing but waiting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.sources import Picture
from edge.types import Image


class Camera:
    """Gives the pictures in turn, each when it falls due.

    Args:
        frames: after which it ends; None: never.
    """

    label, live, paced, truth_kind, problem = "memory", True, False, None, None

    def __init__(self, pictures: Sequence[Image], fps: float, frames: int | None = None) -> None:
        self.fps: float | None = fps
        self._pictures, self._frames = pictures, frames
        self._number, self._start = 0, time.perf_counter()

    def read(self) -> Picture | None:
        if self._number == self._frames:
            return None
        number, self._number = self._number, self._number + 1
        pts = number / (self.fps or 1.0)
        time.sleep(max(0.0, self._start + pts - time.perf_counter()))
        return Picture(self._pictures[number % len(self._pictures)], pts)

    def close(self) -> None:
        pass


class Windows(Sequence[Image]):
    """Windows on one larger picture, each at another place, as a camera sees that is never quite still.

    Args:
        size: of a window, width and height.
    """

    def __init__(self, picture: Image, size: tuple[int, int]) -> None:
        self._picture, (self._width, self._height) = picture, size
        self._across = picture.shape[1] - self._width
        self._down = picture.shape[0] - self._height

    def __len__(self) -> int:
        return self._across * self._down

    def __getitem__(self, index: Any) -> Any:
        top, left = divmod(index, self._across)
        return self._picture[top : top + self._height, left : left + self._width]


def shaken(size: tuple[int, int] = (640, 480), by: int = 64) -> Windows:
    """More than four thousand pictures, none of which comes again soon."""
    (picture,) = noisy(1, (size[0] + by, size[1] + by))
    return Windows(picture, size)


def noisy(
    count: int, size: tuple[int, int] = (640, 480), strength: float = 4.0, seed: int = 0
) -> list[Image]:
    """The same scene so many times, each with noise of its own as a sensor's.

    Args:
        size: width and height.
        strength: standard deviation of the noise, grey levels.
    """
    import cv2

    random = np.random.default_rng(seed)
    scene = cv2.resize(random.integers(40, 200, (9, 12, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
    for _ in range(12):  # edges, for the lens to be judged by
        left, top = random.integers(0, size[0] - 60), random.integers(0, size[1] - 60)
        color = random.integers(30, 220, 3).tolist()
        cv2.rectangle(scene, (int(left), int(top)), (int(left) + 50, int(top) + 50), color, -1)
    pictures = []
    for _ in range(count):
        noise = random.normal(0, strength, scene.shape).astype(np.float32)
        pictures.append(np.clip(scene + noise, 0, 255).astype(np.uint8))
    return pictures
