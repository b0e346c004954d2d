"""From stored values to a display picture, in PS3.4 N.2's order: padding → modality → VOI → presentation.

Every step depends on a pixel's own value alone. So the steps run over the few thousand values that a pixel
can have, and a frame is one look-up in the resulting table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.dicom.color import COLOR_SPACES, is_supplemental, palette, true_color
from edge.dicom.lut import table_of
from edge.dicom.voi import Values, apply_voi, options
from edge.errors import InputError
from edge.types import Array, Image

Transforms = tuple[str, ...]
"""What was applied, in order, with the numbers used and the section of the standard."""

Stored = Callable[[int], Array]
"""Reads the stored values of a frame."""

TABLE_BITS = 16
"""Stored values of up to this many bits go through a table; wider and floating-point ones directly."""

FRAME_TYPES = ("CTImage", "MRImage", "PET", "ParametricMap")
"""Functional groups of this name that say whether a frame is in colour."""

SAMPLED = 16
"""Frames, spread over the file, whose values give the range of a file that has no window."""


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
        window: which of several windows or VOI LUTs is used: a number or its explanation.
        little: byte order of the file.
    """

    dataset: Any
    modality: Any
    voi: Any
    window: int | str
    little: bool

    @classmethod
    def of(cls, ds: Any, frame: int, window: int | str = 0) -> GreyTransform:
        modality = functional_group(ds, frame, "PixelValueTransformationSequence")
        voi = functional_group(ds, frame, "FrameVOILUTSequence")
        little = bool(ds.file_meta.TransferSyntaxUID.is_little_endian)
        return cls(ds, ds if modality is None else modality, ds if voi is None else voi, window, little)

    def same_as(self, other: GreyTransform | None) -> bool:
        return (
            other is not None
            and self.modality is other.modality
            and self.voi is other.voi
            and self.window == other.window
        )

    @property
    def windowless(self) -> bool:
        """The result depends on the values that the file holds, not only on its header."""
        return not options(self.voi) and bits_of(self.dataset) > 8

    def __call__(self, values: Array, span: Callable[[], Span]) -> tuple[NDArray[np.uint8], Transforms]:
        """Stored values → display values.

        Args:
            values: of any shape.
            span: the range to show where there is no window.
        """
        notes: list[str] = []
        padding = _padding(self.dataset, notes)
        scaled = self.scaled(values, notes)
        if options(self.voi):
            exact = values.dtype.kind == "f"
            level = apply_voi(scaled, self.voi, self.window, notes, exact, self.little)
        elif self.window != 0:
            raise InputError(f"no window {self.window}", "the image has none", "leave the window out")
        else:
            level = _spread(scaled, span() if self.windowless else self._stored_span(), notes)
        if inverted := inverted_because(self.dataset):
            notes.append(f"presentation: inverted, {inverted}")
            level = 1 - level
        level = np.where(padding(values), 0, np.nan_to_num(level, nan=0.0))
        return np.rint(np.clip(level, 0, 1) * 255).astype(np.uint8), tuple(notes)

    def scaled(self, values: Array, notes: list[str]) -> Values:
        """Stored values → modality values (PS3.3 C.11.1)."""
        source = self.modality
        if tables := source.get("ModalityLUTSequence"):
            notes.append("modality: look-up table (PS3.3 C.11.1)")
            signed = bool(self.dataset.get("PixelRepresentation"))
            return table_of(tables[0], self.little, signed)(values).astype(np.float64)
        slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
        if slope is None or intercept is None:
            return values.astype(np.float64)
        notes.append(
            f"modality: rescale slope {float(slope):g} intercept {float(intercept):g} (PS3.3 C.11.1)"
        )
        return values * float(slope) + float(intercept)

    def values(self, stored: Array) -> Values:
        """The modality values of a frame, NaN where there is padding, or no finite value."""
        scaled = self.scaled(stored, [])
        scaled[_padding(self.dataset, [])(stored) | ~np.isfinite(scaled)] = np.nan
        return scaled

    def ends(self, stored: Array) -> list[float]:
        """The lowest and the highest modality value of a frame, padding left out; empty if none is left."""
        present = _present(stored)
        scaled = self.scaled(present[~_padding(self.dataset, [])(present)], [])
        scaled = scaled[np.isfinite(scaled)]
        return [float(scaled.min()), float(scaled.max())] if scaled.size else []

    def _stored_span(self) -> Span:
        ends = self.scaled(np.array(_stored_range(self.dataset)), [])
        return Span(float(ends.min()), float(ends.max()), "stored range")


@dataclass(frozen=True, slots=True)
class Span:
    """The modality values shown from black to white where there is no window, and where they are from."""

    low: float
    high: float
    name: str


