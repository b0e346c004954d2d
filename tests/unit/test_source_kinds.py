"""Each kind of source in its own ways: order, clocks, settings, and what is wrong with a file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.config import assets
from edge.errors import EdgeError, InputError, UsageError
from edge.sources import Source, feed_names, open_source
from edge.sources.pattern import TextPattern, render


def drain(source: Source) -> list[Any]:
    return list(iter(source.read, None))


def video(path: Path, frames: int, fps: float = 25.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(random.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return path


# ---- addresses


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("tets:text", "did you mean 'test'"),
        ("camra:0", "did you mean 'camera'"),
        ("webcam:0", "known: camera"),
    ],
)
def test_an_unknown_scheme_names_the_nearest(uri: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        open_source(uri)


def test_a_missing_file_is_no_scheme() -> None:
    with pytest.raises(InputError, match="no such file"):
        open_source("not/there.mp4")
    with pytest.raises(InputError):
        open_source("x" * 5000)


def test_feed_names_are_plain_and_unique() -> None:
    assert feed_names(["cine", "my cine!", "cine", "", "cine-2"]) == [
        "cine",
        "my-cine",
        "cine-2",
        "feed",
        "cine-2-2",
    ]


def test_a_folder_of_neither_pictures_nor_dicom_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="neither pictures nor DICOM"):
        open_source(str(tmp_path))


# ---- the test pattern


def test_a_pattern_follows_from_seed_and_number_alone() -> None:
    first, second = TextPattern(160, 120, seed=4), TextPattern(160, 120, seed=4)
    for number in (0, 7, 299):
        one, other = first.picture(number), second.picture(number)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.truth, other.truth)
    assert not np.array_equal(first.picture(0).image, TextPattern(160, 120, seed=5).picture(0).image)


def test_the_truth_of_a_pattern_is_where_its_ink_is() -> None:
    """What stands out from the background lies in the words' boxes."""
    source = TextPattern(320, 240, seed=2)
    picture = source.picture(11)
    assert picture.truth is not None
    background = source._background(picture.pts)
    changed = np.abs(picture.image.astype(int) - background).max(2) > 90
    assert picture.truth.shape == (240, 320)
    assert set(np.unique(picture.truth)) == {0, 1}
    assert changed.sum() > 200
    assert picture.truth[changed].mean() > 0.97


def test_a_words_box_is_as_tight_as_its_ink() -> None:
    one, two = (render(text, cv2.FONT_HERSHEY_DUPLEX, 0.8, 1, (255, 255, 255)) for text in ("Word", "ab cd"))
    assert one.words == [tuple(cv2.boundingRect(one.ink[:, :, 0]))]
    (x1, _, w1, _), (x2, _, _, _) = two.words
    assert x1 + w1 < x2
    assert not two.ink[:, x1 + w1 : x2].any()


def test_text_moves_and_background_moves() -> None:
    source = TextPattern(320, 240, seed=1)
    assert not np.array_equal(source.picture(0).truth, source.picture(60).truth)
    assert not np.array_equal(source._background(0.0), source._background(2.0))


def test_pictures_too_small_for_a_line_still_come() -> None:
    picture = TextPattern(16, 16, seed=1).picture(0)
    assert picture.image.shape == (16, 16, 3)


def test_a_pattern_in_real_time_is_live_like_a_camera() -> None:
    paced, free = open_source("test:text", realtime=True), open_source("test:text")
    assert (paced.live, paced.paced, free.live, free.paced) == (True, True, False, False)


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("test:texts", "did you mean 'text'"),
        ("test:text?fsp=3", "did you mean 'fps'"),
        ("test:text?fps=fast", "fps='fast'"),
        ("test:text?fps=0", "not within"),
        ("test:text?fps=nan", "not within"),
        ("test:text?size=640", "size='640'"),
        ("test:text?size=99999x2", "16 to 8192"),
        ("test:text?frames=-1", "not within"),
    ],
)
def test_wrong_settings_are_named(uri: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        open_source(uri)


# ---- video


def test_a_videos_clock_is_its_own(tmp_path: Path) -> None:
    source = open_source(str(video(tmp_path / "v.avi", 5, fps=20)))
    assert source.fps == pytest.approx(20)
    assert [picture.pts for picture in drain(source)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2], abs=1e-3)
    assert source.problem is None


def test_a_truncated_video_gives_what_it_has_and_says_what_is_missing(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.avi", 60)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 5])
    source = open_source(str(cut))
    got = len(drain(source))
    assert 5 < got < 40
    assert source.problem is not None
    assert f"{got} of 60" in source.problem


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 100], ids=["empty", "text"])
def test_a_file_without_a_frame_is_an_error_at_once(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"empty|no video"):
        open_source(str(path))


# ---- pictures


def test_pictures_come_in_the_order_people_count(tmp_path: Path) -> None:
    for name in ("f10.png", "f2.png", "f1.PNG"):
        cv2.imwrite(str(tmp_path / name.lower()), np.zeros((4, 4, 3), np.uint8))
    assert [p.meta["file"] for p in drain(open_source(str(tmp_path)))] == ["f1.png", "f2.png", "f10.png"]


def test_a_broken_picture_is_one_lost_frame(tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"broken")
    source = open_source(str(tmp_path))
    assert source.read() is not None
    with pytest.raises(InputError, match=r"b\.png"):
        source.read()
    assert source.read() is not None
    assert source.read() is None


