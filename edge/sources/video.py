"""A video file, decoded by OpenCV's FFmpeg."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import InputError
from edge.sources import Address, Allocate, Picture, exists, numpy_memory

SLACK = 0.02
"""Containers estimate their frame count; a file is truncated when more than this share is missing."""


def claims(path: Path) -> bool:
    return path.is_file()


def open(address: Address, realtime: bool) -> VideoFile:
    """Open the file and decode its first frame, so that a file without one is an error before the run.

    Raises:
        InputError: it is missing, empty, or holds no video that can be decoded.
    """
    address.settings({})
    return VideoFile(address.path, realtime)


class VideoFile:
    live = False
    truth_kind: str | None = None

    def __init__(self, path: Path, paced: bool = False) -> None:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")  # our error says it; FFmpeg's lines do not help
        import cv2

        self._cv2: Any = cv2
        self.label, self.paced, self.path = path.stem, paced, path
        self.problem: str | None = None
        self.allocate: Allocate = numpy_memory
        self._shape: tuple[int, ...] | None = None
        if not exists(path):
            raise InputError(f"cannot read {path}", "there is no such file", "check the path")
        self._capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = rate if 0 < rate < 1000 else None
        self._promised = int(max(0, self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._given = 0
        self._first = self._decode()
        if self._first is None:
            self.close()
            raise InputError(f"cannot read {path}", _why(path), "check that it plays in a video player")

    def read(self) -> Picture | None:
        picture, self._first = self._first or self._decode(), None
        if picture is None:
            if self._given < self._promised * (1 - SLACK) - 1:
                self.problem = f"{self.path.name} ends after {self._given} of {self._promised} frames"
            return None
        self._given += 1
        return picture

    def close(self) -> None:
        self._capture.release()

    def _decode(self) -> Picture | None:
        buffer = self.allocate(self._shape) if self._shape else None
        got, image = self._capture.read(buffer)
        if not got or image is None:
            return None
        self._shape = image.shape
        pts = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1e3
        return Picture(np.asarray(image, np.uint8), pts, {"file": self.path.name})


def _why(path: Path) -> str:
    return "the file is empty" if path.stat().st_size == 0 else "it holds no video that can be decoded"
