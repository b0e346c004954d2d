"""`gst:PIPELINE` and `csi:N`: GStreamer pipelines, by an OpenCV that was built with it."""

from __future__ import annotations

from typing import Any

from edge.address import without_password
from edge.errors import MissingPackage, UsageError
from edge.sources import Absent, Address
from edge.sources.capture import CaptureSource

APPSINK = "appsink drop=true max-buffers=1 sync=false"
"""The newest frame and no other."""

CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM){caps} ! nvvidconv "
    "! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! " + APPSINK
)
"""A camera on a Jetson's own connector: NVIDIA's image processor, then BGR in plain memory."""


def open(address: Address, realtime: bool) -> CaptureSource:
    """`gst:PIPELINE`, or `csi:0?size=1280x720&fps=30` for a camera on a Jetson's connector.

    Raises:
        UsageError: N is not a number, or a setting is wrong.
        MissingPackage: OpenCV was built without GStreamer.
        InputError: the pipeline does not start, or gives no picture.
    """
    absent = describe(address)
    require()
    capture = open_capture(pipeline(address))
    return CaptureSource(absent, capture, "the pipeline does not start", "try it with: gst-launch-1.0")


def require() -> None:
    """
    Raises:
        MissingPackage: OpenCV was built without GStreamer.
    """
    if not has_gstreamer():
        raise MissingPackage(
            "csi: and gst: need an OpenCV with GStreamer",
            "this one was built without it",
            "on a Jetson use JetPack's (make setup VENV_OPTIONS=--system-site-packages, then remove "
            "opencv-python from it), elsewhere the distribution's or your own",
        )


def describe(address: Address) -> Absent:
    """What is known of a pipeline before it is started.

    Raises:
        UsageError: N is not a number, a setting is wrong, or there is no pipeline.
    """
    pipeline(address)
    label = f"csi-{address.place}" if _is_csi(address) else "gst"
    return Absent(label, without_password(address.uri))


def pipeline(address: Address) -> str:
    """The pipeline, ending in an appsink.

    Raises:
        UsageError: N is not a number, a setting is wrong, or there is no pipeline.
    """
    if _is_csi(address):
        return _csi(address)
    text = address.uri.partition(":")[2].strip()  # a pipeline may hold a question mark
    if not text:
        raise UsageError("gst: needs a pipeline", "", "e.g. gst:videotestsrc ! videoconvert")
    last = text.rpartition("!")[2].split()
    return (
        text
        if last and last[0] == "appsink"
        else f"{text} ! videoconvert ! video/x-raw,format=BGR ! {APPSINK}"
    )


def open_capture(pipeline: str) -> Any:
    """OpenCV's capture of a pipeline; a test puts a fake here."""
    import cv2

    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    import cv2

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _csi(address: Address) -> str:
    from edge.sources.pattern import parse_size

    values = address.settings({"size": "", "fps": 0.0})
    if not address.place.isdigit():
        raise UsageError(f"no camera '{address.place}'", "cameras have numbers", "write csi:0 for the first")
    caps = ",format=NV12"
    if values["size"]:
        width, height = parse_size(values["size"], address.uri)
        caps += f",width={width},height={height}"
    if values["fps"]:
        caps += f",framerate={round(1000 * values['fps'])}/1000"
    return CSI.format(sensor=address.place, caps=caps)


def _is_csi(address: Address) -> bool:
    return address.uri.lower().startswith("csi:")
