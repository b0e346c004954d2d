"""A feed's pictures as a row of short videos, each playable at any moment."""

from __future__ import annotations

from pathlib import Path

from edge.errors import RuntimeFault
from edge.sinks.files import check_writable, prune, stamped
from edge.sinks.matroska import Matroska
from edge.types import Frame, Image

LONGEST_PAUSE = 10.0
"""Seconds without a picture after which a new segment begins."""


class Segments:
    """Videos named by the time of their first picture: `out-20250131T235959.125Z.mkv`.

    A new one begins when `segment_s` seconds are full, when the size of the pictures changes, when the feed's
    clock jumps, and when somebody deletes the one that is written.

    Args:
        fps: the pace of a feed that has no clock.
        keep: how many segments are kept; 0: all.
        quality: of the JPEG pictures, 1 to 100.
    """

    def __init__(self, path: Path, fps: float, segment_s: float, keep: int, quality: int) -> None:
        self.path, self.fps, self.segment_s, self.keep = path, fps, segment_s, keep
        self.quality = quality
        self._video: Matroska | None = None
        self._size = (0, 0)
        self._start = self._last = self._duration = 0.0

    def add(self, image: Image, frame: Frame) -> None:
        """Append a picture, which is in its file when this returns.

        Raises:
            RuntimeFault: it cannot be written.
        """
        now = self._last + 1 / self.fps if frame.pts is None else frame.pts
        size = (image.shape[1], image.shape[0])
        try:
            video = self._video
            if video is None or size != self._size or not self._goes_on(now) or not video.in_place():
                video = self._begin(size, now, frame.captured_at)
            video.add(_jpeg(image, self.quality), now - self._start)
        except OSError as e:
            raise RuntimeFault(
                f"cannot write {self.path}", e.strerror or str(e), "free some space; check the folder"
            ) from e
        step = now - self._last if video.frames > 1 else 1 / self.fps
        self._last, self._duration = now, now - self._start + step

    def close(self) -> None:
        """Finish the segment."""
        if self._video is not None:
            video, self._video = self._video, None
            video.close(self._duration) if video.frames else video.discard()

    def _goes_on(self, now: float) -> bool:
        full = round(now - self._start, 3) >= self.segment_s
        return 0 <= now - self._last <= LONGEST_PAUSE and not full

    def _begin(self, size: tuple[int, int], now: float, date: float) -> Matroska:
        self.close()
        check_writable(self.path)  # makes a folder that has gone
        if self.keep:
            prune(self.path, self.keep - 1)  # first, or a disk that is full stays full
        self._video = Matroska(stamped(self.path, date), size, date)
        self._size, self._start, self._last = size, now, now
        return self._video


def _jpeg(image: Image, quality: int) -> bytes:
    import cv2

    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
