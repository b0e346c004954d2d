"""The same object in another transfer syntax (PS3.5 A)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edge.dicom.delivery.destination import SYNTAXES
from edge.errors import InputError

PLAIN = frozenset(SYNTAXES.values())
"""Syntaxes that differ in how the data set is written, not in the pixels."""


def can_recode(syntax: str) -> bool:
    """Whether an object in this transfer syntax can be written in another one."""
    from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS
    from pydicom.uid import UID

    return syntax in PLAIN or (UID(syntax).is_compressed and syntax in _PIXEL_DATA_DECODERS)


def recoded(path: Path, syntax: str) -> Any:
    """A data set of a file, uncompressed, as if it had been read in `syntax`.

    Raises:
        InputError: it cannot be converted.
    """
    import pydicom

    return pydicom.dcmread(io.BytesIO(encoded(path, syntax)))


def encoded(path: Path, syntax: str) -> bytes:
    """A file, uncompressed, as a file in `syntax`, which is one of `PLAIN`.

    Raises:
        InputError: it cannot be converted.
    """
    import pydicom

    try:
        data = pydicom.dcmread(path)
        if str(data.file_meta.TransferSyntaxUID) not in PLAIN:
            data.decompress(generate_instance_uid=False)
        uid = data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        buffer = io.BytesIO()
        how: Any = {"implicit_vr": uid.is_implicit_VR, "little_endian": True, "enforce_file_format": True}
        pydicom.dcmwrite(buffer, data, **how)
        return buffer.getvalue()
    except Exception as e:  # pydicom's decoders raise what they like, with values of the header in it
        raise InputError("it cannot be converted", type(e).__name__) from None
