"""From stored values to a display picture, in PS3.4 N.2's order: padding → modality → VOI → presentation.

Every step depends on a pixel's own value alone. So the steps run over the few thousand values that a pixel
can have, and a frame is one look-up in the resulting table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.types import Array, Image

Values = NDArray[np.float64]
Transforms = tuple[str, ...]
"""What was applied, in order, with the numbers used and the section of the standard."""

TABLE_BITS = 16
"""Stored values of up to this many bits go through a table; wider and floating-point ones directly."""


def functional_group(ds: Any, frame: int, keyword: str) -> Any | None:
    """The item of a functional group macro for one frame: its own, else the shared one (PS3.3 C.7.6.16)."""
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    for group in [*per_frame[frame : frame + 1], *shared[:1]]:
        items = group.get(keyword) or []
        if len(items):
            return items[0]
    return None


@dataclass(frozen=True, slots=True, eq=False)
class GreyTransform:
    """The grey pipeline of one frame.

    Attributes:
        dataset: the whole data set: padding, bits, photometric interpretation.
        modality, voi: the data sets that hold rescale and window: functional groups or the data set itself.
        window: which of several windows or VOI LUTs is used.
    """

    dataset: Any
    modality: Any
    voi: Any
    window: int

    @classmethod
    def of(cls, ds: Any, frame: int, window: int) -> GreyTransform:
        modality = functional_group(ds, frame, "PixelValueTransformationSequence")
        voi = functional_group(ds, frame, "FrameVOILUTSequence")
        return cls(ds, ds if modality is None else modality, ds if voi is None else voi, window)

    def same_as(self, other: GreyTransform | None) -> bool:
        return (
            other is not None
            and self.modality is other.modality
            and self.voi is other.voi
            and self.window == other.window
        )

    @property
    def follows_frame(self) -> bool:
        """The result depends on the range of the frame's own values, not only on the header."""
        return not _has_voi(self.voi) and _bits(self.dataset) > 8

    def __call__(self, values: Array, present: Array) -> tuple[NDArray[np.uint8], Transforms]:
        """Stored values → display values.

        Args:
            values: of any shape.
            present: the stored values that occur in the frame.
        """
        notes: list[str] = []
        padding = _padding(self.dataset, notes)
        scaled = _rescale(values, self.modality, notes)
        if _has_voi(self.voi):
            level = _voi(scaled, self.voi, self.window, notes, exact=values.dtype.kind == "f")
        else:
            level = self._full_range(scaled, present[~padding(present)], notes)
        if inverted := _inverted(self.dataset):
            notes.append(f"presentation: inverted, {inverted}")
            level = 1 - level
        level = np.where(padding(values), 0, np.nan_to_num(level, nan=0.0))
        return np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8), tuple(notes)

    def _full_range(self, scaled: Values, present: Array, notes: list[str]) -> Values:
        """Without a window: 8-bit files as they are, deeper ones from the frame's lowest to its highest."""
        if not self.follows_frame:
            ends, name = _rescale(np.array(_stored_range(self.dataset)), self.modality, []), "stored range"
        else:
            ends, name = _rescale(present, self.modality, []), "frame range"
            ends = ends[np.isfinite(ends)]
        low, high = (float(ends.min()), float(ends.max())) if ends.size else (0.0, 0.0)
        notes.append(f"voi: none, {name} {low:g}..{high:g}")
        return (scaled - low) / (high - low) if high > low else np.zeros_like(scaled)


