"""A camera five times as fast as the engine: does the age of results stay as it was in the first minute?

Beside it runs what nothing can be younger than: a bare loop that takes the newest frame and waits as long as
the engine. What it loses in a minute, the machine had other work for.
"""

from __future__ import annotations

import threading
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
    fps = 1e3 * FASTER / INFER_MS
    feed = Feed("camera", "memory:", None, opener=partial(Camera, shaken(), fps))
    bare = Bare(1 / fps)
    with streaming([feed], null_network(f"delay_ms={INFER_MS:g}")) as running, bare:
        time.sleep(1.0)
        intervals = Interval(feed.times.histograms["total"]), Interval(bare.ages)
        ours, its, start = list[Histogram](), list[Histogram](), time.perf_counter()
        for step in range(1, max(2, round(60 * options.minutes / STEP_S)) + 1):
            time.sleep(max(0.0, start + step * STEP_S - time.perf_counter()))
            ours.append(intervals[0].next())
            its.append(intervals[1].next())
        summary = running.stop().data["feeds"][0]
    minute = min(round(60 / STEP_S), max(1, len(ours) // 2))
    first, last = p99_ms(ours[:minute]), p99_ms(ours[-minute:])
    bare_first, bare_last = p99_ms(its[:minute]), p99_ms(its[-minute:])
    inferences = p99_ms(ours) / INFER_MS
    return Answer(
        f"age p99 {first:.1f} ms in the first minute, {last:.1f} ms in the last of {options.minutes:g} "
        f"(a bare loop: {bare_first:.1f}, {bare_last:.1f}); {inferences:.2f} × the inference",
        f"equal within {FLAT:.0%} of a bare loop, at most {OLDEST:g} × the inference",
        (last / first) / (bare_last / bare_first) <= 1 + FLAT and inferences <= OLDEST,
        {
            "age_p99_ms": {"first_minute": first, "last_minute": last, "all": p99_ms(ours)},
            "bare_p99_ms": {"first_minute": bare_first, "last_minute": bare_last, "all": p99_ms(its)},
            "infer_ms": INFER_MS,
            "inferences": inferences,
            "minutes": options.minutes,
            "step_s": STEP_S,
            "p50_ms": [1e3 * p.percentile(0.5) for p in ours],
            "p99_ms": [1e3 * p.percentile(0.99) for p in ours],
            "bare_p99_each_ms": [1e3 * p.percentile(0.99) for p in its],
            "captured": summary["captured"],
            "delivered": summary["delivered"],
            "dropped": summary["dropped"],
        },
    )


class Bare(threading.Thread):
    """The loop that does nothing but wait."""

    def __init__(self, period: float) -> None:
        super().__init__(name="bare", daemon=True)
        self.ages, self._period, self._over = Histogram(), period, threading.Event()

    def run(self) -> None:
        start = time.perf_counter()
        while not self._over.is_set():
            now = time.perf_counter()
            newest = now - (now - start) % self._period
            time.sleep(INFER_MS / 1e3)
            self.ages.add(time.perf_counter() - newest)

    def __enter__(self) -> Bare:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self.join()


def p99_ms(parts: list[Histogram]) -> float:
    return 1e3 * merged(parts).percentile(0.99)


def merged(parts: list[Histogram]) -> Histogram:
    """All of them as one."""
    whole = Histogram()
    whole.buckets = [sum(counts) for counts in zip(*(part.buckets for part in parts), strict=True)]
    whole.count, whole.maximum = sum(whole.buckets), max(part.maximum for part in parts)
    return whole
