"""Slices of a series → one volume: where it lies, what its values are, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from edge import config
from edge.dicom import volume as volumes
from edge.dicom.volume import open_volume
from edge.errors import InputError

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from tests.dicoms import write
from tests.volumes import write_enhanced, write_series

T1 = config.assets() / "dicom" / "t1_series"
NOISE = np.random.default_rng(0).integers(-300, 300, (5, 4, 6)).astype(np.int16)
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


def test_slices_are_ordered_along_the_normal_whatever_their_names_say(tmp_path: Path) -> None:
    volume = open_volume(write_series(tmp_path, NOISE))
    assert volume.shape == (5, 4, 6)
    assert volume.values().dtype == np.float32
    assert np.array_equal(volume.values(), NOISE)


def test_a_voxel_lies_where_the_standard_says(tmp_path: Path) -> None:
    """PS3.3 C.7.6.2.1.1: columns along the first direction, spaced by the second number of Pixel Spacing."""
    spacing, origin = (2.0, 0.5, 0.75), (10, -20, 30)
    volume = open_volume(write_series(tmp_path, NOISE, OBLIQUE, spacing, origin))
    row, column = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    s, r, c = 3, 2, 5
    expected = np.array(origin) + s * 2.0 * np.cross(row, column) + r * 0.5 * column + c * 0.75 * row
    assert np.allclose((volume.affine @ [s, r, c, 1])[:3], expected, atol=1e-6)


def test_modality_values_are_taken_and_padding_becomes_the_lowest(tmp_path: Path) -> None:
    stored = NOISE.copy()
    stored[2, 1, 1] = -2000
    elements = {"RescaleSlope": 2, "RescaleIntercept": -10, "PixelPaddingValue": -2000}
    values = open_volume(write_series(tmp_path, stored, **elements)).values()
    assert values[0, 0, 0] == 2 * NOISE[0, 0, 0] - 10
    others = np.delete(NOISE.ravel(), np.ravel_multi_index((2, 1, 1), NOISE.shape))
    assert values[2, 1, 1] == values.min() == 2 * others.min() - 10


def test_values_that_are_no_numbers_are_taken_for_padding(tmp_path: Path) -> None:
    stored = NOISE.astype(np.float32)
    stored[0, 0, :3] = np.nan, np.inf, -np.inf
    paths = write_series(tmp_path, stored)
    import pydicom

    for path in paths:
        ds = pydicom.dcmread(path)
        ds.FloatPixelData = ds.PixelData
        for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(ds, keyword)
        ds.save_as(path)
    values = open_volume(paths).values()
    assert np.isfinite(values).all() and (values[0, 0, :3] == values.min()).all()
    assert np.array_equal(values[1:], NOISE[1:])


def test_an_enhanced_file_is_a_volume_by_its_functional_groups(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    path = write_enhanced(tmp_path / "enhanced.dcm", NOISE, (1.5, 0.5, 0.75), order)
    volume = open_volume([path])
    assert volume.paths == (path,) * 5
    assert [each.frame for each in volume.slices] == [order.index(index) for index in range(5)]
    assert np.array_equal(volume.values(), 2 * NOISE - 5)
    assert np.allclose(np.diag(volume.affine[:3, [2, 1, 0]]), (0.75, 0.5, 1.5))


def test_a_tilted_gantry_gives_a_sheared_volume(tmp_path: Path) -> None:
    """The table moves along the patient while the planes are tilted."""
    axes = (1, 0, 0, 0, 0.8, -0.6)
    paths = write_series(tmp_path, NOISE, axes)
    for path in paths:
        move(path, (0, 0, 2.0 * int(path.stem.split("-")[1])))
    assert np.allclose(open_volume(paths).affine[:3, 0], (0, 0, 2.0))


def move(path: Path, position: tuple[float, float, float]) -> None:
    import pydicom

    ds = pydicom.dcmread(path)
    ds.ImagePositionPatient = list(position)
    ds.save_as(path)


@pytest.mark.parametrize(
    ("slice_", "elements", "why"),
    [
        (2, {"ImagePositionPatient": [0, 0, 1]}, "1 of them lie where another one lies"),
        (2, {"ImagePositionPatient": [0, 0, 2.4]}, "not even: slice 3 lies 0.4 mm off"),
        (2, {"ImagePositionPatient": [0.5, 0, 2]}, "not even: slice 3 lies 0.5 mm off"),
        (4, {"ImagePositionPatient": [0, 0, 6]}, "2 are missing: 3 mm lie between slices 4 and 5"),
        (1, {"ImageOrientationPatient": [1, 0, 0, 0, 0.8, 0.6]}, "not parallel"),
        (1, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "unit vectors at a right angle"),
        (1, {"PixelSpacing": [1, 1.1]}, "Pixel Spacing differs"),
        (1, {"PixelSpacing": [0, 1]}, "not above zero"),
        (1, {"SeriesInstanceUID": "1.2.3"}, "several series"),
        (1, {"FrameOfReferenceUID": "1.2.3"}, "several Frame of Reference UIDs"),
        (3, {"ImagePositionPatient": None}, "ImagePositionPatient is missing"),
        (3, {"ImageOrientationPatient": [1, 0, 0]}, "ImageOrientationPatient is not 6 numbers"),
        (3, {"PixelSpacing": None}, "PixelSpacing is missing"),
    ],
)
def test_what_is_no_stack_is_refused_with_the_reason(tmp_path: Path, slice_, elements, why) -> None:
    import pydicom

    paths = write_series(tmp_path, NOISE)
    path = next(path for path in paths if path.stem.endswith(f"-{slice_}"))
    ds = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    with pytest.raises(InputError, match=why) as caught:
        open_volume(paths)
    assert caught.value.fix and "DOE" not in str(caught.value)


def test_slices_of_another_size_are_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a", NOISE)
    paths += write_series(tmp_path / "b", NOISE[:1, :2], origin=(0, 0, 5))
    with pytest.raises(InputError, match=r"4×6 and 2×6|2×6 and 4×6"):
        open_volume(paths)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_slices_make_no_volume(tmp_path: Path, count: int) -> None:
    with pytest.raises(InputError, match="takes two or more"):
        open_volume(write_series(tmp_path, NOISE)[:count])


def test_colour_slices_are_refused_when_they_are_read(tmp_path: Path) -> None:
    paths = write_series(tmp_path, NOISE)
    color = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    import pydicom

    ds = pydicom.dcmread(paths[0])
    geometry = {k: ds.get(k) for k in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")}
    uids = {k: ds.get(k) for k in ("SeriesInstanceUID", "FrameOfReferenceUID")}
    write(paths[0], np.zeros((4, 18), np.uint8), **{**geometry, **uids, **color, "Columns": 6})
    with pytest.raises(InputError, match="volumes are grey"):
        open_volume(paths).values()


def test_a_volume_that_would_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(volumes, "MAX_BYTES", 4 * NOISE.size - 1)
    with pytest.raises(InputError, match="the limit is"):
        open_volume(write_series(tmp_path, NOISE))


def test_the_middle_slice_is_shown_and_no_patient_named(tmp_path: Path) -> None:
    volume = open_volume(write_series(tmp_path, NOISE, spacing=(2, 0.5, 0.75)))
    picture, meta = volume.picture()
    assert picture.shape == (4, 6, 3)
    assert meta["slices"] == 5 and meta["modality"] == "MR" and meta["frame_number"] == 1
    assert meta["file"] == volume.paths[2].name
    assert meta["transforms"][0].startswith("volume: 5×4×6 voxels of 2×0.5×0.75 mm, slice 3 shown")
    assert "DOE" not in repr(meta) and "12345" not in repr(meta)


def test_a_volume_can_be_kept_in_a_file(tmp_path: Path) -> None:
    volume = open_volume(write_series(tmp_path, NOISE))
    again = pickle.loads(pickle.dumps(volume))
    assert np.array_equal(again.values(), NOISE) and np.array_equal(again.affine, volume.affine)


@pytest.mark.skipif(not T1.is_dir(), reason=f"no measuring data: {T1} is absent")
def test_a_real_series_of_384_slices_is_a_volume() -> None:
    volume = open_volume(list(T1.glob("*.dcm")))
    assert volume.shape == (384, 384, 274)
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (0.6667, 0.6667, 0.7), atol=1e-3)
    assert np.linalg.det(volume.affine[:3, [2, 1, 0]]) > 0


FILES = config.assets() / "dicom" / "files"


@pytest.mark.skipif(not FILES.is_dir(), reason=f"no measuring data: {FILES} is absent")
@pytest.mark.parametrize("path", sorted(FILES.glob("*.dcm")), ids=lambda path: path.name)
def test_every_real_file_is_a_volume_or_refused_with_a_reason(path: Path) -> None:
    """Those of several frames with a place in the patient are volumes."""
    try:
        volume = open_volume([path])
        values = volume.values()
    except InputError as e:
        assert e.why and e.fix
        return
    assert len(volume.slices) > 1
    assert values.shape == volume.shape and np.isfinite(values).all()
