"""A DICOM file, or a folder of them: a cine frame by frame, slices in the order of the anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import InputError, missing_package
from edge.sources import Address, Picture, exists
from edge.sources.images import natural


def claims(path: Path) -> bool:
    return is_dicom(path) or (path.is_dir() and any(is_dicom(file) for file in path.iterdir()))


def is_dicom(path: Path) -> bool:
    """By the mark behind the preamble (PS3.10, 7.1), or by name for files that lack it; not a DICOMDIR."""
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def open(address: Address, realtime: bool) -> DicomFiles:
    """A file or the DICOM files of a folder (not of folders inside it).

    Raises:
        MissingPackage: pydicom is not installed.
        InputError: nothing is there, or no DICOM file is; a single file that cannot be read.
    """
    address.settings({})
    return DicomFiles(address.path, realtime)


@dataclass(frozen=True)
class Header:
    """What is needed of a file before its pixels: its place among the others and its clock.

    Attributes:
        series: SeriesInstanceUID, empty where the header cannot be read.
        position: along the slice normal in mm; without a position, the InstanceNumber.
        frame_seconds: from each frame to the next, used in turn; empty without a clock.
    """

    path: Path
    series: str = ""
    position: float = 0.0
    frame_seconds: tuple[float, ...] = ()


class DicomFiles:
    """All frames of all files, in order."""

    live = False
    truth_kind: str | None = None

    def __init__(self, path: Path, realtime: bool = False) -> None:
        try:
            import pydicom  # noqa: F401
        except ImportError as e:
            raise missing_package("pydicom", "dicom", f"reading {path.name}") from e
        if not exists(path):
            raise InputError(f"cannot read {path}", "there is no such file or folder", "check the path")
        files = sorted((f for f in path.iterdir() if is_dicom(f)) if path.is_dir() else [path], key=_by_name)
        if not files:
            raise InputError(f"cannot read {path}", "it holds no DICOM file", "check the folder")
        self.headers = in_order([read_header(file) for file in files])
        self.label = path.stem if path.is_file() else path.name
        self.problem: str | None = None
        clock = self.headers[0].frame_seconds
        self.fps = len(clock) / sum(clock) if clock else None
        self.paced = realtime and self.fps is not None
        self._left = list(reversed(self.headers))
        self._frames: FrameReader | None = None
        self._header = self.headers[0]
        self._frame = 0
        self._elapsed = 0.0

    def read(self) -> Picture | None:
        """The next frame.

        Raises:
            InputError: this frame cannot be decoded, or a whole file cannot.
        """
        while self._frames is None or self._frame >= self._frames.count:
            if not self._left:
                return None
            self._header, self._frame, self._frames = self._left.pop(), 0, None
            self._frames = FrameReader(self._header.path)
        index, self._frame = self._frame, self._frame + 1
        pts = self._elapsed if self.fps else None
        clock = self._header.frame_seconds
        self._elapsed += clock[index % len(clock)] if clock else 0.0
        return self._frames.picture(index, pts)

    def close(self) -> None:
        self._frames = None
        self._left.clear()


class FrameReader:
    """The frames of one file, decoded one at a time."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if the file has no frames that can be read."""
        from edge.dicom import pixels

        self._name = path.name
        self._pixels = pixels.open(path)
        self.count: int = self._pixels.count

    def picture(self, index: int, pts: float | None) -> Picture:
        """Frame `index`, 0 first; DICOM counts from 1, so its frame number in `meta` does too."""
        frame = self._pixels.frame(index)
        meta = {"file": self._name, **frame.meta, "frame": index + 1, "transforms": list(frame.transforms)}
        return Picture(frame.image, pts, meta)


def read_header(path: Path) -> Header:
    """The header of one file; an unreadable one is empty, and an error when its turn comes."""
    import pydicom

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        return Header(path, str(data.get("SeriesInstanceUID", "")), _position(data), frame_seconds(data))
    except Exception:  # hostile headers raise whatever the parser met
        return Header(path)


def in_order(headers: list[Header]) -> list[Header]:
    """Series one after the other as their first files come, each along its normal."""
    rank: dict[str, int] = {}
    for header in headers:
        rank.setdefault(header.series, len(rank))
    return sorted(headers, key=lambda h: (rank[h.series], h.position))


def _by_name(path: Path) -> list[tuple[int, str]]:
    return natural(path.name)


def _position(data: Any) -> float:
    """Along the slice normal in mm (PS3.3, C.7.6.2.1.1), or the InstanceNumber where there is no position."""
    origin, axes = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
    if not origin or not axes or len(origin) != 3 or len(axes) != 6:
        return float(data.get("InstanceNumber") or 0)
    rx, ry, rz, cx, cy, cz = map(float, axes)
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    return sum(n * float(p) for n, p in zip(normal, origin, strict=True))


def frame_seconds(data: Any) -> tuple[float, ...]:
    """How long each frame of a cine lasts (PS3.3, C.7.6.5).

    The first of these that is there and above zero: FrameTimeVector (its first value is the time before the
    first frame, so the mean stands for the last), FrameTime, CineRate, RecommendedDisplayFrameRate.
    """
    vector = data.get("FrameTimeVector")
    if vector and len(vector) > 1:
        times = [float(value) / 1e3 for value in vector][1:]
        if all(value > 0 for value in times):
            return (*times, sum(times) / len(times))
    if (frame_time := float(data.get("FrameTime") or 0)) > 0:
        return (frame_time / 1e3,)
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        if (rate := float(data.get(name) or 0)) > 0:
            return (1 / rate,)
    return ()
