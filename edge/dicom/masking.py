"""Masked copies of DICOM objects: burned-in text blacked out in every frame, the header de-identified.

The copy holds the stored values in full depth, uncompressed; nothing but the text regions differs from what
the decoder gives. Regions are those of all frames together: text that is missed in one frame of a cine is
found in another.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge.dicom.deidentify import deidentify
from edge.dicom.header import reading
from edge.dicom.pixels import DicomImage, open_dicom
from edge.dicom.text import TextFinder
from edge.errors import EdgeError, RuntimeFault
from edge.privacy import Pseudonyms
from edge.types import Array, Image

FLOAT_PIXELS = {"float32": "FloatPixelData", "float64": "DoubleFloatPixelData"}
STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
"""Elements that were true of the pixels as they were encoded before."""


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """A masked copy.

    Attributes:
        path: where it is; named by its new SOP Instance UID.
        text: for each frame, whether text was found in it.
        regions: what was blacked out in all frames, N × 4, x1 y1 x2 y2 in pixels.
    """

    path: Path
    text: tuple[bool, ...]
    regions: NDArray[np.intp]


def mask(path: Path, folder: Path, finder: TextFinder, pseudonyms: Pseudonyms) -> Masked:
    """Write a masked copy of an object into a folder, as a whole or not at all.

    Raises:
        InputError: the file or a frame of it cannot be read.
        MissingPackage: pydicom, a decoder or dicom-anonymizer is not installed.
        RuntimeFault: the copy cannot be written.
    """
    image = open_dicom(path)
    found = [finder.find(image.frame(index)[0]) for index in range(image.frames)]
    regions = np.unique(np.concatenate(found), axis=0)
    with _scratch(folder) as file:
        pixels = _Pixels.stored(file, (_blank(image, index, regions) for index in range(image.frames)))
        with reading(path, "de-identify"):
            dataset = _plain(image.dataset)
            if not dataset.get("SOPInstanceUID"):
                dataset.SOPInstanceUID = f"2.25.{int(hashlib.sha256(path.read_bytes()).hexdigest()[:30], 16)}"
            deidentify(dataset, pseudonyms, cleaned=len(regions) > 0)
            pixels.into(dataset)
        target = folder / f"{dataset.SOPInstanceUID}.dcm"
        _write(dataset, target, path)
    return Masked(target, tuple(len(boxes) > 0 for boxes in found), regions)


@contextmanager
def _scratch(folder: Path) -> Iterator[BinaryIO]:
    """A nameless file where the copy will be: a long cine is never in memory whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            yield file
    except EdgeError:
        raise
    except OSError as e:
        why = e.strerror or str(e)
        raise RuntimeFault(f"cannot write to {folder}", why, "check the path and the disk") from e


def _blank(image: DicomImage, index: int, regions: NDArray[np.intp]) -> Array:
    """A frame's stored values with the regions at the one that is shown darkest in it."""
    stored = image.stored(index)
    if len(regions):
        stored = np.array(stored)
        fill = 0 if stored.ndim == 3 else _darkest(stored, image.frame(index)[0])
        for x1, y1, x2, y2 in regions.tolist():
            stored[y1:y2, x1:x2] = fill
    return stored


def _darkest(stored: Array, picture: Image) -> Any:
    """The stored value of the frame's darkest pixel, whatever inversion, window or palette make it so."""
    return stored.flat[int(picture.sum(2, dtype=np.uint32).argmin())]


@dataclass(frozen=True, slots=True)
class _Pixels:
    """All frames as uncompressed pixel data (PS3.5 8.2), in a file."""

    file: BinaryIO
    dtype: np.dtype[Any]
    colour: bool

    @classmethod
    def stored(cls, file: BinaryIO, frames: Iterable[Array]) -> _Pixels:
        kind, colour = np.dtype(np.uint8), False
        for frame in frames:
            kind, colour = frame.dtype, frame.ndim == 3
            file.write(np.ascontiguousarray(frame, kind.newbyteorder("<")).data)
        if file.tell() % 2:
            file.write(b"\0")
        file.seek(0)
        return cls(file, kind, colour)

    def into(self, dataset: Any) -> None:
        """Set them, and the elements that describe them."""
        from pydicom.pixels.utils import pack_bits

        for keyword in (*STALE, "PixelData", *FLOAT_PIXELS.values()):
            if keyword in dataset:
                del dataset[keyword]
        if self.dtype.kind == "f":
            keyword, vr = FLOAT_PIXELS[self.dtype.name], "OF" if self.dtype.itemsize == 4 else "OD"
            dataset.add_new(keyword, vr, self.file)
            return
        if dataset.BitsAllocated == 1:
            size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
            dataset.add_new("PixelData", "OW", pack_bits(np.frombuffer(self.file.read(size), np.uint8)))
            return
        bits = 8 * self.dtype.itemsize
        dataset.BitsAllocated = bits
        dataset.BitsStored = min(int(dataset.get("BitsStored") or bits), bits)
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(self.dtype.kind == "i")
        if self.colour:
            dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
        dataset.add_new("PixelData", "OB" if bits == 8 else "OW", self.file)


def _plain(source: Any) -> Any:
    """The elements alone, free of how they were encoded; words of a big-endian file are swapped."""
    from pydicom.dataset import Dataset

    if source.original_encoding[1] is False:
        source.walk(_swap)
    dataset = Dataset()
    for element in source:
        if element.tag.group > 2:
            dataset.add(element)
    return dataset


def _swap(dataset: Any, element: Any) -> None:
    if element.VR == "OW" and isinstance(element.value, bytes):
        element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()


def _write(dataset: Any, target: Path, source: Path) -> None:
    """A Part 10 file with nothing of the old preamble and file meta information (PS3.10 7.1)."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            with reading(source, "write a masked copy of"):
                dataset.save_as(file, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except OSError as e:
        why = e.strerror or str(e)
        raise RuntimeFault(f"cannot write {target}", why, "check the path and the disk") from e
    finally:
        with suppress(OSError):
            beside.unlink()
