"""A DICOM file as a sequence of pictures, decoded frame by frame when they are asked for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from edge.dicom.ahead import Decoders
from edge.dicom.frames import StoredFrames
from edge.dicom.header import Header, read_header, reading
from edge.dicom.timing import frame_times
from edge.dicom.transforms import GreyTransform, Renderer, Span, Transforms
from edge.dicom.voi import options
from edge.errors import InputError
from edge.types import Array, Image


def open_dicom(path: Path, decoders: Decoders | None = None) -> DicomImage:
    """Read and check the header; pixels are read when a frame is asked for.

    Args:
        decoders: processes that decompress its frames; without, that is done in this thread.

    Raises:
        InputError: the file is not DICOM, has no pixels, claims what cannot be, or its decoder is missing.
        MissingPackage: pydicom is not installed.
    """
    return DicomImage(path, read_header(path), decoders)


class DicomImage:
    """One DICOM file. Not for several threads at once."""

    def __init__(self, path: Path, header: Header, decoders: Decoders | None = None) -> None:
        self.path = path
        self.dataset = header.dataset
        self.frames = header.frames
        self._stored = StoredFrames(path, header, decoders)
        self._render = Renderer(header.dataset, header.frames, self._stored.__getitem__)

    @cached_property
    def frame_times(self) -> tuple[float, ...] | None:
        """Presentation time of each frame in seconds, the first at 0; None where the file gives none."""
        with reading(self.path, "read"):
            return frame_times(self.dataset)

    def frame(self, index: int, window: int | str = 0) -> tuple[Image, Transforms]:
        """Frame `index` (from 0) as H × W × 3 uint8 BGR, ready for display or a network, and what was
        applied to get there, in order.

        Args:
            window: which VOI LUT or window to use: a number in `windows`, or its explanation.

        Raises:
            InputError: there is no such frame or window, or its pixels are damaged.
        """
        self._check(index)
        stored = self._stored[index]
        with reading(self.path, "show"):
            return self._render(stored, index, window)

    @property
    def compressed(self) -> bool:
        """Whether frames are decompressed one by one."""
        return self._stored.compressed

    def begin(self, index: int) -> None:
        """Have frame `index` decompressed meanwhile, where there are processes for it."""
        self._stored.begin(index)

    def stored(self, index: int) -> Array:
        """Frame `index` (from 0) as the file stores it, before any transform but decompression and the
        conversion of colour to RGB: rows × columns, × 3 in colour.

        Raises:
            InputError: there is no such frame, or its pixels are damaged.
        """
        self._check(index)
        return self._stored[index]

    def windows(self, index: int = 0) -> tuple[str, ...]:
        """The explanations of a frame's VOI LUTs and windows, empty where one has none."""
        with reading(self.path, "read"):
            return tuple(options(GreyTransform.of(self.dataset, index).voi))

    @property
    def windowless(self) -> bool:
        """Grey of more than 8 bits without a window: what is shown depends on the values the file holds."""
        with reading(self.path, "read"):
            grey = str(self.dataset.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")
            return grey and GreyTransform.of(self.dataset, 0).windowless

    @property
    def span(self) -> Span:
        """The modality values that a file without a window shows from black to white: its own, or those of
        its series, where they were set before the first frame."""
        with reading(self.path, "decode"):
            return self._render.span

    @span.setter
    def span(self, span: Span) -> None:
        self._render.span = span

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

    def _check(self, index: int) -> None:
        if not 0 <= index < self.frames:
            raise InputError(f"{self.path} has no frame {index}", f"it has {self.frames}, counted from 0")
