"""A picture, or a folder of pictures in name order."""

from __future__ import annotations

import re
from pathlib import Path

from edge.errors import InputError, UsageError
from edge.sources import Address, Picture, exists

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def claims(path: Path) -> bool:
    return is_picture(path) or (path.is_dir() and any(is_picture(file) for file in path.iterdir()))


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def open(address: Address, realtime: bool) -> ImageFolder:
    """A folder (not those inside it) or one file; `?fps=` gives it a clock for `--realtime`.

    Raises:
        InputError: nothing is there, or no picture is.
    """
    fps = address.settings({"fps": 0.0})["fps"]
    if fps < 0:
        raise UsageError(f"{address.uri}: fps={fps:g} is below zero")
    return ImageFolder(address.path, fps or None, realtime)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key: `frame2` before `frame10`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name.lower())]


class ImageFolder:
    live = False
    truth_kind: str | None = None

    def __init__(self, path: Path, fps: float | None = None, realtime: bool = False) -> None:
        if not exists(path):
            raise InputError(f"cannot read {path}", "there is no such file or folder", "check the path")
        files = path.iterdir() if path.is_dir() else [path]
        self.files = sorted((f for f in files if is_picture(f)), key=lambda f: natural(f.name))
        if not self.files:
            known = " ".join(sorted(SUFFIXES))
            raise InputError(f"cannot read {path}", "it holds no picture", f"pictures end in {known}")
        self.label, self.fps = path.stem if path.is_file() else path.name, fps
        self.paced = realtime and fps is not None
        self.problem: str | None = None
        self._next = 0

    def read(self) -> Picture | None:
        import cv2
        import numpy as np

        if self._next >= len(self.files):
            return None
        index, self._next = self._next, self._next + 1
        path = self.files[index]
        # Read and decode apart: cv2.imread cannot say why it failed.
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if image is None:
            raise InputError(f"cannot read {path}", "it is no picture that can be decoded", "remove it")
        return Picture(
            np.asarray(image, np.uint8), index / self.fps if self.fps else None, {"file": path.name}
        )

    def close(self) -> None:
        pass
