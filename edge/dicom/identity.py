"""Which object, study and series a DICOM file is of, from the first few elements of its header."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from edge.dicom.header import DEFLATED, reading
from edge.errors import missing_package

SOP_INSTANCE, STUDY, SERIES = 0x00080018, 0x0020000D, 0x0020000E

INFLATED_BYTES = 4 << 20
"""So much of a deflated data set is inflated; what is wanted comes early in it."""

LONGEST = 1024
"""A longer value is no UID, and is not read."""


def identify(path: Path) -> tuple[str, str, str]:
    """SOP, Study and Series Instance UID; empty where one is absent. Reads no pixels.

    Raises:
        InputError: it is no DICOM file, or is damaged before these elements.
        OSError: it cannot be opened.
        MissingPackage: pydicom is not installed.
    """
    try:
        from pydicom.filereader import read_file_meta_info, read_partial
    except ImportError as e:
        raise missing_package("pydicom", "dicom", "reading DICOM files") from e
    wanted: Any = [SOP_INSTANCE, STUDY, SERIES]
    with path.open("rb") as file, reading(path, "read"):
        meta: Any = read_file_meta_info(path) if file.read(132)[128:] == b"DICM" else {}
        if meta.get("TransferSyntaxUID") == DEFLATED:
            dataset = _inflated(file, meta.FileMetaInformationGroupLength, wanted)
        else:
            file.seek(0)
            dataset = read_partial(file, _after, defer_size=LONGEST, force=True, specific_tags=wanted)
        uid, study, series = (_text(dataset, tag) for tag in wanted)
        return uid, study, series


def _after(tag: int, vr: str | None, length: int) -> bool:
    return tag > SERIES


def _inflated(file: BinaryIO, meta: int, wanted: Any) -> Any:
    """The data set's start; `meta` is the length of the file meta information (PS3.10 7.1)."""
    from pydicom.filereader import read_dataset

    file.seek(128 + 4 + 12 + meta)
    start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(INFLATED_BYTES), INFLATED_BYTES)
    return read_dataset(io.BytesIO(start), False, True, stop_when=_after, specific_tags=wanted)


def _text(dataset: Any, tag: int) -> str:
    """A UID as it is written, without its padding; not checked, and never quoted."""
    value = dataset.get_item(tag).value if tag in dataset else None
    return bytes(value).decode("ascii").strip("\0 ") if isinstance(value, bytes) else str(value or "")
