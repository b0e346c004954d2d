"""The object that an answer is about: its identity, where its frames lie, and what answers copy of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edge.dicom.answers.uids import derived
from edge.dicom.header import read_header
from edge.dicom.pixels import DicomImage
from edge.dicom.series import Series, in_series
from edge.dicom.transforms import functional_group
from edge.errors import InputError

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plane:
    """Where a frame lies in the patient (PS3.3 C.7.6.2.1.1).

    Attributes:
        position: of the first pixel's centre in mm.
        axes: direction cosines of a row and of a column.
        spacing: mm between rows, between columns.
        thickness: of the slice in mm, None where it is not told.
    """

    position: Vector
    axes: Vector
    spacing: Vector
    thickness: float | None

    @property
    def depth(self) -> float:
        """Position along the normal in mm."""
        normal = np.cross(self.axes[:3], self.axes[3:])
        return float(np.dot(normal, self.position))


class Source:
    """One object.

    Args:
        key: of the unit of work; UIDs that the object lacks are derived from it.

    Raises:
        InputError: the object cannot be read, or does not say which it is.
    """

    def __init__(self, path: Path, key: str) -> None:
        header = read_header(path)
        self.path = path
        self.dataset = header.dataset
        self.frames = header.frames
        meta = self.dataset.file_meta
        self.instance = self._uid("SOPInstanceUID") or str(meta.get("MediaStorageSOPInstanceUID", ""))
        self.sop_class = self._uid("SOPClassUID") or str(meta.get("MediaStorageSOPClassUID", ""))
        if not self.instance or not self.sop_class:
            why = "its SOP Class UID or SOP Instance UID is missing, so that no answer can refer to it"
            raise InputError(f"cannot answer {path}", why, "mend the sender")
        self.study = self._uid("StudyInstanceUID") or derived(key, "study")
        self.series = self._uid("SeriesInstanceUID") or derived(key, "series of the source")
        self.rows, self.columns = int(self.dataset.Rows), int(self.dataset.Columns)

    def _uid(self, keyword: str) -> str:
        return str(self.dataset.get(keyword) or "")

    @property
    def grey(self) -> bool:
        return str(self.dataset.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")

    @cached_property
    def frame_of_reference(self) -> str:
        """Its UID; empty where there is none, or no frame has a place in it."""
        uid = self._uid("FrameOfReferenceUID")
        return uid if uid and self.plane(0) else ""

    def plane(self, frame: int) -> Plane | None:
        """Where a frame lies; None where the header does not tell."""
        position = self._group(frame, "PlanePositionSequence").get("ImagePositionPatient")
        axes = self._group(frame, "PlaneOrientationSequence").get("ImageOrientationPatient")
        measures = self._group(frame, "PixelMeasuresSequence")
        place, directions, spacing = (
            _numbers(position, 3),
            _numbers(axes, 6),
            _numbers(measures.get("PixelSpacing"), 2),
        )
        if not place or not directions or not spacing or min(spacing) <= 0:
            return None
        thickness = _numbers([measures.get("SliceThickness")], 1)
        return Plane(place, directions, spacing, thickness[0] if thickness and thickness[0] > 0 else None)

    def _group(self, frame: int, keyword: str) -> Any:
        """A frame's functional group, or the data set itself (PS3.3 C.7.6.16)."""
        item = functional_group(self.dataset, frame, keyword)
        return self.dataset if item is None else item

    def reference(self, frames: Sequence[int] = ()) -> Any:
        """An item that refers to the object (SOP Instance Reference Macro, PS3.3 10.8).

        Args:
            frames: those meant, counted from 0; none or all: the whole object.
        """
        from pydicom import Dataset

        item = Dataset()
        item.ReferencedSOPClassUID = self.sop_class
        item.ReferencedSOPInstanceUID = self.instance
        if frames and len(frames) < self.frames:
            item.ReferencedFrameNumber = [frame + 1 for frame in frames]
        return item

    def numbers(self, frame: int) -> list[int] | None:
        """A frame as DICOM counts them, from 1; None where the object has but one (PS3.3 10.3)."""
        return [frame + 1] if self.frames > 1 else None


def _numbers(value: Any, count: int) -> Vector:
    """`count` finite numbers, or nothing."""
    try:
        numbers = tuple(float(v) for v in value or ())
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else ()


class Sources:
    """The objects of one unit of work, each read once.

    Raises:
        InputError: they are of several studies.
    """

    def __init__(self, paths: Sequence[Path], key: str) -> None:
        self._sources = {path: Source(path, key) for path in dict.fromkeys(paths)}
        if len({source.study for source in self}) > 1:
            why = "its objects are of several studies, and an answer belongs to one"
            raise InputError("cannot answer a unit of work", why, "take each study for itself")

    def __getitem__(self, path: Path) -> Source:
        return self._sources[path]

    def image(self, path: Path) -> DicomImage:
        """The object's pictures, as the network got them."""
        return self._series[path].open(path)

    @cached_property
    def _series(self) -> dict[Path, Series]:
        return {path: series for series in in_series(list(self._sources)) for path in series.paths}

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources.values())

    @property
    def first(self) -> Source:
        """Whose patient and study the answers share."""
        return next(iter(self))
