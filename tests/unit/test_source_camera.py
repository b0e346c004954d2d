"""Cameras and GStreamer pipelines: what is asked of OpenCV, and what is said where it gives another thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.errors import InputError, MissingPackage, UsageError
from edge.sources import camera, gstreamer, locate, open_source
from edge.sources.support import support

MJPG = cv2.VideoWriter.fourcc(*"MJPG")
YUYV = cv2.VideoWriter.fourcc(*"YUYV")


class Driver:
    """Stands for `cv2.VideoCapture`: has some formats, sizes and rates, and no others can be set."""

    def __init__(self, formats: dict[int, list[tuple[int, int, float]]]) -> None:
        self.formats = formats
        self.asked: list[tuple[int, float]] = []
        self.place: Any = None
        self.format = next(iter(formats))
        self.mode = formats[self.format][0]
        self.pictures = 3

    def open(self, place: Any) -> Driver:
        self.place = place
        return self

    def isOpened(self) -> bool:
        return self.place is not None

    def set(self, name: int, value: float) -> bool:
        self.asked.append((name, value))
        if name == cv2.CAP_PROP_FOURCC and value in self.formats:
            self.format, self.mode = int(value), self.formats[int(value)][0]
        index = {cv2.CAP_PROP_FRAME_WIDTH: 0, cv2.CAP_PROP_FRAME_HEIGHT: 1, cv2.CAP_PROP_FPS: 2}.get(name)
        fits = [mode for mode in self.formats[self.format] if index is not None and mode[index] == value]
        alike = [sum(a == b for a, b in zip(mode, self.mode, strict=True)) for mode in fits]
        self.mode = fits[alike.index(max(alike))] if fits else self.mode
        return bool(fits)

    def get(self, name: int) -> float:
        known = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FOURCC)
        return float(dict(zip(known, (*self.mode, self.format), strict=True)).get(name, 0))

    def read(self, image: Any = None) -> tuple[bool, Any]:
        self.pictures -= 1
        width, height, _ = self.mode
        return (
            (True, np.zeros((int(height), int(width), 3), np.uint8)) if self.pictures >= 0 else (False, None)
        )

    def release(self) -> None:
        self.place = None


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A webcam: large pictures at full rate as MJPEG only."""
    driver = Driver(
        {YUYV: [(640, 480, 30.0), (1280, 720, 10.0)], MJPG: [(640, 480, 30.0), (1280, 720, 30.0)]}
    )
    monkeypatch.setattr(camera, "open_capture", driver.open)
    monkeypatch.setattr(gstreamer, "open_capture", driver.open)
    return driver


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    assert all(record.name == "edge.stream" for record in caplog.records)
    return caplog.text


# ---- cameras


def test_what_is_asked_for_is_given(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source("camera:0?size=1280x720&fps=30&format=mjpg")
    picture = source.read()
    assert picture is not None and picture.image.shape == (720, 1280, 3)
    assert source.fps == 30
    assert warnings(caplog) == ""


def test_the_format_is_asked_for_first_since_sizes_depend_on_it(driver: Driver) -> None:
    open_source("camera:0?size=1280x720&fps=30&format=MJPG")
    names = [name for name, _ in driver.asked]
    assert (
        names.index(cv2.CAP_PROP_FOURCC)
        < names.index(cv2.CAP_PROP_FRAME_WIDTH)
        < names.index(cv2.CAP_PROP_FPS)
    )


def test_without_settings_the_driver_decides(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    source = open_source("camera:0")
    assert {name for name, _ in driver.asked} == {cv2.CAP_PROP_BUFFERSIZE}
    assert source.fps == 30
    assert warnings(caplog) == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("size=1920x1080", "size=1920x1080 was asked for, it gives 640x480"),
        ("size=1280x720&fps=60", "fps=60 was asked for, the driver gives 10"),
        ("format=H264", "format=H264 was asked for, the driver gives YUYV"),
    ],
)
def test_what_the_driver_gives_instead_is_told(
    driver: Driver, caplog: pytest.LogCaptureFixture, settings: str, said: str
) -> None:
    open_source(f"camera:2?{settings}")
    assert f"camera-2: {said}" in warnings(caplog)