class Renderer:
    """Frames of one data set → pictures; keeps the last table, since frames mostly share it."""

    def __init__(self, ds: Any) -> None:
        self.dataset = ds
        self._last: GreyTransform | None = None
        self._table: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._notes: Transforms = ()

    def __call__(self, stored: Array, frame: int, window: int = 0) -> tuple[Image, Transforms]:
        """One frame's stored values (colour already RGB) → H × W × 3 uint8 BGR, and what was applied."""
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        photometric = str(self.dataset.get("PhotometricInterpretation", "missing"))
        if stored.ndim == 3 and stored.shape[2] == 3:
            return _color(stored, self.dataset, photometric)
        if stored.ndim == 2 and photometric == "PALETTE COLOR":
            return self._palette(stored)
        if stored.ndim == 2 and photometric in ("MONOCHROME1", "MONOCHROME2"):
            grey, notes = self._grey(stored, GreyTransform.of(self.dataset, frame, window))
            return _bgr(grey), notes
        raise InputError(
            f"cannot show pixels of Photometric Interpretation {photometric}",
            "it is retired, unknown or does not fit the number of samples a pixel",
            "convert the file to RGB or MONOCHROME2",
        )

    def _grey(self, stored: Array, transform: GreyTransform) -> tuple[NDArray[np.uint8], Transforms]:
        if stored.dtype.kind == "f" or stored.dtype.itemsize * 8 > TABLE_BITS:
            return transform(stored, stored.ravel())
        if transform.follows_frame:
            lowest = int(stored.min())
            offset = stored.astype(np.int32) - lowest
            counts = np.bincount(offset.ravel())
            values = np.arange(lowest, lowest + len(counts))
            table, notes = transform(values, values[counts > 0])
            return table[offset], notes
        if not transform.same_as(self._last):
            values = every_value(stored.dtype)
            self._table, self._notes = transform(values, values)
            self._last = transform
        return _look_up(self._table, stored), self._notes

    def _palette(self, stored: Array) -> tuple[Image, Transforms]:
        if not self._table.size:
            self._table, self._notes = _palette(every_value(stored.dtype), self.dataset)
        return _look_up(self._table, stored), self._notes


def every_value(dtype: np.dtype[Any]) -> Array:
    """All values of an integer type in the order of their bits: 0, 1 … and then the negative ones."""
    limits = np.iinfo(dtype)
    return np.roll(np.arange(limits.min, limits.max + 1, dtype=np.int64), limits.min).astype(dtype)


def _look_up(table: NDArray[np.uint8], stored: Array) -> NDArray[np.uint8]:
    """Entries of a table over `every_value`: grey (N) or BGR (N × 3)."""
    bits = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    if bits.itemsize > 1:
        return table.take(bits, axis=0)
    if table.ndim == 1:
        return np.asarray(cv2.LUT(bits, table), np.uint8)
    return np.asarray(cv2.applyColorMap(bits, table[:, None]), np.uint8)


def _bgr(grey: NDArray[np.uint8]) -> Image:
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)


def _color(stored: Array, ds: Any, photometric: str) -> tuple[Image, Transforms]:
    notes = [] if photometric == "RGB" else [f"color: {photometric} → RGB (PS3.3 C.7.6.3.1.2)"]
    bits = _bits(ds)
    if bits != 8:
        notes.append(f"depth: {bits} → 8 bits")
        stored = np.rint(stored * (255 / (2**bits - 1)))
    if "ICCProfile" in ds:
        notes.append("icc profile: not applied")
    return np.asarray(stored, np.uint8)[:, :, ::-1].copy(), tuple(notes)


def _palette(values: Array, ds: Any) -> tuple[NDArray[np.uint8], Transforms]:
    """The BGR colour of each value, N × 3."""
    from pydicom.pixels.processing import apply_color_lut

    colors = apply_color_lut(values, ds)[:, :3]
    bits = int(ds.RedPaletteColorLookupTableDescriptor[2])
    if colors.itemsize == 2 and not ds.is_little_endian and "RedPaletteColorLookupTableData" in ds:
        colors = colors.byteswap()  # pydicom reads the entries in this machine's order
    notes = [f"palette: {bits}-bit color look-up table (PS3.3 C.7.9)"]
    if bits > 8 and colors.itemsize > 1:  # some files say 16 bits of entries that have 8
        notes.append(f"depth: {bits} → 8 bits")
        colors = colors >> (bits - 8)
    return np.asarray(colors, np.uint8)[:, ::-1].copy(), tuple(notes)


def _bits(ds: Any) -> int:
    return int(ds.get("BitsStored") or ds.BitsAllocated)


def _stored_range(ds: Any) -> tuple[int, int]:
    bits = _bits(ds)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.get("PixelRepresentation") else (0, 2**bits - 1)


