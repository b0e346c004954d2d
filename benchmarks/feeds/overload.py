"""A camera five times as fast as the engine: does the age of results stay as it was in the first minute?"""

from __future__ import annotations

import time
from functools import partial

from edge.stream.feed import Feed
from edge.stream.metrics import Histogram
from edge.stream.network import null_network
from feeds.memory import Camera, shaken
from feeds.question import Answer, Options
from feeds.stage import Interval, streaming

INFER_MS = 20.0
FASTER = 5
STEP_S = 5.0
"""Seconds of a point of the curve."""
FLAT, OLDEST = 0.1, 2.0
"""How much the last minute may differ from the first, and age in inferences."""


def measure(options: Options) -> Answer:
    feed = Feed("camera", "memory:", None, opener=partial(Camera, shaken(), 1e3 * FASTER / INFER_MS))
    total = feed.times.histograms["total"]
    with streaming([feed], null_network(f"delay_ms={INFER_MS:g}")) as running:
        time.sleep(1.0)
        parts, part, start = list[Histogram](), Interval(total), time.perf_counter()
        for step in range(1, max(2, round(60 * options.minutes / STEP_S)) + 1):
            time.sleep(max(0.0, start + step * STEP_S - time.perf_counter()))
            parts.append(part.next())
        summary = running.stop().data["feeds"][0]
    minute = min(round(60 / STEP_S), max(1, len(parts) // 2))
    first, last = (1e3 * merged(some).percentile(0.99) for some in (parts[:minute], parts[-minute:]))
    inferences = max(first, last) / INFER_MS
    return Answer(
        f"age p99 {first:.1f} ms in the first minute, {last:.1f} ms in the last of {options.minutes:g}; "
        f"{inferences:.2f} × the inference",
        f"equal within {FLAT:.0%}, at most {OLDEST:g} × the inference",
        abs(last / first - 1) <= FLAT and inferences <= OLDEST,
        {
            "age_p99_ms": {"first_minute": first, "last_minute": last},
            "infer_ms": INFER_MS,
            "inferences": inferences,
            "minutes": options.minutes,
            "step_s": STEP_S,
            "p50_ms": [1e3 * p.percentile(0.5) for p in parts],
            "p99_ms": [1e3 * p.percentile(0.99) for p in parts],
            "captured": summary["captured"],
            "delivered": summary["delivered"],
            "dropped": summary["dropped"],
        },
    )


def merged(parts: list[Histogram]) -> Histogram:
    """All of them as one."""
    whole = Histogram()
    whole.buckets = [sum(counts) for counts in zip(*(part.buckets for part in parts), strict=True)]
    whole.count, whole.maximum = sum(whole.buckets), max(part.maximum for part in parts)
    return whole
