"""Reads a DICOM header and checks what it claims before anything is allocated for it.

Error texts never hold values of the data set other than numbers of the image pixel module and UIDs of the
standard: a header is full of patient data.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edge.errors import EdgeError, InputError, missing_package

MAX_FRAME_BYTES = 1 << 30
"""Most that one decoded frame may take; a full-field mammogram takes 0.03 of it."""

MAX_INFLATED_BYTES = 4 << 30
"""Most that a deflated data set may grow to."""

MOST_READ_UNCHECKED = 1 << 20

PIXEL_TAGS = {
    (0x7FE0, 0x0008): "FloatPixelData",
    (0x7FE0, 0x0009): "DoubleFloatPixelData",
    (0x7FE0, 0x0010): "PixelData",
}

UNDEFINED_LENGTH = 0xFFFFFFFF

DEFLATED = "1.2.840.10008.1.2.1.99"

DECODER_PACKAGES = {
    "1.2.840.10008.1.2.4.50": "pylibjpeg[libjpeg]",
    "1.2.840.10008.1.2.4.51": "pylibjpeg[libjpeg]",
    "1.2.840.10008.1.2.4.57": "pylibjpeg[libjpeg]",
    "1.2.840.10008.1.2.4.70": "pylibjpeg[libjpeg]",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg[openjpeg]",
    "1.2.840.10008.1.2.4.91": "pylibjpeg[openjpeg]",
    "1.2.840.10008.1.2.4.201": "pylibjpeg[openjpeg]",
    "1.2.840.10008.1.2.4.202": "pylibjpeg[openjpeg]",
    "1.2.840.10008.1.2.4.203": "pylibjpeg[openjpeg]",
}


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The element that holds the pixels.

    Attributes:
        keyword: PixelData, FloatPixelData or DoubleFloatPixelData.
        vr: its value representation.
        offset: where its value begins: in the file, or 0 where the data set holds it.
        length: as it says, in bytes; 0xFFFFFFFF where it is compressed.
    """

    keyword: str
    vr: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """A data set without its pixels, and what was checked about them.

    Attributes:
        dataset: the pydicom Dataset; with the pixels where the file is deflated as a whole.
        frames: number of frames.
        pixels: where they lie.
        streamed: frames can be read from the file one by one; otherwise the data set holds the pixels.
    """

    dataset: Any
    frames: int
    pixels: PixelElement
    streamed: bool


@contextmanager
def reading(path: Path, doing: str, quote: bool = False) -> Iterator[None]:
    """Turns whatever a hostile file makes pydicom raise into an InputError.

    Args:
        quote: pass on the exception's text; only where it cannot hold values of the header.
    """
    try:
        yield
    except EdgeError:
        raise
    except RecursionError as e:
        raise InputError(f"cannot {doing} {path}", "its sequences are nested without end", _REPAIR) from e
    except MemoryError as e:
        raise InputError(f"cannot {doing} {path}", "it needs more memory than there is", _REPAIR) from e
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":  # of decoders in Rust
            raise
        text = " ".join(str(e).split())[:300] if quote else ""
        why = text or f"it is damaged or breaks the DICOM standard ({type(e).__name__})"
        raise InputError(f"cannot {doing} {path}", why, _REPAIR) from e


_REPAIR = "check the file, for example with dciodvfy or dcmdump"


class BoundedReader(io.BufferedReader):
    """A file whose reads allocate no more than there is, whatever length an element claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_READ_UNCHECKED:
            size = min(size, _bytes_left(self))
        return super().read(size)


def read_header(path: Path) -> Header:
    """Read all but the pixels.

    Raises:
        InputError: the file is not DICOM, has no pixels, or claims what cannot be.
        MissingPackage: pydicom is not installed.
    """
    pydicom = _pydicom()
    try:
        file = BoundedReader(io.FileIO(path))
    except OSError as e:
        raise InputError(f"cannot read {path}", e.strerror or str(e), "check the path") from e
    with file, reading(path, "read"):
        _check_start(file, path)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        _complete_syntax(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        _check_decoder(syntax, path)
        streamed = syntax != DEFLATED
        if streamed:
            pixels = _pixels_at(file, dataset)
        else:
            _check_inflated_size(file, dataset, path)
            dataset = pydicom.dcmread(file)
            pixels = _pixels_in(dataset)
        frames = number_of_frames(dataset, path)
        if pixels is None:
            raise InputError(f"{path} has no pixels", "it holds no Pixel Data element", "leave it out")
        _check_pixels(dataset, frames, pixels.length, _bytes_left(file) if streamed else pixels.length, path)
        return Header(dataset, frames, pixels, streamed)


def _pydicom() -> Any:
    """pydicom, quiet: its warnings and log lines quote values of the header."""
    try:
        import pydicom
    except ImportError as e:
        raise missing_package("pydicom", "dicom", "reading DICOM files") from e
    warnings.filterwarnings("ignore", module=r"(pydicom|edge\.dicom|openjpeg|libjpeg)(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    return pydicom


def _check_start(file: BinaryIO, path: Path) -> None:
    """A DICOM file has a mark after its preamble; old ones begin with an element of group 2 or 8."""
    start = file.read(132)
    file.seek(0)
    if start[128:] != b"DICM" and start[:2] not in (b"\2\0", b"\0\2", b"\x08\0", b"\0\x08"):
        why = "the mark 'DICM' at byte 128 is missing (PS3.10 7.1)"
        raise InputError(f"{path} is not a DICOM file", why, "leave it out")


def _complete_syntax(dataset: Any) -> None:
    """Files without a meta header get the transfer syntax that they were found to have."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_inflated_size(file: BinaryIO, dataset: Any, path: Path) -> None:
    """Inflate a deflated data set to nowhere, so that a bomb is met before it fills the memory."""
    file.seek(128 + 4 + 12 + dataset.file_meta.FileMetaInformationGroupLength)  # preamble, mark, group length
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := inflate.unconsumed_tail or file.read(1 << 16):
        size += len(inflate.decompress(chunk, 1 << 24))
        if size > MAX_INFLATED_BYTES:
            why = f"it inflates to over {MAX_INFLATED_BYTES >> 30} GiB"
            raise InputError(f"{path} is too large", why, _REPAIR)
    file.seek(0)


