"""`camera:N`: a camera of this machine, by OpenCV, on Linux through Video4Linux."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from edge.errors import UsageError
from edge.sources import Absent, Address
from edge.sources.capture import CaptureSource

LOG = logging.getLogger("edge.stream")


def open(address: Address, realtime: bool) -> CaptureSource:
    """`camera:0?size=1280x720&fps=30&format=MJPG`; without settings the camera's own.

    What the driver gives instead of what was asked for is logged.

    Raises:
        UsageError: N is neither a number nor a device, or a setting is wrong.
        InputError: there is no such camera, or it gives no picture.
    """
    absent, settings = describe(address), _settings(address)
    capture = open_capture(int(address.place) if address.place.isdigit() else address.place)
    negotiate(capture, settings)
    source = CaptureSource(absent, capture, "there is no such camera", "list them with: ls /dev/video*")
    for line in differences(capture, settings):
        LOG.warning("%s: %s", source.label, line)
    return source


def describe(address: Address) -> Absent:
    """What is known of a camera before it is opened.

    Raises:
        UsageError: N is neither a number nor a device, or a setting is wrong.
    """
    _settings(address)
    place = address.place
    if not place.isdigit() and not place.startswith("/dev/"):
        raise UsageError(
            f"no camera '{place}'", "a camera is a number or a device", "write camera:0 for the first"
        )
    return Absent(f"camera-{place.removeprefix('/dev/').replace('/', '-')}", address.uri)


def open_capture(place: int | str) -> Any:
    """OpenCV's capture of a camera; a test puts a fake here."""
    import cv2

    if sys.platform != "linux":
        return cv2.VideoCapture(place)
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "5")  # seconds without a frame; its own: 10
    device = Path(f"/dev/video{place}" if isinstance(place, int) else place)
    if not device.exists():  # OpenCV would say so on standard error, each time it is looked for
        return cv2.VideoCapture()
    return cv2.VideoCapture(place, cv2.CAP_V4L2)


def negotiate(capture: Any, settings: dict[str, Any]) -> None:
    """Ask the driver for the settings, the format first: what sizes and rates there are depends on it."""
    import cv2

    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what waits in the driver is already old
    if settings["format"]:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*settings["format"]))
    if settings["size"]:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings["size"][0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings["size"][1])
    if settings["fps"]:
        capture.set(cv2.CAP_PROP_FPS, settings["fps"])


def differences(capture: Any, settings: dict[str, Any]) -> list[str]:
    """Where the driver gives something else, a line each; what it does not tell is taken as right."""
    import cv2

    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    fps, code = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FOURCC))
    format = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ")
    lines = []
    if settings["format"] and code > 0 and format != settings["format"]:
        lines.append(f"format={settings['format']} was asked for, the driver gives {format}")
    if settings["size"] and width and (width, height) != settings["size"]:
        lines.append(f"size={'x'.join(map(str, settings['size']))} was asked for, it gives {width}x{height}")
    if settings["fps"] and fps > 0 and abs(fps - settings["fps"]) > 0.5:
        lines.append(f"fps={settings['fps']:g} was asked for, the driver gives {fps:g}")
    return lines


def _settings(address: Address) -> dict[str, Any]:
    """`size` as a pair or None, `fps` (0: the camera's own), `format` as four letters or ""."""
    from edge.sources.pattern import parse_size

    values = address.settings({"size": "", "fps": 0.0, "format": ""})
    values["size"] = parse_size(values["size"], address.uri) if values["size"] else None
    values["format"] = values["format"].upper()
    if values["format"] and not (len(values["format"]) == 4 and values["format"].isascii()):
        raise UsageError(
            f"{address.uri}: format={values['format']}", "a format has four letters", "e.g. MJPG"
        )
    if not 0 <= values["fps"] <= 1000:
        raise UsageError(f"{address.uri}: fps={values['fps']:g} is not within 0 … 1000")
    return values