class Renderer:
    """Frames of one data set → pictures; keeps the last table, since frames mostly share it.

    Args:
        frames: number of frames.
        stored: reads any of them.
    """

    def __init__(self, ds: Any, frames: int, stored: Stored) -> None:
        self.dataset = ds
        self.frames = frames
        self._stored = stored
        self._last: GreyTransform | None = None
        self._table: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._notes: Transforms = ()
        self._colors: tuple[NDArray[np.uint8], int, Transforms] | None = None

    def __call__(self, stored: Array, frame: int, window: int | str = 0) -> tuple[Image, Transforms]:
        """One frame's stored values (colour already RGB) → H × W × 3 uint8 BGR, and what was applied."""
        stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        photometric = str(self.dataset.get("PhotometricInterpretation", "missing"))
        if stored.ndim == 3 and stored.shape[2] == 3 and photometric in COLOR_SPACES:
            return true_color(stored, self.dataset, bits_of(self.dataset))
        if stored.ndim == 2 and photometric == "PALETTE COLOR":
            colors, _, notes = self._palette(stored.dtype)
            return _look_up(colors, stored), notes
        if stored.ndim == 2 and photometric in ("MONOCHROME1", "MONOCHROME2"):
            grey, notes = self._grey(stored, GreyTransform.of(self.dataset, frame, window))
            picture = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
            if self._has_colors(stored, frame):
                return self._colored(picture, stored, notes)
            return picture, notes
        raise InputError(
            f"cannot show pixels of Photometric Interpretation {photometric}",
            "it is retired, unknown or does not fit the number of samples a pixel",
            "convert the file to RGB or MONOCHROME2",
        )

    @cached_property
    def span(self) -> Span:
        """One range for all frames, so that a cine does not flicker; a damaged frame is left out."""
        ends: list[float] = []
        count = min(self.frames, SAMPLED)
        for place in np.linspace(0, self.frames - 1, count).round().astype(int):
            frame = int(place)
            try:
                ends += GreyTransform.of(self.dataset, frame).ends(self._stored(frame))
            except InputError:
                continue
        name = "frame range" if self.frames == 1 else "file range"
        if count < self.frames:
            name = f"range of {count} of {self.frames} frames"
        return Span(min(ends), max(ends), name) if ends else Span(0, 0, name)

    def _grey(self, stored: Array, transform: GreyTransform) -> tuple[NDArray[np.uint8], Transforms]:
        if stored.dtype.kind == "f" or stored.dtype.itemsize * 8 > TABLE_BITS:
            return transform(stored, lambda: self.span)
        if not transform.same_as(self._last) or len(self._table) != 1 << stored.dtype.itemsize * 8:
            self._table, self._notes = transform(every_value(stored.dtype), lambda: self.span)
            self._last = transform
        return _look_up(self._table, stored), self._notes

    def _palette(self, dtype: np.dtype[Any]) -> tuple[NDArray[np.uint8], int, Transforms]:
        if self._colors is None or len(self._colors[0]) != 1 << dtype.itemsize * 8:
            little = bool(self.dataset.file_meta.TransferSyntaxUID.is_little_endian)
            self._colors = palette(every_value(dtype), self.dataset, little)
        return self._colors

    def _has_colors(self, stored: Array, frame: int) -> bool:
        if not is_supplemental(self.dataset) or stored.dtype.itemsize * 8 > TABLE_BITS:
            return False
        kinds = (functional_group(self.dataset, frame, f"{kind}FrameTypeSequence") for kind in FRAME_TYPES)
        kind = next((str(item.get("PixelPresentation")) for item in kinds if item is not None), "COLOR")
        return kind != "MONOCHROME"

    def _colored(self, picture: Image, stored: Array, notes: Transforms) -> tuple[Image, Transforms]:
        """Stored values from the palette's first one on in colour (PS3.3 C.8.16.2.1.1.1)."""
        colors, first, applied = self._palette(stored.dtype)
        chosen = stored >= first
        picture[chosen] = _look_up(colors, stored)[chosen]
        return picture, (*notes, f"supplemental: stored values from {first} on in color", *applied)


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


def _present(stored: Array) -> Array:
    """The values that occur."""
    if stored.dtype.kind == "f" or stored.dtype.itemsize * 8 > TABLE_BITS:
        return stored.ravel()
    lowest = int(stored.min())
    return np.flatnonzero(np.bincount((stored.astype(np.int32) - lowest).ravel())) + lowest


def _spread(scaled: Values, span: Span, notes: list[str]) -> Values:
    """Without a window: 8-bit files as they are, deeper ones from the lowest to the highest value."""
    notes.append(f"voi: none, {span.name} {span.low:g}..{span.high:g}")
    if span.high <= span.low:
        return np.zeros_like(scaled)
    return (scaled - span.low) / (span.high - span.low)


def bits_of(ds: Any) -> int:
    return int(ds.get("BitsStored") or ds.BitsAllocated)


def _stored_range(ds: Any) -> tuple[int, int]:
    bits = bits_of(ds)
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
    if isinstance(value, int) and ds.get("PixelRepresentation") and value >= 2 ** (bits_of(ds) - 1):
        return value - 2 ** int(ds.BitsAllocated)
    return value


def inverted_because(ds: Any) -> str:
    """Why the picture is inverted; MONOCHROME1 and INVERSE together mean the same inversion, not two."""
    if ds.PhotometricInterpretation == "MONOCHROME1":
        return "MONOCHROME1 (PS3.3 C.7.6.3.1.2)"
    if str(ds.get("PresentationLUTShape") or "").upper() == "INVERSE":
        return "Presentation LUT Shape INVERSE (PS3.3 C.11.6)"
    return ""
