"""`camera:N`: a camera of this machine, by OpenCV. Its newest frame wins."""

from __future__ import annotations

import time
from typing import Any

from edge.errors import InputError, UsageError
from edge.sources import Address, Allocate, Picture, numpy_memory


def open(address: Address, realtime: bool) -> Camera:
    """`camera:0?size=1280x720&fps=30`; without settings the camera's own.

    Raises:
        UsageError: N is not a number.
        InputError: there is no such camera, or it gives no picture.
    """
    from edge.sources.pattern import parse_size

    values = address.settings({"size": "", "fps": 0.0})
    if not address.place.isdigit():
        raise UsageError(
            f"no camera '{address.place}'", "cameras have numbers", "write camera:0 for the first"
        )
    size = parse_size(values["size"], address.uri) if values["size"] else None
    return Camera(int(address.place), size, values["fps"])


def open_capture(number: int) -> Any:
    """OpenCV's capture of a camera; a test puts a fake here."""
    import cv2

    return cv2.VideoCapture(number)


class Camera:
    live = True
    paced = False
    truth_kind: str | None = None

    def __init__(self, number: int, size: tuple[int, int] | None = None, fps: float = 0.0) -> None:
        import cv2

        self.label = f"camera-{number}"
        self.problem: str | None = None
        self.allocate: Allocate = numpy_memory
        self._shape: tuple[int, ...] | None = None
        self._capture = open_capture(number)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what waits in the driver is already old
        if size:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        if fps:
            self._capture.set(cv2.CAP_PROP_FPS, fps)
        self._start = time.perf_counter()
        opened = self._capture.isOpened()
        # The first picture is only a proof: by the first read it is old.
        if not opened or self._grab() is None:
            self.close()
            why = "it gives no picture" if opened else "there is none with this number"
            raise InputError(f"cannot open camera {number}", why, "list them with: ls /dev/video*")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
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