def test_a_folder_with_a_rate_has_a_clock(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((4, 4, 3), np.uint8))
    source = open_source(f"images:{tmp_path}?fps=10", realtime=True)
    assert source.paced
    assert [p.pts for p in drain(source)] == pytest.approx([0, 0.1, 0.2])
    assert not open_source(str(tmp_path), realtime=True).paced


# ---- DICOM


def test_slices_come_along_the_normal_whatever_their_names(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    series = assets() / "dicom" / "t1_series"
    if not series.is_dir():
        pytest.skip("needs dicom/t1_series of the measuring data ($EDGE_ASSETS)")
    files = sorted(series.glob("*.dcm"))[100:105]
    for name, file in zip("caebd", files, strict=True):
        shutil.copy(file, tmp_path / f"{name}.dcm")
    shown = [p.meta["sop_instance_uid"] for p in drain(open_source(str(tmp_path)))]
    along = [str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in files]
    assert shown in (along, along[::-1])


def test_a_cine_has_its_own_clock_and_says_what_was_applied() -> None:
    data = pytest.importorskip("pydicom.data")
    source = open_source(str(data.get_testdata_file("examples_ybr_color.dcm")), realtime=True)
    assert source.paced
    shown = drain(source)
    assert len(shown) == 30
    assert shown[29].pts == pytest.approx(29 / source.fps)
    assert shown[4].meta["frame_number"] == 5
    assert any("RGB" in step for step in shown[0].meta["transforms"])


def test_a_dicom_that_cannot_be_read_is_an_error_alone_and_a_lost_frame_in_a_folder(tmp_path: Path) -> None:
    data = pytest.importorskip("pydicom.data")
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"garbage" * 40)
    shutil.copy(data.get_testdata_file("CT_small.dcm"), tmp_path / "b.dcm")
    with pytest.raises(EdgeError):
        open_source(str(tmp_path / "a.dcm"))
    source, fates = open_source(str(tmp_path)), []
    for _ in range(2):
        try:
            fates.append(source.read() is not None)
        except InputError:
            fates.append("lost")
    assert sorted(map(str, fates)) == ["True", "lost"]
    assert source.read() is None


def cine(path: Path, series: str = "1.2.3", number: int = 1, frames: int = 3, **elements: Any) -> Path:
    """A small grey DICOM file."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.3.1", generate_uid()
    data.SeriesInstanceUID, data.InstanceNumber, data.NumberOfFrames = series, number, frames
    data.Rows, data.Columns, data.SamplesPerPixel = 4, 6, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = bytes(4 * 6 * frames)
    for name, value in elements.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def test_a_study_nests_by_series_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    cine(tmp_path / "series10" / "a.dcm", "1.10", 1, frames=1)
    cine(tmp_path / "series2" / "deep" / "b.dcm", "1.2", 9, frames=1)
    cine(tmp_path / "series2" / "c.dcm", "1.2", 8, frames=1)
    cine(tmp_path / ".cache" / "d.dcm", "1.1", frames=1)
    cine(tmp_path / "series2" / ".e.dcm", "1.2", frames=1)
    shown = [picture.meta["file"] for picture in drain(open_source(str(tmp_path)))]
    assert shown == ["c.dcm", "b.dcm", "a.dcm"]


def test_what_lies_in_a_study_beside_its_files_is_left_out_and_what_is_broken_is_told(tmp_path: Path) -> None:
    data = pytest.importorskip("pydicom.data")
    whole = Path(data.get_testdata_file("CT_small.dcm")).read_bytes()
    (tmp_path / "CT1").write_bytes(whole)
    (tmp_path / "CT2.dcm").write_bytes(whole[: len(whole) // 2])  # still being written
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "empty").touch()
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "._CT1").write_bytes(whole)
    (tmp_path / "notes.txt").write_text("hello")
    shutil.copy(data.get_testdata_file("DICOMDIR"), tmp_path / "DICOMDIR")
    source, seen, told = open_source(f"dicom:{tmp_path}"), 0, []
    for _ in range(10):
        try:
            if source.read() is None:
                break
            seen += 1
        except InputError as e:
            told += [Path(name).name for name in e.names]
    assert seen == 1 and sorted(told) == ["CT2.dcm", "empty.dcm"]
    source.close()


def test_pictures_beside_a_folder_of_dicom_are_still_a_folder_of_pictures(tmp_path: Path) -> None:
    cine(tmp_path / "original" / "a.dcm")
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4, 3), np.uint8))
    assert [p.meta["file"] for p in drain(open_source(str(tmp_path)))] == ["1.png"]


@pytest.mark.parametrize(
    "timing",
    [{"FrameTime": "1e-9"}, {"FrameTimeVector": ["0", "5e8", "33"]}, {"CineRate": "100000"}],
    ids=["too fast", "too slow", "fast rate"],
)
def test_an_absurd_rate_is_no_clock(timing: dict[str, Any], tmp_path: Path) -> None:
    source = open_source(str(cine(tmp_path / "a.dcm", **timing)), realtime=True)
    assert (source.fps, source.paced) == (None, False)
    assert [picture.pts for picture in drain(source)] == [None] * 3


# ---- camera


@pytest.mark.parametrize("uri", ["camera:", "camera:front", "camera:-1"])
def test_a_camera_is_a_number_or_a_device(uri: str) -> None:
    with pytest.raises(UsageError, match="a number or a device"):
        open_source(uri)


def test_a_camera_that_is_not_there_says_so() -> None:
    with pytest.raises(InputError, match="cannot open camera:97"):
        open_source("camera:97")
