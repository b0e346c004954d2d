"""When the frames of a cine are shown."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any


def frame_times(ds: Any) -> tuple[float, ...] | None:
    """Presentation time of each frame in seconds, the first at 0; None where the file gives no timing.

    Read from, in this order: Frame Time Vector, Frame Time, Recommended Display Frame Rate, Cine Rate
    (PS3.3 C.7.6.5). A value that makes no sense (negative, not finite, wrong count) is passed over.

    Args:
        ds: a pydicom Dataset.
    """
    count = int(ds.get("NumberOfFrames") or 1)
    if count < 2:
        return None
    steps = _numbers(ds, "FrameTimeVector")  # milliseconds since the frame before; the first is 0
    if len(steps) == count and all(step >= 0 for step in steps[1:]) and sum(steps[1:]) > 0:
        return tuple(accumulate((step / 1000 for step in steps[1:]), initial=0.0))
    interval = _interval(ds)
    return tuple(i * interval for i in range(count)) if interval else None


def _interval(ds: Any) -> float | None:
    """Seconds between frames."""
    for keyword in ("FrameTime", "RecommendedDisplayFrameRate", "CineRate"):
        for value in _numbers(ds, keyword)[:1]:
            if value > 0:
                return value / 1000 if keyword == "FrameTime" else 1 / value
    return None


def _numbers(ds: Any, keyword: str) -> list[float]:
    value = ds.get(keyword)
    if value is None or value == "":
        return []
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
