"""What every source promises, for each kind in the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mjpeg import mjpeg_server

from edge.errors import InputError, UsageError
from edge.sources import SOURCES, Source, camera, gstreamer, open_source

FRAMES = 6

STREAMS = ["rtsp", "rtsps", "https", "udp"]
"""Without an end, or a server of their own here: `http` stands for them, being the same class.
`unit/test_source_network.py` has the rest."""
DEVICES = {"camera": "camera:0", "csi": "csi:0", "gst": "gst:videotestsrc"}
SPOOLED = ["dicom+scp", "dicomweb+https", "dicomweb+http"]
"""Never end either; `unit/test_source_spooled.py` and `unit/test_source_dicomweb.py`."""
ENDING = [kind for kind in SOURCES if kind not in (*STREAMS, *SPOOLED)]


class FakeCamera:
    """Stands for the device: FRAMES pictures after the one that proves it works, then silence."""

    def __init__(self, place: int | str = 0) -> None:
        self.left = 0 if place == 1 else FRAMES + 1
        self.opened = place in (0, 1) or "appsink" in str(place)
        self.set_values: dict[int, float] = {}

    def isOpened(self) -> bool:
        return self.opened

    def set(self, name: int, value: float) -> bool:
        self.set_values[name] = value
        return True

    def get(self, name: int) -> float:
        return 25.0 if name == cv2.CAP_PROP_FPS else 0.0

    def read(self, image: Any = None) -> tuple[bool, Any]:
        self.left -= 1
        return (True, np.full((48, 64, 3), self.left, np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.opened = False


@pytest.fixture(autouse=True)
def no_real_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "open_capture", FakeCamera)
    monkeypatch.setattr(gstreamer, "open_capture", FakeCamera)
    monkeypatch.setattr(gstreamer, "has_gstreamer", lambda: True)


def write_video(path: Path, frames: int = FRAMES) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def write_images(folder: Path) -> Path:
    folder.mkdir()
    for number in range(FRAMES):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    return folder


def write_dicom(path: Path) -> Path:
    """A grey cine with a frame time of 50 ms."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileMetaDataset

    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.SeriesInstanceUID, data.StudyInstanceUID = "1.2.3", "1.2"
    data.PatientName, data.PatientID = "Secret^Name", "S-4711"
    data.Modality, data.FrameTime = "US", "50"
    data.FrameIncrementPointer = pydicom.tag.Tag("FrameTime")
    data.Rows, data.Columns, data.NumberOfFrames = 48, 64, FRAMES
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelData = b"".join(bytes([20 * n]) * (48 * 64) for n in range(FRAMES))
    data.save_as(path, enforce_file_format=True)
    return path


def jpegs() -> list[bytes]:
    images = (np.full((48, 64, 3), 20 * number, np.uint8) for number in range(FRAMES))
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in images]


@pytest.fixture(scope="module")
def mjpeg() -> Iterator[str]:
    """A server that sends FRAMES pictures to everybody who asks."""
    with mjpeg_server(jpegs()) as url:
        yield url


def address(kind: str, tmp_path: Path, mjpeg: str) -> str:
    if kind == "http":
        pytest.importorskip("av")
        return mjpeg
    if kind == "test":
        return f"test:text?size=64x48&frames={FRAMES}&fps=25"
    if kind in DEVICES:
        return DEVICES[kind]
    write = {"video": write_video, "images": write_images, "dicom": write_dicom}[kind]
    return str(write(tmp_path / {"video": "v.mp4", "images": "pictures", "dicom": "cine.dcm"}[kind]))


@pytest.fixture(params=ENDING)
def source(request: pytest.FixtureRequest, tmp_path: Path, mjpeg: str) -> Iterator[Source]:
    source = open_source(address(request.param, tmp_path, mjpeg))
    yield source
    source.close()


def drain(source: Source) -> list[Any]:
    return list(iter(source.read, None))


def test_pictures_are_bgr_bytes_of_one_size(source: Source) -> None:
    for picture in drain(source):
        assert picture.image.dtype == np.uint8
        assert picture.image.shape == (48, 64, 3)
        assert picture.image.flags.c_contiguous


def test_all_pictures_come_and_then_none_for_ever(source: Source) -> None:
    assert len(drain(source)) == FRAMES
    assert source.read() is None
    assert source.read() is None


def test_a_picture_is_not_changed_by_reading_on(source: Source) -> None:
    shown = drain(source)
    assert len({picture.image.ctypes.data for picture in shown}) == FRAMES


def test_times_rise(source: Source) -> None:
    times = [picture.pts for picture in drain(source)]
    if source.fps and times[0] is not None:
        assert times == sorted(times)
        assert len(set(times)) == FRAMES
    else:
        assert times == [None] * FRAMES


def test_a_source_says_what_it_is(source: Source) -> None:
    assert source.label
    assert isinstance(source.live, bool)
    assert isinstance(source.paced, bool)
    assert source.fps is None or source.fps > 0


def test_closing_twice_does_nothing(source: Source) -> None:
    source.close()
    source.close()


def test_what_the_source_knows_can_be_written_as_json_and_names_no_patient(source: Source) -> None:
    import json

    text = json.dumps([dict(picture.meta) for picture in drain(source)])
    assert "Secret" not in text
    assert "S-4711" not in text


@pytest.mark.parametrize("kind", [kind for kind in ENDING if kind not in DEVICES])
def test_a_source_can_be_opened_again_and_gives_the_same(kind: str, tmp_path: Path, mjpeg: str) -> None:
    uri = address(kind, tmp_path, mjpeg)
    first, second = (drain(open_source(uri)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert (one.pts, one.meta) == (other.pts, other.meta)


@pytest.mark.parametrize("kind", [kind for kind in ENDING if kind not in ("http", "gst")])
def test_an_unknown_setting_is_refused(kind: str) -> None:
    place = {"test": "text", "camera": "0", "csi": "0"}.get(kind, "nowhere")
    with pytest.raises(UsageError, match="no setting 'colour'"):
        open_source(f"{kind}:{place}?colour=red")


@pytest.mark.parametrize("kind", ["video", "images", "dicom"])
def test_a_missing_path_is_an_input_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_source(f"{kind}:{tmp_path / 'absent'}")


@pytest.mark.parametrize("kind", ["video", "images", "dicom"])
@pytest.mark.parametrize("name", ["a?b=c", "test:text", "with space & ümläut – 日本"])
def test_any_path_that_exists_is_a_path(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(address(kind, tmp_path, ""))
    named = tmp_path / (name + made.suffix)
    made.rename(named)
    monkeypatch.chdir(tmp_path)
    assert len(drain(open_source(named.name))) == FRAMES
    assert len(drain(open_source(f"{kind}:{named.name}"))) == FRAMES
