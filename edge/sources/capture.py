"""What cameras and GStreamer pipelines share: an OpenCV capture that has no end."""

from __future__ import annotations

import time
from typing import Any

from edge.errors import InputError
from edge.sources import Absent, Allocate, Picture, numpy_memory


class CaptureSource:
    """A live source. Its newest frame wins; its clock starts when it is opened.

    Args:
        absent: its name and address.
        capture: a `cv2.VideoCapture`, opened or not.
        why, fix: for the error where it is not opened.

    Raises:
        InputError: it is not opened, or gives no picture.
    """

    live = True
    paced = False
    truth_kind: str | None = None

    def __init__(self, absent: Absent, capture: Any, why: str, fix: str) -> None:
        import cv2

        self.label = absent.label
        self.problem: str | None = None
        self.allocate: Allocate = numpy_memory
        self._shape: tuple[int, ...] | None = None
        self._capture = capture
        self._start = time.perf_counter()
        opened = capture.isOpened()
        # The first picture is only a proof: by the first read it is old.
        if not opened or self._grab() is None:
            self.close()
            raise InputError(f"cannot open {absent.shown}", "it gives no picture" if opened else why, fix)
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = rate if 0 < rate < 1000 else None

    def read(self) -> Picture | None:
        picture = self._grab()
        if picture is None:
            self.problem = f"{self.label} gives no more pictures"
        return picture

    def close(self) -> None:
        self._capture.release()

    def _grab(self) -> Picture | None:
        got, image = self._capture.read(self.allocate(self._shape) if self._shape else None)
        if not got or image is None:
            return None
        self._shape = image.shape
        return Picture(image, time.perf_counter() - self._start)