def test_a_camera_may_be_a_device(driver: Driver) -> None:
    source = open_source("camera:/dev/video2")
    assert (driver.place, source.label) == ("/dev/video2", "camera-video2")
    assert open_source("camera:2").label == "camera-2"


@pytest.mark.parametrize("settings", ["size=big", "fps=-1", "fps=nan", "format=MJPEG", "format=é€µß"])
def test_a_wrong_setting_is_refused_before_the_camera_is_opened(driver: Driver, settings: str) -> None:
    with pytest.raises(UsageError):
        camera.describe(locate(f"camera:0?{settings}")[1])
    with pytest.raises(UsageError):
        open_source(f"camera:0?{settings}")
    assert driver.place is None


def test_a_camera_without_pictures_is_given_back(driver: Driver) -> None:
    driver.pictures = 0
    with pytest.raises(InputError, match="cannot open camera:0: it gives no picture"):
        open_source("camera:0")
    assert driver.place is None


def test_the_end_of_a_camera_is_told(driver: Driver) -> None:
    source = open_source("camera:0")
    assert len(list(iter(source.read, None))) == 2, "the first only proves that it works"
    assert source.problem == "camera-0 gives no more pictures"


def test_a_camera_that_is_absent_is_looked_for_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="there is no such camera"):
        open_source("camera:/dev/video-that-is-absent")
    assert capfd.readouterr() == ("", "")


# ---- pipelines


def pipeline(uri: str) -> str:
    return gstreamer.pipeline(locate(uri)[1])


def test_a_pipeline_gets_an_end_that_keeps_the_newest_frame_only() -> None:
    made = pipeline("gst:videotestsrc pattern=ball ! video/x-raw,width=64")
    end = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    assert made == f"videotestsrc pattern=ball ! video/x-raw,width=64 ! {end}"


@pytest.mark.parametrize(
    "text", ["a ! appsink", "a!appsink name=x sync=true", "filesrc location=what?x=1 ! appsink"]
)
def test_a_pipeline_with_an_end_of_its_own_is_left_alone(text: str) -> None:
    assert pipeline(f"gst:{text}") == text


def test_a_pipeline_that_only_names_an_appsink_gets_an_end() -> None:
    assert pipeline("gst:appsinks ! b").endswith(gstreamer.APPSINK)


def test_a_jetson_camera_is_a_pipeline() -> None:
    made = pipeline("csi:1?size=1920x1080&fps=29.97")
    assert made.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,")
    assert ",width=1920,height=1080,framerate=29970/1000 ! nvvidconv ! " in made
    assert made.endswith("video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false")


@pytest.mark.parametrize("uri", ["gst:", "gst:  ", "csi:", "csi:left", "csi:0?size=big", "csi:0?colour=red"])
def test_a_wrong_pipeline_is_a_usage_error(uri: str) -> None:
    with pytest.raises(UsageError):
        gstreamer.describe(locate(uri)[1])


def test_labels_of_pipelines() -> None:
    assert gstreamer.describe(locate("csi:1")[1]).label == "csi-1"
    absent = gstreamer.describe(locate("gst:rtspsrc location=rtsp://guard:s3cret@10.0.0.7/live")[1])
    assert absent.label == "gst"
    assert "s3cret" not in absent.shown


def test_without_gstreamer_it_says_what_to_do(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "has_gstreamer", lambda: False)
    with pytest.raises(MissingPackage, match="need an OpenCV with GStreamer") as caught:
        open_source("gst:rtspsrc location=rtsp://guard:s3cret@10.0.0.7/live")
    assert "JetPack" in caught.value.fix
    assert "s3cret" not in str(caught.value)


def test_a_pipeline_that_starts_is_a_live_source(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gstreamer, "has_gstreamer", lambda: True)
    source = open_source("csi:0")
    assert (source.live, source.label, source.fps) == (True, "csi-0", 30.0)
    assert "nvarguscamerasrc" in driver.place


# ---- edge doctor


def test_cameras_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in ("video10", "video2", "video", "videostar", "null"):
        (tmp_path / "dev" / name).touch()
    found = support(tmp_path)
    assert found.cameras == ("/dev/video2", "/dev/video10")
    assert isinstance(found.gstreamer, bool)


def test_without_pyav_there_is_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    found = support(tmp_path)
    assert (found.cameras, found.ffmpeg, found.decoders) == ((), None, ())
