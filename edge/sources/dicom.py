"""A DICOM file, or a study: a folder of them, also in folders inside it. A cine comes frame by frame,
slices come in the order of the anatomy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.dicom.part10 import is_dicom
from edge.errors import InputError
from edge.sources import Address, Picture, exists
from edge.sources.images import is_picture, natural

if TYPE_CHECKING:
    from edge.dicom import DicomImage

SLOWEST, FASTEST = 0.01, 1000.0
"""Frames a second of a clock that is believed; no video encoder opens with a rate far below or above."""


def claims(path: Path) -> bool:
    """A DICOM file, or a folder with one at any depth; a folder of pictures stays what it is."""
    if not path.is_dir():
        return is_dicom(path)
    files = list(path.iterdir())
    if any(is_dicom(file) for file in files if not file.name.startswith(".")):
        return True
    return not any(map(is_picture, files)) and any(_inside(path))


def _inside(folder: Path) -> Iterator[Path]:
    """DICOM files at any depth; hidden files and folders are left out."""
    for file in folder.rglob("*"):
        if is_dicom(file) and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def open(address: Address, realtime: bool) -> DicomFiles:
    """A file or the DICOM files of a folder and of those inside it, hidden ones left out.

    Series come one after the other in the order of their first files' paths, each along its normal.

    Raises:
        MissingPackage: pydicom is not installed.
        InputError: nothing is there, or no DICOM file is; or the only file cannot be read.
    """
    address.settings({})
    return DicomFiles(address.path, realtime)


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


class DicomFiles:
    """All frames of all files, in order. A file that cannot be read counts as one lost frame."""

    live = False
    truth_kind: str | None = None

    def __init__(self, path: Path, realtime: bool = False) -> None:
        if not exists(path):
            raise InputError(f"cannot read {path}", "there is no such file or folder", "check the path")
        files = sorted(_inside(path), key=_by_name) if path.is_dir() else [path]
        if not files:
            raise InputError(f"cannot read {path}", "it holds no DICOM file", "check the folder")
        self.label = path.stem if path.is_file() else path.name
        self.problem: str | None = None
        self._left = in_order(files)[::-1]  # the next one last
        self._current: DicomImage | None = None
        self._frame = 0
        self._elapsed = 0.0  # length of the files before the current one in seconds
        first = self._left[-1]
        try:
            self._advance()
        except InputError:
            if not self._left:
                raise
            self._left.append(first)  # in a folder it is one lost frame, told when its turn comes
        self.fps = _rate(self._current)
        self.paced = realtime and self.fps is not None

    def read(self) -> Picture | None:
        """The next frame.

        Raises:
            InputError: this frame cannot be decoded, or a whole file cannot.
        """
        while self._current is None or self._frame >= self._current.frames:
            if not self._left:
                return None
            self._advance()
        current, index = self._current, self._frame
        self._frame += 1
        image, transforms = current.frame(index)
        times = _times(current)
        pts = self._elapsed + times[index] if times else None
        meta = {"file": current.path.name, **current.meta(index), "transforms": list(transforms)}
        return Picture(image, pts, meta)

    def close(self) -> None:
        self._current = None
        self._left.clear()

    def _advance(self) -> None:
        from edge.dicom import open_dicom

        done, self._current = self._current, None
        if (rate := _rate(done)) is not None and done is not None:
            self._elapsed += done.frames / rate
        self._frame = 0
        self._current = open_dicom(self._left.pop())


def _rate(image: DicomImage | None) -> float | None:
    """Mean frame rate of a cine, None where it has no clock."""
    times = _times(image) if image else None
    return (len(times) - 1) / times[-1] if times else None


def _times(image: DicomImage) -> tuple[float, ...] | None:
    """The frames' times; None where there are none, or they make a rate that nothing can be shown at."""
    times = image.frame_times
    if not times or not SLOWEST * times[-1] <= len(times) - 1 < FASTEST * times[-1]:
        return None
    return times


def in_order(files: list[Path]) -> list[Path]:
    """Series one after the other as their first files come, each along its normal."""
    if len(files) < 2:
        return files
    places = [place_of(file) for file in files]
    rank: dict[str, int] = {}
    for place in places:
        rank.setdefault(place.series, len(rank))
    return [place.path for place in sorted(places, key=lambda p: (rank[p.series], p.position))]


def place_of(path: Path) -> Place:
    """Read from a few elements of the header; a file that cannot be read keeps its place by name."""
    import warnings

    import pydicom

    wanted = ["SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that are odd but can be read
            data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
            return Place(path, str(data.get("SeriesInstanceUID", "")), _position(data))
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


def _by_name(path: Path) -> list[list[tuple[int, str]]]:
    """Folder by folder, each in the order people count."""
    return [natural(part) for part in path.parts]
