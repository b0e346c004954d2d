"""Four cameras in memory: what does a frame cost the processor beyond reading it?

The bare loop is four threads that read the same cameras and stamp every frame. Ours do all they do in
earnest: watching, health checks, admission, two slots, stage times, the account, a `null:` sink. In turn.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from functools import partial

from edge.sinks import open_sink
from edge.stream.config import FeedSettings, HealthConfig
from edge.stream.feed import Feed
from edge.types import Image
from feeds.memory import Camera, shaken
from feeds.question import Answer, Options
from feeds.stage import streaming

FEEDS, FPS, SECONDS = 4, 100.0, 6.0
REACH_US = 80.0
UNCHECKED = FeedSettings(health=HealthConfig(frozen_s=0, black=False, lens=False))


def measure(options: Options) -> Answer:
    pictures = shaken()
    micros: dict[str, list[float]] = {"bare": [], "without checks": [], "with health checks": []}
    for _ in range(options.repeat):
        micros["bare"].append(bare(pictures))
        micros["without checks"].append(ours(pictures, UNCHECKED))
        micros["with health checks"].append(ours(pictures, FeedSettings()))
    base = micros["bare"]
    above = {
        name: statistics.median(mine - its for mine, its in zip(values, base, strict=True))
        for name, values in micros.items()
        if name != "bare"
    }
    return Answer(
        ", ".join(f"{name} {value:.0f} µs" for name, value in above.items()) + " above a bare loop",
        f"at most {REACH_US:g} µs CPU a frame",
        max(above.values()) <= REACH_US,
        {"above_us": above, "us_per_frame": micros, "reach_us": REACH_US, "fps": FPS, "feeds": FEEDS},
    )


def ours(pictures: Sequence[Image], settings: FeedSettings) -> float:
    """CPU microseconds a frame of all threads together."""
    feeds = [
        Feed(f"cam{n}", "memory:", None, settings=settings, opener=partial(Camera, pictures, FPS))
        for n in range(FEEDS)
    ]
    with streaming(feeds, sinks=[("null:", open_sink("null:", []))]):
        time.sleep(0.5)
        before, cpu = sum(feed.account.counts().read for feed in feeds), time.process_time()
        time.sleep(SECONDS)
        cpu = time.process_time() - cpu
        read = sum(feed.account.counts().read for feed in feeds) - before
    return 1e6 * cpu / read


def bare(pictures: Sequence[Image]) -> float:
    """The same of threads that only read."""
    frames, cpu = round(FPS * SECONDS), time.process_time()
    threads = [threading.Thread(target=_read, args=(Camera(pictures, FPS, frames),)) for _ in range(FEEDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1e6 * (time.process_time() - cpu) / (FEEDS * frames)


def _read(camera: Camera) -> None:
    stamps = 0.0
    while camera.read() is not None:
        stamps += time.perf_counter()