def _padding(ds: Any, notes: list[str]) -> Callable[[Array], NDArray[np.bool_]]:
    """Which stored values mean "no pixel here" (PS3.3 C.7.5.1.1.2); they are shown black."""
    first = _stored_value(ds, "PixelPaddingValue", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue")
    if first is None:
        return lambda values: np.zeros(values.shape, bool)
    last = _stored_value(
        ds, "PixelPaddingRangeLimit", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingRangeLimit"
    )
    low, high = sorted((first, first if last is None else last))
    span = f"{low:g}" if low == high else f"{low:g}..{high:g}"
    notes.append(f"padding: stored {span} shown black (PS3.3 C.7.5.1.1.2)")
    return lambda values: np.asarray((values >= low) & (values <= high))


def _stored_value(ds: Any, *keywords: str) -> float | None:
    """The first of `keywords` that is there, with the sign of the pixels: files often give −2000 as 63536."""
    found = (ds.get(keyword) for keyword in keywords)
    value: float | None = next((v for v in found if isinstance(v, int | float)), None)
    if isinstance(value, int) and ds.get("PixelRepresentation") and value >= 2 ** (_bits(ds) - 1):
        return value - 2 ** int(ds.BitsAllocated)
    return value


def _rescale(values: Array, source: Any, notes: list[str]) -> Values:
    from pydicom.pixels.processing import apply_modality_lut

    if source.get("ModalityLUTSequence"):
        notes.append("modality: look-up table (PS3.3 C.11.1)")
        return np.asarray(apply_modality_lut(values, source), np.float64)
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    if slope is None or intercept is None:
        return values.astype(np.float64)
    notes.append(f"modality: rescale slope {float(slope):g} intercept {float(intercept):g} (PS3.3 C.11.1)")
    return values * float(slope) + float(intercept)


def _has_voi(source: Any) -> bool:
    return bool(source.get("VOILUTSequence")) or bool(_windows(source))


def _windows(source: Any) -> list[tuple[float, float]]:
    """(center, width) of every window with a positive width."""
    pair = (source.get("WindowCenter"), source.get("WindowWidth"))
    if pair[0] in (None, "") or pair[1] in (None, ""):
        return []
    centers, widths = (list(v) if hasattr(v, "__iter__") else [v] for v in pair)
    return [(float(c), float(w)) for c, w in zip(centers, widths, strict=False) if w > 0]


def _voi(values: Values, source: Any, window: int, notes: list[str], exact: bool) -> Values:
    """The VOI LUT, or else the window → 0–1, before clipping (PS3.3 C.11.2).

    Args:
        exact: LINEAR means LINEAR_EXACT. Its half and whole unit are those of integers; files of
            floating-point values say LINEAR with width 1 and mean 0 to 1.
    """
    luts = source.get("VOILUTSequence") or []
    options = luts or _windows(source)
    if window >= len(options):
        raise InputError(
            f"no window {window}", f"the image has {len(options)}, counted from 0", "choose another"
        )
    if luts:
        return _voi_table(values, source, window, notes)
    center, width = _windows(source)[window]
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    note = f"voi: {function} window center {center:g} width {width:g} (PS3.3 C.11.2.1)"
    if function == "LINEAR" and (exact or width < 1):  # a width below 1 is not allowed, but met
        function, note = "LINEAR_EXACT", note + ", taken as LINEAR_EXACT"
    notes.append(note)
    return apply_window(values, center, width, function)


def apply_window(values: Values, center: float, width: float, function: str) -> Values:
    """Window → 0–1, before clipping.

    Args:
        width: above 0; LINEAR needs at least 1.
        function: LINEAR (PS3.3 C.11.2.1.2.1), SIGMOID (C.11.2.1.3.1) or LINEAR_EXACT (C.11.2.1.3.2).
    """
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values - center) / width, -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)), np.float64)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise InputError(
            "cannot apply the window", "its VOI LUT Function is none of LINEAR, LINEAR_EXACT and SIGMOID"
        )
    if width == 0:  # a threshold
        return np.where(values > center, 1.0, 0.0)
    return np.asarray((values - center) / width + 0.5, np.float64)


def _voi_table(values: Values, source: Any, index: int, notes: list[str]) -> Values:
    from pydicom.pixels.processing import apply_voi

    bits = int(source.VOILUTSequence[index].LUTDescriptor[2])
    notes.append(f"voi: look-up table {index} of {bits} bits (PS3.3 C.11.2)")
    entries: Values = np.asarray(apply_voi(np.rint(values).astype(np.int64), source, index), np.float64)
    return np.asarray(entries / (2**bits - 1), np.float64)


def _inverted(ds: Any) -> str:
    """Why the picture is inverted; MONOCHROME1 and INVERSE together mean the same inversion, not two."""
    if ds.PhotometricInterpretation == "MONOCHROME1":
        return "MONOCHROME1 (PS3.3 C.7.6.3.1.2)"
    if str(ds.get("PresentationLUTShape") or "").upper() == "INVERSE":
        return "Presentation LUT Shape INVERSE (PS3.3 C.11.6)"
    return ""
