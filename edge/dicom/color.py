"""Colour: samples that are RGB once decoded, and palettes (PS3.3 C.7.6.3.1.2, C.7.9, C.7.6.19)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dicom.lut import LookUpTable, look_up_table
from edge.types import Array, Image

COLOR_SPACES = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
"""Photometric interpretations of three samples that come out of the decoders as RGB."""

CHANNELS = ("Blue", "Green", "Red")


def true_color(stored: Array, ds: Any, bits: int) -> tuple[Image, tuple[str, ...]]:
    """RGB samples of `bits` bits → BGR of 8 bits, and what was applied."""
    space = str(ds.PhotometricInterpretation)
    notes = [] if space == "RGB" else [f"color: {space} → RGB (PS3.3 C.7.6.3.1.2)"]
    if bits != 8:
        notes.append(f"depth: {bits} → 8 bits")
        stored = np.rint(stored * (255 / (2**bits - 1)))
    if "ICCProfile" in ds:
        notes.append("icc profile: not applied")
    return np.asarray(stored, np.uint8)[:, :, ::-1].copy(), tuple(notes)


def is_supplemental(ds: Any) -> bool:
    """A grey image whose upper stored values are colours (PS3.3 C.8.16.2.1.1.1)."""
    return (
        str(ds.get("PixelPresentation")) in ("COLOR", "MIXED")
        and "RedPaletteColorLookupTableDescriptor" in ds
    )


def palette(values: Array, ds: Any, little: bool) -> tuple[NDArray[np.uint8], int, tuple[str, ...]]:
    """The BGR colour of each stored value (N × 3), the first value that has one, and what was applied."""
    tables = [_channel(ds, name, little) for name in CHANNELS]
    bits, first = max(table.bits for table in tables), tables[-1].first
    kind = "segmented " if "RedPaletteColorLookupTableData" not in ds else ""
    notes = [f"palette: {bits}-bit {kind}color look-up table (PS3.3 C.7.9)"]
    colors = np.stack([table(values) for table in tables], axis=1)
    if bits > 8 and colors.max() > 0xFF:  # some files say 16 bits of values that have 8
        notes.append(f"depth: {bits} → 8 bits")
        colors >>= bits - 8
    return colors.astype(np.uint8), first, tuple(notes)


def _channel(ds: Any, name: str, little: bool) -> LookUpTable:
    descriptor = ds[f"{name}PaletteColorLookupTableDescriptor"].value
    signed = bool(ds.get("PixelRepresentation"))
    data = ds.get(f"{name}PaletteColorLookupTableData")
    if data is None:
        data = _expanded(ds, name, descriptor)
    return look_up_table(descriptor, data, little, signed)


def _expanded(ds: Any, name: str, descriptor: Any) -> list[int]:
    """Entries of a segmented palette (PS3.3 C.7.9.2)."""
    from pydicom import Dataset
    from pydicom.pixels.processing import apply_color_lut

    count = (int(descriptor[0]) & 0xFFFF) or 1 << 16
    alone = Dataset()
    alone.file_meta = ds.file_meta
    for channel in ("Red", "Green", "Blue"):
        setattr(alone, f"{channel}PaletteColorLookupTableDescriptor", [count, 0, int(descriptor[2])])
        segments = ds[f"Segmented{name}PaletteColorLookupTableData"].value
        setattr(alone, f"Segmented{channel}PaletteColorLookupTableData", segments)
    return [int(entry) for entry in apply_color_lut(np.arange(count), alone)[:, 0]]
