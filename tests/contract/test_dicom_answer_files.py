"""Answers to real files: dciodvfy finds no error in them that it does not find in the source's own values."""

from __future__ import annotations

import subprocess

import cv2
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
hd = pytest.importorskip("highdicom", reason="the extra 'pacs' is not installed")

from edge import config  # noqa: E402
from edge.dicom import open_dicom  # noqa: E402
from edge.dicom.answers import KINDS, Found, LabelVolume, build_all  # noqa: E402
from edge.dicom.series import in_series  # noqa: E402
from tests.answers import PAYLOADS, errors, inference, source, written  # noqa: E402
from tests.pacs import tool  # noqa: E402

ASSETS = config.assets() / "dicom"
FILES, SERIES = ASSETS / "files", ASSETS / "t1_series"

TWO_FRAMES_TOO_MANY = "not multi-frame"
"""The source has several frames and is of a class for one: references to one of them are held for wrong."""

PRIVATE_UIDS = "Illegal root for UID"
"""The source's own UIDs, which an answer has to repeat, are of no registered root."""

SOURCES = {
    "RG1_J2KI.dcm": "",
    "RG3_J2KI.dcm": "",
    "693_UNCI.dcm": "",
    "explicit_VR-UN.dcm": "",
    "eCT_Supplemental.dcm": "",
    "MR2_UNCI.dcm": "",
    "emri_small.dcm": "",
    "emri_small_big_endian.dcm": "",
    "US1_UNCR.dcm": "",
    "OBXXXX1A_rle_2frame.dcm": "",
    "OBXXXX1A_2frame.dcm": TWO_FRAMES_TOO_MANY,
    "SC_rgb_2frame.dcm": TWO_FRAMES_TOO_MANY,
    "JLSL_08_07_0_1F.dcm": "",
    "JPEG-LL.dcm": "",
    "OT-PAL-8-face.dcm": "",
    "vlut_04.dcm": "",
    "mlut_18.dcm": "",
    "color-px.dcm": PRIVATE_UIDS,
}
"""CR, CT, MR, enhanced ones, ultrasound, cines and captures, and what dciodvfy objects to in the source."""

KINDS_OF = {
    "boxes": {"sr", "sc", "gsps", "ko"},
    "classes": {"sr", "sc"},
    "mask": {"sr", "seg", "sc", "gsps", "ko"},
}
"""Which answers each finding gets; presentation states for grey sources."""


@pytest.mark.parametrize("what", PAYLOADS)
@pytest.mark.parametrize("name", SOURCES)
def test_answers_to_it_are_valid(name, what, tmp_path):
    path = FILES / name
    if not path.is_file():
        pytest.skip(f"no measuring data: {path} is absent")
    image = open_dicom(path)
    size = int(image.dataset.Columns), int(image.dataset.Rows)
    found = [Found(path, frame, PAYLOADS[what](*size)) for frame in range(image.frames)]
    answers = build_all(KINDS, inference(found))
    grey = image.dataset.PhotometricInterpretation.startswith("MONOCHROME")
    assert {kind for kind in KINDS if answers[kind]} == KINDS_OF[what] - (set() if grey else {"gsps"})
    told = [line for made in answers.values() for answer in made for line in errors(answer, tmp_path)]
    assert [line for line in told if not SOURCES[name] or SOURCES[name] not in line] == []


def test_labels_of_a_real_series_lie_where_its_slices_lie(tmp_path):
    if not SERIES.is_dir():
        pytest.skip(f"no measuring data: {SERIES} is absent")
    (series,) = in_series(sorted(SERIES.glob("*.dcm")))
    paths = list(series.paths)[::12]
    grey = [series.open(path).frame(0)[0][..., 0] for path in paths]
    labels = [np.digitize(picture, [60, 140]).astype(np.uint8) for picture in grey]
    volume = LabelVolume(labels, paths, {1: "gray matter", 2: "white matter"})
    answers = build_all(KINDS, inference([], volume=volume))
    assert [len(answers[kind]) for kind in ("sr", "seg", "sc")] == [1, 1, 1]
    for made in answers.values():
        assert [line for answer in made for line in errors(answer, tmp_path)] == []
    (answer,) = answers["seg"]
    placed = hd.seg.Segmentation.from_dataset(answer).get_volume(combine_segments=True)
    sources = [pydicom.dcmread(path) for path in paths]
    images = hd.get_volume_from_series(sources)
    aligned = placed.match_geometry(images)
    order = np.argsort([images.affine[:3, 0] @ np.array(s.ImagePositionPatient, float) for s in sources])
    assert np.array_equal(aligned.array, np.stack([labels[index] for index in order]))


@pytest.mark.parametrize(
    "name", ["693_UNCI.dcm", "MR2_UNCI.dcm", "vlut_04.dcm", "mlut_18.dcm", "MONOCHROME1"]
)
def test_dcmtk_shows_a_presentation_state_as_we_show_the_image(name, tmp_path):
    path = FILES / name
    if name == "MONOCHROME1":
        stored = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)
        window = {"WindowCenter": 1000, "WindowWidth": 1500, "PhotometricInterpretation": "MONOCHROME1"}
        path = source(tmp_path / "film.dcm", stored, **window)
    elif not path.is_file():
        pytest.skip(f"no measuring data: {path} is absent")
    picture = open_dicom(path).frame(0)[0][..., 0]
    found = Found(path, 0, PAYLOADS["boxes"](picture.shape[1], picture.shape[0]))
    (state,) = build_all(["gsps"], inference([found]))["gsps"]
    (tmp_path / "state.dcm").write_bytes(written(state))
    shown = tmp_path / "shown.pgm"
    command = [tool("dcmp2pgm"), "--pstate", tmp_path / "state.dcm", path, shown]
    subprocess.run(command, check=True, capture_output=True)
    difference = cv2.imread(str(shown), cv2.IMREAD_GRAYSCALE).astype(int) - picture
    assert np.abs(difference).max() <= 1
