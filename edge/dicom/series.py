"""Files of one or several series as frames in the order of the anatomy, opened when their turn comes."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from edge.dicom.ahead import Decoders
from edge.dicom.pixels import DicomImage, open_dicom
from edge.dicom.transforms import SAMPLED, Span, Transforms
from edge.errors import InputError, missing_package
from edge.types import Image


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file stands among the others.

    Attributes:
        series: SeriesInstanceUID, empty where the header cannot be read.
        position: along the slice normal in mm; without a position, the InstanceNumber.
    """

    path: Path
    series: str = ""
    position: float = 0.0
    frames: int = 1


@dataclass
class Series:
    """The files of one series along its normal."""

    paths: Sequence[Path]
    decoders: Decoders | None = None

    @cached_property
    def span(self) -> Span | None:
        """One range for all slices that have no window, so that neighbours can be compared; None where none
        of those looked at can be read."""
        count = min(len(self.paths), SAMPLED)
        chosen = (self.paths[index] for index in _spread(len(self.paths), count))
        spans = [span for path in chosen if (span := _span_of(path, self.decoders))]
        if not spans:
            return None
        all_of_them = count == len(self.paths)
        name = "series range" if all_of_them else f"range of {count} of {len(self.paths)} slices"
        return Span(min(span.low for span in spans), max(span.high for span in spans), name)

    def open(self, path: Path) -> DicomImage:
        """One of the files, shown as its neighbours are.

        Raises:
            InputError: it cannot be read.
        """
        image = open_dicom(path, self.decoders)
        alone = image.frames == 1 and len(self.paths) > 1 and image.windowless
        if alone and self.span is not None:
            image.span = self.span
        return image


def _spread(total: int, count: int) -> list[int]:
    """So many places from the first to the last."""
    return [round(place * (total - 1) / max(1, count - 1)) for place in range(count)]


def _span_of(path: Path, decoders: Decoders | None) -> Span | None:
    try:
        image = open_dicom(path, decoders)
        return image.span if image.windowless else None
    except InputError:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A file, and why it cannot be read where it cannot."""

    path: Path
    image: DicomImage | InputError


class Frames:
    """The frames of files, one after the other.

    Args:
        files: series come one after the other in the order of their first files, each along its normal.
        window: which VOI LUT or window is used: its number or its explanation.
        decoders: decompress as many frames ahead as there are processes.

    Attributes:
        path: the file whose turn it is; None at the end.
        image: that file, open; None where it cannot be read.
    """

    def __init__(
        self, files: Sequence[Path], window: int | str = 0, decoders: Decoders | None = None
    ) -> None:
        self.window = window
        self.path: Path | None = None
        self.image: DicomImage | None = None
        self._decoders = decoders
        found = in_series(files, decoders)
        self._left = [(path, series) for series in found for path in series.paths][::-1]
        self._opened: deque[Opened] = deque()
        self._next = 0

    @property
    def number(self) -> int:
        """Of the frame that `open` went to, from 1."""
        return self._next + 1

    def open(self) -> bool:
        """Go to the next frame, opening the next file where one has ended; False at the end.

        Raises:
            InputError: a file cannot be read; the call after goes on with the one behind it.
        """
        while self.image is None or self._next >= self.image.frames:
            self.image, self.path, self._next = None, None, 0
            if not self._left and not self._opened:
                return False
            file = self._opened.popleft() if self._opened else self._open_next()
            self.path = file.path
            if isinstance(file.image, InputError):
                raise file.image
            self.image = file.image
        if self._decoders is not None:  # this frame is waited for, and then its process has the last of them
            self.begin(1 + self._decoders.count)
        return True

    def begin(self, count: int) -> None:
        """Have the next frames decompressed meanwhile; also before the first `open`."""
        if self._decoders is None or (self.image is not None and not self.image.compressed):
            return
        for image, index in islice(self._coming(), count):
            if image is not None:
                image.begin(index)

    def _open_next(self) -> Opened:
        path, series = self._left.pop()
        try:
            return Opened(path, series.open(path))
        except InputError as e:
            return Opened(path, e)

    def _coming(self) -> Iterator[tuple[DicomImage | None, int]]:
        """The frames from that on whose turn it is, and None for a file that cannot be read. It opens files
        ahead of their turn, up to one that is not compressed: that may be in memory whole."""
        if self.image is not None:
            image = self.image
            yield from ((image, index) for index in range(self._next, image.frames))
        place = 0
        while place < len(self._opened) or self._left:
            if place == len(self._opened):
                self._opened.append(self._open_next())
            coming = self._opened[place].image
            place += 1
            if isinstance(coming, InputError):
                yield None, 0
                continue
            if not coming.compressed:
                return
            yield from ((coming, index) for index in range(coming.frames))

    @property
    def last(self) -> bool:
        """Whether no frame comes after the one that `open` went to."""
        return not self._left and not self._opened and (not self.image or self.number >= self.image.frames)

    def skip(self) -> None:
        """Leave the rest of this file out."""
        self._next = sys.maxsize

    def read(self) -> tuple[int, Image, Transforms]:
        """The frame that `open` went to: its number from 0, its picture, and what was applied to its pixels.

        Raises:
            InputError: it cannot be decoded.
        """
        assert self.image is not None
        index = self._next
        self._next += 1
        return index, *self.image.frame(index, self.window)

    def close(self) -> None:
        """Nothing more is read."""
        self._left.clear()
        self._opened.clear()
        self.image = self.path = None


def in_series(files: Sequence[Path], decoders: Decoders | None = None) -> list[Series]:
    """Series in the order of their first files, each along its normal."""
    if len(files) < 2:
        return [Series(files, decoders)] if files else []
    found: dict[str, list[Place]] = {}
    for file in files:
        place = place_of(file)
        found.setdefault(place.series, []).append(place)
    ordered = (sorted(places, key=lambda place: place.position) for places in found.values())
    return [Series([place.path for place in places], decoders) for places in ordered]


def place_of(path: Path) -> Place:
    """Read from a few elements of the header; a file that cannot be read keeps its place by name.

    Raises:
        MissingPackage: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as e:
        raise missing_package("pydicom", "dicom", "reading DICOM files") from e

    wanted = ["SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient"]
    wanted += ["NumberOfFrames"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that are odd but can be read
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
            frames = int(data.get("NumberOfFrames") or 1)
            return Place(path, str(data.get("SeriesInstanceUID", "")), _position(data), frames)
    except Exception:  # hostile headers raise whatever the parser met; opening the file will say it properly
        return Place(path)


def _position(data: Any) -> float:
    """Along the slice normal in mm (PS3.3, C.7.6.2.1.1), or the InstanceNumber where there is no position."""
    origin, axes = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
    if not origin or not axes or len(origin) != 3 or len(axes) != 6:
        return float(data.get("InstanceNumber") or 0)
    rx, ry, rz, cx, cy, cz = map(float, axes)
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    return sum(n * float(p) for n, p in zip(normal, origin, strict=True))