def _bytes_left(file: io.BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def _pixels_at(file: BinaryIO, dataset: Any) -> PixelElement | None:
    """The pixel element that the file is positioned at; None where there is none."""
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    start = file.read(8)
    keyword = PIXEL_TAGS.get(struct.unpack(order + "HH", start[:4])) if len(start) == 8 else None
    field = start[4:] if implicit else file.read(4)
    if keyword is None or len(field) < 4:
        return None
    vr = "OW" if implicit else start[4:6].decode("ascii", "replace")
    return PixelElement(keyword, vr, file.tell(), int(struct.unpack(order + "L", field)[0]))


def _pixels_in(dataset: Any) -> PixelElement | None:
    for keyword in PIXEL_TAGS.values():
        if keyword in dataset:
            element = dataset[keyword]
            return PixelElement(keyword, str(element.VR), 0, len(element.value))
    return None


def number_of_frames(dataset: Any, path: Path) -> int:
    """Number of Frames (0028,0008); 1 where it is absent.

    Raises:
        InputError: it is not a number, or below 1.
    """
    try:
        frames = int(str(dataset.get("NumberOfFrames") or 1))
    except (TypeError, ValueError) as e:
        why = "Number of Frames (0028,0008) is not an integer"
        raise InputError(f"cannot read {path}", why, _REPAIR) from e
    if frames < 1:
        raise InputError(f"cannot read {path}", f"Number of Frames (0028,0008) is {frames}", _REPAIR)
    return frames


def _check_pixels(dataset: Any, frames: int, length: int, present: int, path: Path) -> None:
    """Compare the claimed size with a limit and with the bytes present."""
    bits = _frame_bits(dataset, path)
    size = f"{dataset.Rows}×{dataset.Columns} pixels"
    if bits // 8 > MAX_FRAME_BYTES:
        why = f"one takes {bits / 8 / 2**30:.1f} GiB, and the limit is {MAX_FRAME_BYTES >> 30} GiB"
        raise InputError(f"{path} claims frames of {size}", why, _REPAIR)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        claimed = frames * 8  # at least an item's tag and length a frame
    else:
        claimed, present = frames * bits // 8, min(present, length)
    if present < claimed:
        raise InputError(
            f"{path} claims {frames} frame(s) of {size}",
            f"they take at least {claimed} bytes, and {present} are there",
            "the file is cut off or its header is wrong: get it again",
        )


def _frame_bits(dataset: Any, path: Path) -> int:
    """Bits of one decoded frame.

    Raises:
        InputError: the image pixel module lacks an element, or holds what is none of its values.
    """
    numbers = []
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        value = dataset.get(keyword)
        if not isinstance(value, int) or value < 1:
            why = f"{keyword} of the image pixel module is {value if isinstance(value, int) else 'missing'}"
            raise InputError(f"cannot read {path}", why, _REPAIR)
        numbers.append(value)
    samples = dataset.get("SamplesPerPixel") or 1
    rows, columns, bits = numbers
    halved = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"  # two pixels share their chroma
    return int(rows * columns * bits * (2 if halved and samples == 3 else samples))


def _check_decoder(syntax: Any, path: Path) -> None:
    """
    Raises:
        InputError: nothing can decode this syntax, or the package that can is not installed.
    """
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as e:
        why = "it is not a compression of still images that can be read here"
        fix = "convert the file with dcmdjpeg or gdcmconv"
        raise InputError(f"cannot decode {path}: {syntax.name} ({syntax})", why, fix) from e
    if not decoder.is_available:
        package = DECODER_PACKAGES.get(syntax, "pylibjpeg[all]")
        why = f"the package {package}, which decodes it, is not installed"
        raise InputError(f"cannot decode {path}: {syntax.name}", why, f"pip install '{package}'")
