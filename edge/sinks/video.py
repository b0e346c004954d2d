"""`video:<path>`: what was found, drawn over the pictures; one file a feed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.errors import RuntimeFault, UsageError
from edge.sinks import Address, FeedInfo
from edge.sinks.drawing import fit, in_color
from edge.sinks.files import check_writable, free
from edge.sinks.segments import Segments
from edge.types import Frame, Image, Result

CODECS = {".mp4": ("mp4v", "avc1"), ".avi": ("MJPG",), ".mkv": ("mp4v", "MJPG")}
"""Codecs by file suffix, tried in this order: OpenCV's wheels have no H.264 encoder."""

FALLBACK_FPS = 10.0
"""For feeds without a clock, such as image folders: slow enough to look at."""


LONGEST_PAUSE = 10.0
"""Seconds without a result that a video shows as they were."""


QUALITY = 80
"""Of the JPEG pictures in segments."""


def open(address: Address, feeds: Sequence[FeedInfo]) -> VideoSink:
    """`out.mp4`; with several feeds `out-<feed>.mp4` for each. With `segment_s` a row of files for each.

    Raises:
        UsageError: no path is given, no codec is known for its suffix, or a setting is wrong.
        InputError: the file cannot be written.
    """
    settings = _settings(address)
    check_writable(address.path)
    names = dict(zip((feed.name for feed in feeds), outputs(address, feeds), strict=True))
    return VideoSink(address.path, {feed.name: feed.fps for feed in feeds}, names, settings)


def outputs(address: Address, feeds: Sequence[FeedInfo]) -> list[Path]:
    """One file for each feed, in their order; segments have the time in their names as well.

    Raises:
        UsageError: as `open`.
    """
    _settings(address)
    if len(feeds) == 1:
        return [address.path]
    return [_path_of(address.path, feed.name) for feed in feeds]


def _path_of(path: Path, feed: str) -> Path:
    return path.with_stem(f"{path.stem}-{feed}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What may follow the path."""

    segment_s: float = 0.0
    keep: int = 0
    quality: int = QUALITY


def _settings(address: Address) -> Settings:
    if not address.place:
        raise UsageError("video: without a path", "", "video:annotated.mp4")
    suffix = address.path.suffix.lower()
    if suffix not in CODECS:
        known = ", ".join(CODECS)
        raise UsageError(address.uri, f"no codec for '{suffix}'", f"end the name in one of {known}")
    settings = Settings(**address.settings(asdict(Settings())))
    wrong = {
        "segment_s": not 0 <= settings.segment_s < math.inf,
        "keep": settings.keep < 0,
        "quality": not 1 <= settings.quality <= 100,
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise UsageError(f"{address.uri}: {name}={address.query[name]} is out of range")
    if settings.segment_s and suffix != ".mkv":
        raise UsageError(address.uri, "segments are written as .mkv", "end the name in .mkv")
    if not settings.segment_s and {"keep", "quality"} & set(address.query):
        raise UsageError(address.uri, "keep and quality are settings of segments", "add segment_s=60")
    return settings


class VideoSink:
    """A recording for each feed, begun at its first picture; feeds that come later get one too.

    Args:
        rates: frames a second of the feeds that are known.
        files: their files. What is made later, after a fault or for a new feed, never replaces anything.
    """

    def __init__(
        self, path: Path, rates: Mapping[str, float | None], files: Mapping[str, Path], settings: Settings
    ) -> None:
        self.path, self.settings = path, settings
        self._rates, self._files = dict(rates), dict(files)
        self._fresh = set(files)
        self._recordings: dict[str, Recording | Segments] = {}

    def write(self, result: Result) -> None:
        frame = result.frame
        recording = self._recordings.get(frame.feed)
        if recording is None:
            recording = self._recordings[frame.feed] = self._recording(frame.feed)
        recording.add(result.payload.draw(in_color(frame.image)), frame)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Finish all files.

        Raises:
            OSError, RuntimeFault: one is not complete; the others are finished all the same.
        """
        faults: list[OSError | RuntimeFault] = []
        recordings, self._recordings = self._recordings, {}
        for recording in recordings.values():
            try:
                recording.close()
            except (OSError, RuntimeFault) as e:
                faults.append(e)
        if faults:
            raise faults[0]

    def reopen(self) -> None:
        check_writable(self.path)

    def _recording(self, feed: str) -> Recording | Segments:
        path = self._files.get(feed) or _path_of(self.path, feed)
        fps = self._rates.get(feed) or FALLBACK_FPS
        settings = self.settings
        if settings.segment_s:
            return Segments(path, fps, settings.segment_s, settings.keep, settings.quality)
        if feed in self._fresh:
            self._fresh.remove(feed)
        else:
            path = free(path)
        return Recording(path, fps)


class Recording:
    """One video file, opened with the size of its first picture; pictures of another size are fitted in.

    A picture is repeated until the next one's time, so that the video keeps the feed's pace where frames were
    dropped or last differently long.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.frames = 0
        self._start: float | None = None
        self._last: Image | None = None
        self._writer: Any = None
        self._size = (0, 0)

    def add(self, image: Image, frame: Frame) -> None:
        """Append a picture that is shown at its frame's `pts`; without one, right after the one before."""
        pts = frame.pts
        if self._writer is None:
            self._open(image)
        if pts is not None:
            self._start = pts if self._start is None else self._start
            self._fill(round((pts - self._start) * self.fps))
        self._last = fit(image, self._size)
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
