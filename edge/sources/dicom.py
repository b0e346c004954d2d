"""A DICOM file, or a study: a folder of them, also in folders inside it. A cine comes frame by frame,
slices come in the order of the anatomy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge.dicom.part10 import dicom_files, is_dicom
from edge.errors import InputError
from edge.sources import Address, Picture, exists
from edge.sources.images import is_picture, natural

if TYPE_CHECKING:
    from edge.dicom import DicomImage
    from edge.sources.spooled import Spooled
    from edge.sources.volumes import Volumes

SLOWEST, FASTEST = 0.01, 1000.0
"""Frames a second of a clock that is believed; no video encoder opens with a rate far below or above."""


def claims(path: Path) -> bool:
    """A DICOM file, or a folder with one at any depth; a folder of pictures stays what it is."""
    if not path.is_dir():
        return is_dicom(path)
    files = list(path.iterdir())
    if any(is_dicom(file) for file in files if not file.name.startswith(".")):
        return True
    return not any(map(is_picture, files)) and any(dicom_files(path))


def open(address: Address, realtime: bool) -> DicomFiles | Spooled:
    """A file or the DICOM files of a folder and of those inside it, hidden ones left out; with `watch`, also
    those that are put there later.

    Series come one after the other in the order of their first files' paths, each along its normal.

    Raises:
        MissingPackage: pydicom is not installed.
        UsageError: a setting is unknown.
        InputError: nothing is there, or no DICOM file is; or the file cannot be read.
    """
    if "watch" in address.query:
        from edge.sources.watched import WATCH, open_watched

        if address.settings(WATCH)["watch"]:
            return open_watched(address)
    from edge.dicom.voi import window_of

    values = address.settings({"window": "0", "watch": False})
    return DicomFiles(address.path, realtime, window_of(values["window"]))


class DicomFiles:
    """All frames of all files, in order. A file that cannot be read counts as one lost frame."""

    live = False
    private = True
    truth_kind: str | None = None

    def __init__(self, path: Path, realtime: bool = False, window: int | str = 0) -> None:
        from edge.dicom.ahead import Decoders
        from edge.dicom.series import Frames

        if not exists(path):
            raise InputError(f"cannot read {path}", "there is no such file or folder", "check the path")
        files = sorted(dicom_files(path), key=_by_name) if path.is_dir() else [path]
        if not files:
            raise InputError(f"cannot read {path}", "it holds no DICOM file", "check the folder")
        self.label = "dicom"  # and not the name of the file, in which people write names of patients
        self._files = files
        self.problem: str | None = None
        self._decoders = Decoders()
        self._frames = Frames(files, window, self._decoders)
        self._lost: InputError | None = None
        self._elapsed = 0.0  # length of the files before the current one in seconds
        try:
            self._frames.open()
        except InputError as e:
            if path.is_file():
                raise
            self._lost = self._named(e)  # in a folder it is one lost frame, told when its turn comes
        self.fps = _rate(self._frames.image)
        self.paced = realtime and self.fps is not None

    def read(self) -> Picture | None:
        """The next frame.

        Raises:
            InputError: this frame cannot be decoded, or a whole file cannot.
        """
        try:
            return self._read()
        except InputError as e:
            raise self._named(e) from e.__cause__

    def _read(self) -> Picture | None:
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost
        before = self._frames.image
        try:
            if not self._frames.open():
                return None
        finally:
            if before is not self._frames.image and before and (rate := _rate(before)) is not None:
                self._elapsed += before.frames / rate
        current = self._frames.image
        assert current is not None
        index, image, transforms = self._frames.read()
        times = _times(current)
        pts = self._elapsed + times[index] if times else None
        meta = {"file": current.path.name, **current.meta(index), "transforms": list(transforms)}
        return Picture(image, pts, meta, path=current.path)

    def volumes(self) -> Volumes:
        """The same files as series, each a volume."""
        from edge.sources.volumes import Volumes

        return Volumes(self.label, self._files)

    def _named(self, error: InputError) -> InputError:
        """The error, with the files that it names."""
        error.names = tuple(str(path) for path in self._files if str(path) in str(error))
        return error

    def close(self) -> None:
        self._frames.close()
        self._decoders.close()


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


def _by_name(path: Path) -> list[list[tuple[int, str]]]:
    """Folder by folder, each in the order people count."""
    return [natural(part) for part in path.parts]
