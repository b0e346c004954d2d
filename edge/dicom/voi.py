"""The VOI step: which grey values are shown, by a window or a look-up table (PS3.3 C.11.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dicom.lut import table_of
from edge.errors import InputError
from edge.types import Array

Values = NDArray[np.float64]


def options(source: Any) -> list[str]:
    """Name of each VOI LUT and then of each window with a positive width; empty where it has none."""
    tables = [str(item.get("LUTExplanation") or "") for item in source.get("VOILUTSequence") or []]
    return tables + [name for _, _, name in windows(source)]


def windows(source: Any) -> list[tuple[float, float, str]]:
    """(center, width, explanation) of every window with a positive width."""
    centers, widths = _several(source, "WindowCenter"), _several(source, "WindowWidth")
    names = _several(source, "WindowCenterWidthExplanation")
    names += [""] * len(centers)
    pairs = zip(centers, widths, names, strict=False)
    return [(float(c), float(w), str(name)) for c, w, name in pairs if w > 0]


def _several(source: Any, keyword: str) -> list[Any]:
    value = source.get(keyword)
    if value in (None, ""):
        return []
    return [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


def window_of(text: str) -> int | str:
    """A window as users name it: its number in `options`, else its explanation."""
    return int(text) if text.lstrip("-").isdigit() else text


def choose(names: Sequence[str], wanted: int | str) -> int:
    """Index of a VOI option by number, or by its explanation in any case of letters.

    Raises:
        InputError: there is none such.
    """
    if isinstance(wanted, str):
        found = [i for i, name in enumerate(names) if name.strip().upper() == wanted.strip().upper()]
        if found:
            return found[0]
    elif 0 <= wanted < len(names):
        return wanted
    raise InputError(
        f"no window {wanted}",
        f"the image has {len(names)}, counted from 0",
        "choose another: `edge dicom show` lists them",
    )


def apply_voi(
    values: Values, source: Any, window: int | str, notes: list[str], exact: bool, little: bool
) -> Values:
    """The chosen VOI LUT or window → 0–1, before clipping.

    Args:
        window: a number in `options`, or an explanation.
        notes: what was applied is appended.
        exact: LINEAR means LINEAR_EXACT. Its half and whole unit are those of integers; files of
            floating-point values say LINEAR with width 1 and mean 0 to 1.
        little: byte order of the file.
    """
    tables = source.get("VOILUTSequence") or []
    index = choose(options(source), window)
    if index < len(tables):
        table = table_of(tables[index], little, signed=bool(values.size and np.nanmin(values) < 0))
        notes.append(f"voi: look-up table {index} of {table.bits} bits (PS3.3 C.11.2.1.1)")
        return np.asarray(table(values) / (2**table.bits - 1), np.float64)
    center, width, _ = windows(source)[index - len(tables)]
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    note = f"voi: {function} window center {center:g} width {width:g} (PS3.3 C.11.2.1)"
    if function == "LINEAR" and (exact or width < 1):  # a width below 1 is not allowed, but met
        function, note = "LINEAR_EXACT", note + ", taken as LINEAR_EXACT"
    notes.append(note)
    return apply_window(values, center, width, function)


def apply_window(values: Array, center: float, width: float, function: str) -> Values:
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
