"""A DICOM file as a sequence of pictures, decoded frame by frame when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from edge.dicom.header import JPEG_EXTENDED, Header, read_header, reading
from edge.dicom.timing import frame_times
from edge.dicom.transforms import Renderer, Transforms
from edge.errors import InputError
from edge.types import Array, Image


def open_dicom(path: Path) -> DicomImage:
    """Read and check the header; pixels are read when a frame is asked for.

    Raises:
        InputError: the file is not DICOM, has no pixels, claims what cannot be, or its decoder is missing.
        MissingPackage: pydicom is not installed.
    """
    return DicomImage(path, read_header(path))


class DicomImage:
    """One DICOM file. Not for several threads at once."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.dataset = header.dataset
        self.frames = header.frames
        syntax = header.dataset.file_meta.TransferSyntaxUID
        self._source = path if header.streamed else header.dataset
        self._options = {"transfer_syntax_uid": syntax} if header.streamed else {}
        self._render = Renderer(header.dataset)
        self._ahead: Iterator[Array] = iter(())
        self._next = -1

    @cached_property
    def frame_times(self) -> tuple[float, ...] | None:
        """Presentation time of each frame in seconds, the first at 0; None where the file gives none."""
        with reading(self.path, "read"):
            return frame_times(self.dataset)

    def frame(self, index: int, window: int = 0) -> tuple[Image, Transforms]:
        """Frame `index` (from 0) as H × W × 3 uint8 BGR, ready for display or a network, and what was
        applied to get there, in order.

        Args:
            window: which of the file's windows (or VOI LUTs) to use.

        Raises:
            InputError: there is no such frame or window, or its pixels are damaged.
        """
        if not 0 <= index < self.frames:
            raise InputError(f"{self.path} has no frame {index}", f"it has {self.frames}, counted from 0")
        stored = self._stored(index)
        with reading(self.path, "show"):
            return self._render(stored, index, window)

    def meta(self, index: int) -> dict[str, Any]:
        """Which frame of which object this is, without patient data; `frame_number` counts from 1."""
        ds = self.dataset
        with reading(self.path, "read"):
            found = {
                "study_instance_uid": ds.get("StudyInstanceUID"),
                "series_instance_uid": ds.get("SeriesInstanceUID"),
                "sop_class_uid": ds.get("SOPClassUID"),
                "sop_instance_uid": ds.get("SOPInstanceUID"),
                "modality": ds.get("Modality"),
                "transfer_syntax_uid": ds.file_meta.get("TransferSyntaxUID"),
            }
        kept: dict[str, Any] = {key: str(value) for key, value in found.items() if value}
        return kept | {"frame_number": index + 1, "frames": self.frames}

    def _stored(self, index: int) -> Array:
        """Stored values; colour is converted to RGB by the decoder, once.

        Frames in order come from one pass over the file: the offsets of compressed frames are often not
        listed, and finding frame i anew each time would take longer with every frame.
        """
        from pydicom.pixels.utils import iter_pixels, pixel_array

        try:
            with reading(self.path, "decode", quote=True):
                if index == 0:
                    self._ahead, self._next = iter(iter_pixels(self._source, **self._options)), 0
                if index != self._next:
                    single: Array = pixel_array(self._source, index=index, **self._options)
                    return single
                self._next += 1
                frame = next(self._ahead, None)
        except InputError as e:
            self._next = -1
            raise self._explained(e) from e.__cause__
        if frame is None:
            why = f"its header says {self.frames}"
            raise InputError(f"{self.path} has only {index} frames", why, "the file is cut off: get it again")
        return frame

    def _explained(self, error: InputError) -> InputError:
        ds = self.dataset
        if ds.file_meta.TransferSyntaxUID != JPEG_EXTENDED or ds.get("BitsStored", 8) <= 8:
            return error
        fix = "convert it with `dcmdjpeg` of dcmtk, or with `gdcmconv --raw`"
        return InputError(error.what, "12-bit JPEG has no decoder among Python's packages", fix)
