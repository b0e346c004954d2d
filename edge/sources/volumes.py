"""Series of DICOM files, each as one volume and the picture of its middle slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from edge.dicom.series import place_of
from edge.dicom.volume import open_volume
from edge.sources import Picture


def volume_picture(paths: Sequence[Path]) -> Picture:
    """One series, whose pixels are read when a network asks for them, except for those of the middle slice.

    Raises:
        InputError: the slices make no volume, or cannot be read.
    """
    volume = open_volume(paths)
    image, meta = volume.picture()
    return Picture(image, meta=meta, volume=volume)


class Volumes:
    """The series of some files, in the order of their first files; what makes no volume is one lost frame."""

    live, paced, private = False, False, True
    fps: float | None = None
    truth_kind: str | None = None
    problem: str | None = None

    def __init__(self, label: str, files: Sequence[Path]) -> None:
        self.label = label
        self._left = stacks(files)[::-1]

    def read(self) -> Picture | None:
        """The next series.

        Raises:
            InputError: it makes no volume, or cannot be read.
        """
        return volume_picture(self._left.pop()) if self._left else None

    def close(self) -> None:
        self._left.clear()


def stacks(files: Sequence[Path]) -> list[list[Path]]:
    """The files of each series; one with several frames is a stack of its own."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        place = place_of(file)
        found[place.series if place.frames == 1 else str(file)].append(file)
    return list(found.values())
