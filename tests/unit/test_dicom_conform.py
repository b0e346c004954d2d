"""Volumes on a network's grid, and labels back on the slices: compared with one voxel at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.config import InputConfig
from edge.dicom.conform import Grid, conformed, nearest_plane, resample, scale
from edge.dicom.volume import open_volume
from edge.errors import InputError
from edge.preprocess import preparation

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")

from tests.volumes import ball, write_series

RANDOM = np.random.default_rng(1)


def oblique() -> Grid:
    """A grid of 5×6×7 voxels that lies along no axis, with three sizes and a mirrored axis."""
    turn, _ = np.linalg.qr(RANDOM.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * (1.5, 0.7, 0.9)
    affine[:3, 3] = (12, -30, 5)
    return Grid((5, 6, 7), affine)


def put(values: np.ndarray, source: Grid, grid: Grid) -> np.ndarray:
    out = np.empty(grid.shape, np.float32)
    resample(values, source.affine, grid, out)
    return out


def one_voxel(values: np.ndarray, source: Grid, point: np.ndarray) -> float:
    """The trilinear value at a point of the patient; the lowest outside of the voxels' centres."""
    place = np.linalg.solve(source.affine, [*point, 1])[:3]
    if (place < 0).any() or (place > np.array(values.shape) - 1).any():
        return float(values.min())
    low = np.minimum(np.floor(place).astype(int), np.array(values.shape) - 2)
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        parts = np.where(corner, place - low, 1 - (place - low))
        weight = np.prod(parts)
        total += weight * float(values[tuple(low + corner)])
    return total


def test_resampling_is_trilinear_at_every_voxel_of_an_oblique_source() -> None:
    source = oblique()
    values = RANDOM.normal(size=source.shape).astype(np.float32)
    grid = conformed(source, (9, 10, 8), 0.8, "LIA")
    expected = [one_voxel(values, source, (grid.affine @ [*i, 1])[:3]) for i in np.ndindex(*grid.shape)]
    found = put(values, source, grid)
    assert np.count_nonzero(found != values.min()) > 100
    assert np.allclose(found.ravel(), expected, atol=1e-5)


def test_labels_come_back_from_the_voxel_that_a_pixel_lies_in() -> None:
    source = oblique()
    grid = conformed(source, (9, 5, 8), 0.8, "RAS")
    labels = RANDOM.integers(1, 200, grid.shape).astype(np.uint8)
    outside = 0
    for s, r, c in np.ndindex(*source.shape):
        place = np.linalg.solve(grid.affine, source.affine @ [s, r, c, 1])[:3]
        nearest = tuple(np.floor(place + 0.5).astype(int))
        inside = all(0 <= n < size for n, size in zip(nearest, grid.shape, strict=True))
        outside += not inside
        expected = labels[nearest] if inside else 0
        assert nearest_plane(labels, grid, source, s)[r, c] == expected
    assert outside


@pytest.mark.parametrize("orientation", ["LIA", "RAS", "LPS", "PSR", "SAL"])
def test_the_axes_point_where_their_letters_say_and_the_centres_agree(orientation: str) -> None:
    source, shape = oblique(), (8, 10, 12)
    grid = conformed(source, shape, 2.0, orientation)
    toward = {
        "L": (1, 0, 0),
        "R": (-1, 0, 0),
        "P": (0, 1, 0),
        "A": (0, -1, 0),
        "S": (0, 0, 1),
        "I": (0, 0, -1),
    }
    for axis, letter in enumerate(orientation):
        assert grid.affine[:3, axis].tolist() == [2 * v for v in toward[letter]]
    middle = [(each.affine @ [*(np.array(each.shape) / 2), 1])[:3] for each in (source, grid)]
    assert np.allclose(*middle)
    assert grid.voxel_ml == pytest.approx(0.008)


def test_a_volume_in_its_own_orientation_and_size_passes_unchanged() -> None:
    """To its very edge, where rounding puts some points outside."""
    affine = np.diag([0.7, 0.3, 0.9, 1.0])
    affine[:3, 3] = (0.1, 0.2, 0.3)
    source = Grid((4, 6, 8), affine)
    values = RANDOM.normal(size=source.shape).astype(np.float32)
    assert np.allclose(put(values, source, source), values, atol=1e-5)


def test_labels_of_a_finer_grid_return_to_the_slices_they_came_from(tmp_path: Path) -> None:
    """Mirrored, turned and shifted on the way: any mistake in it would move them."""
    truth = (ball() > 0).astype(np.uint8) + (ball() > 500)
    axes = (0, 1, 0, 0, 0, -1)
    volume = open_volume(write_series(tmp_path, np.int16(truth), axes, (2.0, 2.0, 2.0), (7, 7, 7)))
    source = Grid(volume.shape, volume.affine)
    grid = conformed(source, (40, 40, 40), 1.0, "LIA")
    there = put(volume.values(), source, grid)
    labels = np.rint(there).astype(np.uint8)
    back = np.stack([nearest_plane(labels, grid, source, index) for index in range(16)])
    assert np.array_equal(back, truth)


def test_values_beyond_the_quantiles_are_cut_off_and_the_rest_is_0_to_1() -> None:
    values = np.arange(101, dtype=np.float32).reshape(1, 1, 101)
    scale(values, 0.1, 0.9)
    assert values.min() == 0 and values.max() == 1
    assert values[0, 0, 10] == 0 and values[0, 0, 90] == 1 and values[0, 0, 50] == 0.5


def test_an_empty_volume_is_0_and_not_a_division_by_nothing() -> None:
    values = np.full((2, 3, 4), 7, np.float32)
    scale(values, 0.05, 0.95)
    assert not values.any()


def test_a_picture_for_a_network_of_volumes_is_refused() -> None:
    config = InputConfig.model_validate({"size": (8, 8), "channels": 1, "volume": {"depth": 8}})
    with pytest.raises(InputError, match="reads volumes"):
        preparation(config).into(np.zeros((8, 8, 3), np.uint8), np.empty((1, 8, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"channels": 3}, "channels = 1"),
        ({"fit": "crop"}, "fit is for pictures"),
        ({"scale": 1.0}, "scale is for pictures"),
        ({"volume": {"depth": 8, "orientation": "LRA"}}, "not three directions"),
        ({"volume": {"depth": 8, "orientation": "LI"}}, "not three directions"),
        ({"volume": {"depth": 8, "quantiles": (0.9, 0.1)}}, "do not ascend"),
        ({"volume": {"depth": 8, "spacing_mm": 0}}, "greater than 0"),
    ],
)
def test_an_input_that_cannot_be_is_refused(changes: dict[str, object], why: str) -> None:
    settings = {"size": (8, 8), "channels": 1, "volume": {"depth": 8}, **changes}
    with pytest.raises(ValueError, match=why):
        InputConfig.model_validate(settings)


def test_one_input_has_the_shape_channels_depth_height_width() -> None:
    config = InputConfig.model_validate({"size": (8, 9), "channels": 1, "volume": {"depth": 7}})
    assert config.shape == preparation(config).shape == (1, 7, 8, 9)
