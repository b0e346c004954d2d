"""`video:<path>`: what was found, drawn over the pictures; one file a feed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.errors import InputError, RuntimeFault, UsageError
from edge.sinks import FeedInfo
from edge.types import Image, Result

CODECS = {".mp4": ("mp4v", "avc1"), ".avi": ("MJPG",), ".mkv": ("mp4v", "MJPG")}
"""Codecs by file suffix, tried in this order: OpenCV's wheels have no H.264 encoder."""

FALLBACK_FPS = 10.0
"""For feeds without a clock, such as image folders: slow enough to look at."""


LONGEST_PAUSE = 10.0
"""Seconds without a result that a video shows as they were."""


def open(rest: str, feeds: Sequence[FeedInfo]) -> VideoSink:
    """`out.mp4`; with several feeds `out-<feed>.mp4` for each.

    Raises:
        UsageError: no path is given, or no codec is known for its suffix.
        InputError: the file cannot be written.
    """
    path = _path(rest)
    _check_writable(path)
    files = outputs(rest, feeds)
    return VideoSink({feed.name: Recording(file, feed.fps) for feed, file in zip(feeds, files, strict=True)})


def outputs(rest: str, feeds: Sequence[FeedInfo]) -> list[Path]:
    """One file for each feed, in their order.

    Raises:
        UsageError: as `open`.
    """
    path = _path(rest)
    if len(feeds) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{feed.name}") for feed in feeds]


def _path(rest: str) -> Path:
    if not rest:
        raise UsageError("video: without a path", "", "video:annotated.mp4")
    path = Path(rest)
    if path.suffix.lower() not in CODECS:
        known = ", ".join(CODECS)
        raise UsageError(f"video:{rest}", f"no codec for '{path.suffix}'", f"end the name in one of {known}")
    return path


def _check_writable(path: Path) -> None:
    """Fail before the run, not at its first result; OpenCV would only say no."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise InputError(f"cannot write {path}", e.strerror or str(e), "check the path and its rights") from e


class VideoSink:
    """Recordings by feed name."""

    def __init__(self, recordings: dict[str, Recording]) -> None:
        self.recordings = recordings

    def write(self, result: Result) -> None:
        frame = result.frame
        self.recordings[frame.feed].add(result.payload.draw(_color(frame.image)), frame.pts)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Finish all files.

        Raises:
            RuntimeFault: one is not complete; the others are finished all the same.
        """
        faults = []
        for recording in self.recordings.values():
            try:
                recording.close()
            except RuntimeFault as e:
                faults.append(e)
        if faults:
            raise faults[0]


class Recording:
    """One video file, opened with the size of its first picture; pictures of another size are fitted in.

    A picture is repeated until the next one's time, so that the video keeps the feed's pace where frames were
    dropped or last differently long.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self.path, self.fps = path, fps or FALLBACK_FPS
        self.frames = 0
        self._start: float | None = None
        self._last: Image | None = None
        self._writer: Any = None
        self._size = (0, 0)

    def add(self, image: Image, pts: float | None) -> None:
        """Append a picture that is shown at `pts` seconds; without one, right after the one before."""
        if self._writer is None:
            self._open(image)
        if pts is not None:
            self._start = pts if self._start is None else self._start
            self._fill(round((pts - self._start) * self.fps))
        self._last = _fit(image, self._size)
        self._write(self._last)

    def _fill(self, frames: int) -> None:
        """Repeat the last picture up to this many frames, for ten seconds at most: pauses are cut short."""
        for _ in range(min(frames - self.frames, round(LONGEST_PAUSE * self.fps))):
            if self._last is not None:
                self._write(self._last)

    def _write(self, image: Image) -> None:
        self._writer.write(image)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and check that it holds what was written: OpenCV does not tell of a full disk.

        Raises:
            RuntimeFault: it does not.
        """
        if self._writer is None:
            return
        import cv2

        self._writer.release()
        self._writer = None
        capture = cv2.VideoCapture(str(self.path.resolve()))
        held = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if held < self.frames:
            raise RuntimeFault(
                f"{self.path} holds {held} of {self.frames} frames", "writing it failed", "free some space"
            )

    def _open(self, image: Image) -> None:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")
        import cv2

        self._size = (image.shape[1] & ~1, image.shape[0] & ~1)  # video codecs want even sides
        for codec in CODECS[self.path.suffix.lower()]:
            fourcc = cv2.VideoWriter.fourcc(*codec)
            self._writer = cv2.VideoWriter(str(self.path.resolve()), fourcc, self.fps, self._size)
            if self._writer.isOpened():
                return
        self._writer = None
        raise RuntimeFault(f"cannot write {self.path}", "OpenCV opens none of its encoders")


def _color(image: Image) -> Image:
    import cv2
    import numpy as np

    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)


def _fit(image: Image, size: tuple[int, int]) -> Image:
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
