"""Volume → network input, by one rule for verification and streaming; labels back on the slices.

A grid of voxels of one size lies along the patient's axes, its centre at the volume's, as FreeSurfer's
`mri_convert --conform` places it: centres are counted half a voxel beyond the middle one, `shape / 2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.config import InputConfig, VolumeConfig
from edge.dicom.volume import Volume
from edge.errors import InputError

DIRECTIONS = {
    "L": (1, 0, 0),
    "R": (-1, 0, 0),
    "P": (0, 1, 0),
    "A": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
"""Where an axis points to → DICOM's patient coordinates (PS3.3 C.7.6.2.1.1)."""

EDGE = 1e-6
"""So far outside of the outermost voxels' centres, in voxels, a point counts as on them: that is rounding."""

Affine = NDArray[np.float64]
"""4 × 4, (first, second, third index, 1) → patient coordinates in mm."""

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where voxels lie in the patient."""

    shape: Shape
    affine: Affine

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


@dataclass(frozen=True, slots=True, eq=False)
class Conformed:
    """Where a volume lies in the network's input: both grids are in its patient's coordinates."""

    volume: Volume
    grid: Grid

    @property
    def source(self) -> Grid:
        """The volume's own grid."""
        return Grid(self.volume.shape, self.volume.affine)


class Conform:
    """Brings volumes to one network's input."""

    def __init__(self, config: InputConfig, rule: VolumeConfig) -> None:
        self.config, self.rule = config, rule
        self.shape = config.shape

    def into(self, given: Volume, out: NDArray[np.float32]) -> Conformed:
        """Write a volume into `out`, 1 × depth × height × width float32; its pixels are read now.

        Raises:
            InputError: it is no volume, or its pixels are damaged.
        """
        if not isinstance(given, Volume):
            raise InputError(
                "a picture for a network that reads volumes",
                "it looks at whole series",
                "give it a folder of DICOM slices",
            )
        rule = self.rule
        source = Grid(given.shape, given.affine)
        grid = conformed(source, (rule.depth, *self.config.size), rule.spacing_mm, rule.orientation)
        resample(given.values(), given.affine, grid, out[0])
        scale(out[0], *rule.quantiles)
        return Conformed(given, grid)

    def batch(self, given: Sequence[Volume]) -> tuple[NDArray[np.float32], list[Conformed]]:
        """N volumes as a fresh N × 1 × depth × height × width array, and where each lies in it."""
        out = np.empty((len(given), *self.shape), np.float32)
        return out, [self.into(volume, out[i]) for i, volume in enumerate(given)]


def conformed(source: Grid, shape: Shape, spacing: float, orientation: str) -> Grid:
    """The grid around a source's centre.

    Args:
        spacing: of the voxels, mm.
        orientation: where the three axes point to: LIA is left, inferior, anterior.
    """
    affine = np.eye(4)
    affine[:3, :3] = spacing * np.array([DIRECTIONS[letter] for letter in orientation], float).T
    affine[:3, 3] = _centre(source) - affine[:3, :3] @ (np.array(shape) / 2)
    return Grid(shape, affine)


def _centre(grid: Grid) -> NDArray[np.float64]:
    return np.asarray((grid.affine @ [*(np.array(grid.shape) / 2), 1])[:3], np.float64)


def resample(values: NDArray[np.float32], source: Affine, grid: Grid, out: NDArray[np.float32]) -> None:
    """Values on another grid, trilinearly; outside the source the lowest of them.

    Args:
        values: on the source's grid, finite.
    """
    values = np.ascontiguousarray(values)
    out.fill(values.min())
    to_source = np.linalg.inv(source) @ grid.affine
    corner = np.array(values.shape) - 1
    flat, strides = values.ravel(), np.array(values.strides) // values.itemsize
    for plane in range(grid.shape[0]):
        at = _plane(to_source, grid.shape, plane)
        spans = [(a >= -EDGE) & (a <= last + EDGE) for a, last in zip(at, corner, strict=True)]
        inside = np.logical_and.reduce(spans)
        if not inside.any():
            continue
        places = np.clip(np.stack([a[inside] for a in at]), 0, corner[:, None])
        low = np.minimum(places.astype(np.intp), np.maximum(corner - 1, 0)[:, None])
        part = (places - low).astype(np.float32)
        steps = np.where(corner > 0, strides, 0)
        out[plane][inside] = _mixed(flat, strides @ low, steps, part)


def _mixed(
    flat: NDArray[np.float32], base: NDArray[np.intp], steps: NDArray[np.intp], part: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The eight values around each point, mixed along the third axis, the second and the first."""
    x, y, z = part
    planes = []
    for first in (0, steps[0]):
        rows = []
        for second in (0, steps[1]):
            at = base + (first + second)
            left = flat[at]
            rows.append(left + z * (flat[at + steps[2]] - left))
        planes.append(rows[0] + y * (rows[1] - rows[0]))
    return np.asarray(planes[0] + x * (planes[1] - planes[0]), np.float32)


def nearest_plane(labels: NDArray[np.uint8], grid: Grid, target: Grid, index: int) -> NDArray[np.uint8]:
    """Labels of `grid` on plane `index` of `target`: of the voxel that each point lies in; 0 outside."""
    out = np.zeros(target.shape[1:], np.uint8)
    at = _plane(np.linalg.inv(grid.affine) @ target.affine, target.shape, index)
    nearest = [np.floor(a + 0.5).astype(np.intp) for a in at]
    inside = np.logical_and.reduce(
        [(n >= 0) & (n < size) for n, size in zip(nearest, labels.shape, strict=True)]
    )
    out[inside] = labels[tuple(n[inside] for n in nearest)]
    return out


def _plane(matrix: Affine, shape: Shape, index: int) -> list[NDArray[np.float64]]:
    """Where the points of plane `index` lie under `matrix`: three arrays, second × third axis."""
    second, third = np.arange(shape[1])[:, None], np.arange(shape[2])[None]
    return [row[0] * index + row[1] * second + row[2] * third + row[3] for row in matrix[:3]]


def scale(values: NDArray[np.float32], low: float, high: float) -> None:
    """Values between two of their quantiles to 0–1, in place; those beyond are cut off."""
    bottom, top = (np.float32(each) for each in np.quantile(values, (low, high)))
    if top <= bottom:
        values.fill(0)
        return
    np.clip(values, bottom, top, out=values)
    values -= bottom
    values /= top - bottom
