"""What this machine can read live: asked by `edge doctor`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Support:
    """What was found.

    Attributes:
        cameras: devices of Video4Linux, in order.
        gstreamer: whether this OpenCV was built with GStreamer; None where OpenCV cannot be loaded.
        ffmpeg: version of PyAV's FFmpeg; None where PyAV is not there or cannot be loaded.
        decoders: kinds of hardware decoder that this FFmpeg was built with; none of them is tried.
    """

    cameras: tuple[str, ...]
    gstreamer: bool | None
    ffmpeg: str | None
    decoders: tuple[str, ...]


def support(root: Path = Path("/")) -> Support:
    """Look at this machine; opens no device.

    Args:
        root: where /dev is; tests give a folder.
    """
    ffmpeg, decoders = _ffmpeg()
    return Support(_cameras(root / "dev"), _gstreamer(), ffmpeg, decoders)


def _cameras(dev: Path) -> tuple[str, ...]:
    numbers = (re.fullmatch(r"video(\d+)", path.name) for path in dev.glob("video*"))
    return tuple(f"/dev/video{n}" for n in sorted(int(match[1]) for match in numbers if match))


def _gstreamer() -> bool | None:
    from edge.sources.gstreamer import has_gstreamer

    try:
        return has_gstreamer()
    except (ImportError, AttributeError):
        return None


def _ffmpeg() -> tuple[str | None, tuple[str, ...]]:
    try:
        import av
        from av.codec.hwaccel import hwdevices_available
    except (ImportError, OSError):
        return None, ()
    return str(av.ffmpeg_version_info), tuple(hwdevices_available())
