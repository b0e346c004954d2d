"""The slices of one series as a volume: where every voxel lies in the patient, and its modality value.

Geometry follows PS3.3 C.7.6.2.1.1: a slice's first pixel lies at Image Position (Patient), the column index
grows along the first three values of Image Orientation (Patient), the row index along the others; Pixel
Spacing gives the distance between rows first. In enhanced images all three stand in functional groups
(PS3.3 C.7.6.16.2). Coordinates are the patient's, in mm: to the left, to the back, to the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dicom.header import reading
from edge.dicom.pixels import DicomImage, open_dicom
from edge.dicom.transforms import GreyTransform, functional_group
from edge.errors import InputError
from edge.types import Array, Image

MAX_BYTES = 4 << 30
"""Most that the values of one volume may take; a CT of 2,000 slices of 512×512 takes half of it."""

SAME_DIRECTION = 1e-3
"""Most that a component of two direction cosines may differ by, and from what makes them unit vectors."""

SAME_SPACING = 0.01
"""Most that two spacings may differ by, as a part of them."""

OFF_PLACE = 0.1
"""Farthest that a slice may lie from where the others expect it, as a part of the distance between slices."""

TOGETHER = 1e-3
"""Slices that are no farther apart, in mm, are at one position."""

_ONE_STACK = "give the slices of one stack: one echo, phase or contrast of one series"


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One plane of a series.

    Attributes:
        frame: counted from 0.
        shape: rows and columns.
        origin: of the centre of the first pixel, in mm.
        axes: directions in which the column index and the row index grow, 2 × 3.
        spacing: between rows and between columns, in mm.
    """

    path: Path
    frame: int
    series: str
    frame_of_reference: str
    shape: tuple[int, int]
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.axes[0], self.axes[1])


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A stack of slices with known geometry, along its normal. Pixels are read when they are asked for.

    Attributes:
        affine: 4 × 4, (slice, row, column, 1) → patient coordinates in mm.
    """

    slices: tuple[Slice, ...]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return (len(self.slices), *self.slices[0].shape)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each slice; the frames of a multi-frame file name it again and again."""
        return tuple(each.path for each in self.slices)

    @property
    def middle(self) -> int:
        """The slice that stands for the volume where only one can be shown."""
        return len(self.slices) // 2

    def values(self) -> NDArray[np.float32]:
        """Modality values (PS3.3 C.11.1), slices × rows × columns; padding is given the lowest of them.

        Raises:
            InputError: a slice is damaged, in colour, or not of the size that its header says.
        """
        volume = np.empty(self.shape, np.float32)
        lowest = np.float32(np.inf)
        with naming(self.paths):
            for plane, (image, each) in zip(volume, _opened(self.slices), strict=True):
                plane[...] = _modality_values(image, each)
                lowest = np.fmin.reduce(plane, axis=None, initial=lowest)
        for plane in volume:
            plane[np.isnan(plane)] = lowest if np.isfinite(lowest) else 0
        return volume

    def picture(self) -> tuple[Image, dict[str, Any]]:
        """The middle slice as a display shows it, H × W × 3 uint8 BGR, and what is known of the series,
        without patient data.

        Raises:
            InputError: the slice is damaged.
        """
        shown = self.slices[self.middle]
        with naming(self.paths):
            image = open_dicom(shown.path)
            picture, transforms = image.frame(shown.frame)
        meta = {"file": shown.path.name, **image.meta(shown.frame), "slices": len(self.slices)}
        return picture, {**meta, "transforms": [self._described(), *transforms]}

    def _described(self) -> str:
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        voxels, mm = "×".join(map(str, self.shape)), "×".join(f"{size:.3g}" for size in sizes)
        return f"volume: {voxels} voxels of {mm} mm, slice {self.middle + 1} shown (PS3.3 C.7.6.2.1.1)"


@contextmanager
def naming(paths: Sequence[Path]) -> Iterator[None]:
    """Errors that name one of these files say so: names of files may be patients'."""
    try:
        yield
    except InputError as e:
        e.names = tuple({str(path) for path in paths if str(path) in str(e)})
        raise


def open_volume(paths: Sequence[Path]) -> Volume:
    """The geometry of a series: of files with one slice each, in any order, or of one multi-frame file.

    Raises:
        InputError: a file cannot be read or says nowhere where it lies; or the slices are not one stack of
            parallel planes at even distances, all of one size.
        MissingPackage: pydicom is not installed.
    """
    with naming(paths):
        slices = [each for path in paths for each in _slices(path)]
    if len(slices) < 2:
        raise InputError(
            f"cannot make a volume of {len(slices)} slice(s)", "a volume takes two or more", _ONE_STACK
        )
    what = f"cannot make a volume of {len(slices)} slices"
    first = slices[0]
    for each in slices[1:]:
        if why := _difference(first, each):
            raise InputError(what, why, _ONE_STACK)
    _refuse_large(first.shape, len(slices), what)
    normal = first.normal
    ordered = sorted(slices, key=lambda each: float(normal @ each.origin))
    step = _step(ordered, what)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.axes[1] * first.spacing[0]
    affine[:3, 2] = first.axes[0] * first.spacing[1]
    affine[:3, 3] = ordered[0].origin
    return Volume(tuple(ordered), affine)


