"""`rtsp://`, `rtsps://`, `http://`, `https://`, `udp://`: streams of the network, by PyAV (FFmpeg).

FFmpeg gives timestamps, damage and reasons, which OpenCV hides. A read that gets nothing comes back after
`read_timeout`, with the interpreter free meanwhile, so that a thread is enough for a feed. Over RTSP, H.264
and H.265 come one frame late: only the next picture's start shows FFmpeg that one is complete.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from edge.errors import EdgeError, UsageError, nearest
from edge.sources import Absent, Address, Allocate, Damaged, Picture, Refused, numpy_memory
from edge.sources.connect import connect, pyav, reason
from edge.sources.h264 import FrameNumbers
from edge.sources.keyframes import KeyFrames
from edge.sources.url import Url, parse
from edge.types import Array

SETTINGS: Mapping[str, Any] = {
    "transport": "tcp",
    "decoder": "",
    "threads": 1,
    "open_timeout": 5.0,
    "read_timeout": 5.0,
}
"""Ours in the query; the rest of it is the stream's own.

transport: how RTSP brings its packets, `tcp`, `udp`, `udp_multicast` or `http`.
decoder: a hardware decoder that FFmpeg knows, e.g. `cuda` or `vaapi`; without it the processor decodes.
threads: that decode; each beyond the first costs a frame of latency.
open_timeout, read_timeout: seconds.
"""

TRANSPORTS = ("tcp", "udp", "udp_multicast", "http")
UNTIMED = ("mpjpeg", "mjpeg", "image2pipe")
"""Formats without timestamps: FFmpeg would count frames at 25 a second."""

LUMA_FIRST = frozenset(
    ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "nv16")
)
"""Formats of decoders with 8 bits whose first plane is the brightness."""
FULL_RANGE = 2
"""AVCOL_RANGE_JPEG."""

HURRY_GAP = 2.0
"""Key frames further apart than this, in seconds, are too few to live on."""


def open(address: Address, realtime: bool) -> NetworkSource:
    """Connect, and find the video stream.

    Raises:
        UsageError: the address or a setting of ours is wrong.
        MissingPackage: PyAV is not installed.
        Refused: it answers, but there is no video for us.
        InputError: nothing answers, or with something else.
    """
    return NetworkSource(_checked(address))


def require() -> None:
    """
    Raises:
        MissingPackage: PyAV is not installed.
    """
    pyav()


def describe(address: Address) -> Absent:
    """What is known of a stream before it is opened.

    Raises:
        UsageError: the address or a setting of ours is wrong.
    """
    return _checked(address).absent


def _checked(address: Address) -> Url:
    url = parse(address, SETTINGS)
    transport, shown = url.settings["transport"], url.absent.shown
    if transport not in TRANSPORTS:
        raise UsageError(f"{shown}: no transport '{transport}'", "", nearest(transport, TRANSPORTS))
    for name in ("open_timeout", "read_timeout", "threads"):
        if not 0 < url.settings[name] <= 3600:
            raise UsageError(f"{shown}: {name}={url.settings[name]} is not above 0")
    return url


class NetworkSource:
    """One connection. One thread reads; any may close it, and a read that waits ends by its timeout."""

    live = True
    truth_kind: str | None = None

    def __init__(self, url: Url) -> None:
        av = pyav()
        self._errors = av.error
        self._shown, self.label = url.absent.shown, url.absent.label
        self._read_timeout = url.settings["read_timeout"]
        self.problem: str | None = None
        self.allocate: Allocate = numpy_memory
        self.hurry, self.skipped = False, 0
        self._closed, self._busy = False, threading.Lock()
        self._container = connect(av, url)
        try:
            stream = self._video_stream()
        except EdgeError:
            self._container.close()
            raise
        context = stream.codec_context
        # With slice threads FFmpeg would hide damage; with one thread or frame threads it tells.
        context.thread_count = url.settings["threads"]
        context.thread_type = "FRAME" if url.settings["threads"] > 1 else "SLICE"
        context.options = {"err_detect": "explode"}
        self._context = context
        self._converter = av.video.reformatter.VideoReformatter()
        self._timed = self._container.format.name not in UNTIMED
        rate = float(stream.average_rate or context.framerate or 0) if self._timed else 0.0
        self.fps: float | None = rate if 0 < rate <= 240 else None
        self.paced = bool(self._container.duration)  # a file on a server comes as fast as the network allows
        self._packets: Iterator[Any] = self._container.demux(stream)
        self._frames: deque[Any] = deque()
        self._keys = KeyFrames(time.monotonic())
        self._numbers = FrameNumbers() if context.name == "h264" else None
        if self._numbers and context.extradata:
            self._numbers.gap(context.extradata)

    def read(self) -> Picture | None:
        with self._busy:
            picture = None if self._closed else self._next()
            if self._closed:
                self._container.close()
            return picture

    def close(self) -> None:
        self._closed = True
        if self._busy.acquire(blocking=False):  # else the read under way closes it
            try:
                self._container.close()
            finally:
                self._busy.release()

    def _next(self) -> Picture | None:
        while not self._frames:
            packet = self._packet()
            if packet is None:
                return None
            self._decode(packet)
        frame = self._frames.popleft()
        if frame.is_corrupt:
            raise self._damage("parts of this picture are missing")
        return self._picture(frame)

    def _packet(self) -> Any:
        """The next packet, None at the end of the stream."""
        if self.problem:
            return None
        start = time.monotonic()
        try:
            packet = next(self._packets, None)
        except self._errors.ExitError:
            packet = None
        except (OSError, self._errors.FFmpegError) as e:
            self.problem = f"the connection was lost: {reason(e)}"
            return None
        # FFmpeg may first give what it still has, and then wait again.
        if time.monotonic() - start >= self._read_timeout:
            self.problem = f"nothing came for {self._read_timeout:g} s"
        elif packet is None and not self.paced:
            self.problem = "the stream ended"
        return packet

    def _decode(self, packet: Any) -> None:
        """Decode a packet, unless a key frame has to come first.

        Raises:
            Damaged: it cannot be decoded, or needs a picture that could not.
        """
        missing = self._numbers.gap(bytes(packet)) if self._numbers else False
        if packet.size and packet.is_keyframe:
            if self._keys.restart(time.monotonic()):
                self._context.flush_buffers()
        elif packet.size and self._left_out():
            return
        elif missing:
            raise self._damage("the one before it is missing")
        if packet.is_corrupt:
            raise self._damage("FFmpeg marks it as corrupt")
        try:
            self._frames.extend(packet.decode())
        except self._errors.EOFError:
            return
        except (OSError, ValueError, self._errors.FFmpegError) as e:
            raise self._damage(reason(e)) from None

    def _left_out(self) -> bool:
        """Whether a packet that is no key frame is not decoded, and counted as what it is.

        Raises:
            Damaged: it builds on a picture that arrived damaged.
        """
        keys, now = self._keys, time.monotonic()
        if self.hurry and keys.gap <= HURRY_GAP:
            keys.wait("skipped", now)
        if not keys.waiting(now):
            return False
        if keys.cause == "damaged" and not self.hurry:
            raise Damaged(f"{self.label}: a picture is left out", "it builds on one that arrived damaged")
        self.skipped += keys.cause != "started"  # nobody misses what was sent before we came
        return True

    def _damage(self, why: str) -> Damaged:
        """From here on nothing can be believed until the next key frame."""
        self._keys.wait("damaged", time.monotonic())
        self._frames.clear()
        return Damaged(f"{self.label}: a picture arrived damaged", why)

    def _picture(self, frame: Any) -> Picture:
        # One converter for all frames, with one thread: FFmpeg's own for each frame cost four times as much.
        plane = self._converter.reformat(frame, format="bgr24", threads=1).planes[0]
        height, width = frame.height, frame.width
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        image = rows[:height, : width * 3].reshape(height, width, 3)
        if self.allocate is not numpy_memory:
            lent = self.allocate((height, width, 3))
            lent[...] = image
            image = lent
        pts = frame.time if self._timed else None
        luma, narrow = _luma(frame)
        return Picture(image, None if pts is None else float(pts), luma=luma, narrow=narrow)

    def _video_stream(self) -> Any:
        """The first video stream that there is a decoder for."""
        streams = self._container.streams
        if streams.video and streams.video[0].codec_context is not None:
            return streams.video[0]
        kinds = {stream.type for stream in streams}
        known = not streams.video and kinds <= {"audio", "subtitle"}
        raise Refused(
            f"cannot read {self._shown}",
            "it has no video" if known else "FFmpeg has no decoder for its video",
            "give the address of a video stream" if known else "have the camera send H.264, H.265 or MJPEG",
        )


def _luma(frame: Any) -> tuple[Array | None, bool]:
    """H × W, the first plane where it is the brightness in 8 bits; and whether its range is that of video."""
    name = frame.format.name
    if name not in LUMA_FIRST:
        return None, False
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    narrow = not name.startswith("yuvj") and frame.color_range != FULL_RANGE
    return rows[: frame.height, : frame.width], narrow