def _slices(path: Path) -> Iterator[Slice]:
    image = open_dicom(path)
    ds = image.dataset
    for frame in range(image.frames):
        with reading(path, "read"):
            position, orientation, measures = (
                ds if group is None else group
                for group in (
                    functional_group(ds, frame, "PlanePositionSequence"),
                    functional_group(ds, frame, "PlaneOrientationSequence"),
                    functional_group(ds, frame, "PixelMeasuresSequence"),
                )
            )
            origin = _numbers(position, "ImagePositionPatient", 3, path)
            axes = _numbers(orientation, "ImageOrientationPatient", 6, path).reshape(2, 3)
            spacing = _numbers(measures, "PixelSpacing", 2, path)
            if not np.allclose(axes @ axes.T, np.eye(2), atol=5 * SAME_DIRECTION):
                raise _unplaced(
                    path, "Image Orientation (Patient) holds no two unit vectors at a right angle"
                )
            if not (spacing > 0).all():
                raise _unplaced(path, "Pixel Spacing is not above zero")
            yield Slice(
                path,
                frame,
                str(ds.get("SeriesInstanceUID") or ""),
                str(ds.get("FrameOfReferenceUID") or ""),
                (int(ds.Rows), int(ds.Columns)),
                origin,
                axes,
                (float(spacing[0]), float(spacing[1])),
            )


def _numbers(source: Any, keyword: str, count: int, path: Path) -> NDArray[np.float64]:
    value = source.get(keyword)
    try:
        numbers = np.array([float(each) for each in value or ()], np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise _unplaced(path, f"{keyword} {'is missing' if not value else f'is not {count} numbers'}")
    return numbers


def _unplaced(path: Path, why: str) -> InputError:
    return InputError(f"cannot place {path} in a volume", why, "leave it out, or look at it as a picture")


def _difference(first: Slice, other: Slice) -> str:
    """Why two slices are not of one stack; "" if nothing speaks against it."""
    if first.series != other.series:
        return "they are of several series (Series Instance UID)"
    if first.frame_of_reference != other.frame_of_reference:
        return "their positions do not relate to each other (several Frame of Reference UIDs)"
    if first.shape != other.shape:
        sizes = " and ".join("×".join(map(str, each.shape)) for each in (first, other))
        return f"they are of several sizes, {sizes} pixels"
    if not np.allclose(first.axes, other.axes, rtol=0, atol=SAME_DIRECTION):
        return "they are not parallel (Image Orientation (Patient) differs)"
    if not np.allclose(first.spacing, other.spacing, rtol=SAME_SPACING, atol=0):
        return f"Pixel Spacing differs: {first.spacing} and {other.spacing} mm"
    return ""


def _refuse_large(shape: tuple[int, int], count: int, what: str) -> None:
    size = 4 * count * shape[0] * shape[1]
    if size > MAX_BYTES:
        why = f"it would take {size / 2**30:.1f} GiB, and the limit is {MAX_BYTES >> 30} GiB"
        raise InputError(what, why, "give a part of the series")


def _step(ordered: Sequence[Slice], what: str) -> NDArray[np.float64]:
    """From one slice to the next, in mm. It need not be along the normal: a gantry may be tilted."""
    normal = ordered[0].normal
    origins = np.stack([each.origin for each in ordered])
    gaps = np.diff(origins @ normal)
    if (doubled := int((gaps < TOGETHER).sum())) > 0:
        why = f"{doubled} of them lie where another one lies"
        raise InputError(what, why, _ONE_STACK)
    usual = float(np.median(gaps))
    missing = int(np.rint(gaps / usual - 1).clip(0).sum())
    if missing:
        where = int(np.argmax(gaps))
        why = f"{missing} are missing: {gaps[where]:.4g} mm lie between slices {where + 1} and {where + 2}, "
        raise InputError(what, f"{why}and {usual:.4g} mm between others", "get the whole series")
    step = np.asarray((origins[-1] - origins[0]) / (len(ordered) - 1), np.float64)
    expected = origins[0] + np.arange(len(ordered))[:, None] * step
    off = np.linalg.norm(origins - expected, axis=1)
    if off.max() > OFF_PLACE * usual:
        worst = int(off.argmax())
        why = f"their distances are not even: slice {worst + 1} lies {off[worst]:.4g} mm off its place"
        raise InputError(what, why, _ONE_STACK)
    return step


def _opened(slices: Sequence[Slice]) -> Iterator[tuple[DicomImage, Slice]]:
    """Each slice with its file, which is opened once while its frames follow each other."""
    image: DicomImage | None = None
    for each in slices:
        if image is None or image.path != each.path:
            image = open_dicom(each.path)
        yield image, each


def _modality_values(image: DicomImage, each: Slice) -> Array:
    """One slice; NaN where the file says that there is no pixel."""
    stored = image.stored(each.frame)
    if stored.shape != each.shape:
        raise InputError(
            f"cannot take {each.path} into a volume",
            f"its pixels have the shape {list(stored.shape)}, the series {list(each.shape)}",
            "volumes are grey, and all slices of one size: leave it out",
        )
    with reading(each.path, "read"):
        return GreyTransform.of(image.dataset, each.frame).values(stored)
