"""Sixteen RTSP feeds at once: are all frames accounted for, and what do they cost beside bare decoders?

A bare decoder is a thread that opens the same stream with PyAV and turns every picture into BGR. They run in
turn with ours, in the same process, so that FFmpeg and its settings are the same.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edge.types import Image
from feeds.question import Answer, Options
from feeds.stage import RtspServer, all_live, network_feed, rtsp, streaming, unexplained, until

FEEDS, SIZE, FPS = 16, (640, 360), 10.0
SECONDS = 15.0
REACH = 1.1
EXPLAINED = {"superseded"}
"""Why a frame may be left out here: a newer one came first."""


def measure(options: Options) -> Answer:
    ours, bare, frames, lost = list[float](), list[float](), 0, 0
    dropped: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        pictures = rtsp.clip(Path(folder) / "clip", SIZE, video="one-by-one-person-detection.mp4")
        mounts = [rtsp.mount(f"/{n}", pictures, size=SIZE, fps=FPS, gop=10) for n in range(FEEDS)]
        with RtspServer(Path(folder), mounts) as server:
            urls = [server.url(f"/{number}") for number in range(FEEDS)]
            for _ in range(options.repeat):
                bare.append(decoders(urls))
                cpu, captured, missing, causes = feeds(urls)
                ours.append(cpu)
                frames, lost = frames + captured, lost + missing
                for cause, count in causes.items():
                    dropped[cause] = dropped.get(cause, 0) + count
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    unknown = {cause: n for cause, n in dropped.items() if cause not in EXPLAINED | {"shutdown"}}
    return Answer(
        f"{frames} frames, {lost} without a fate, dropped {dropped or 'none'}; "
        f"CPU {statistics.median(ours):.2f} ms a frame, {ratio:.2f} × the bare decoders'",
        f"no unexplained drop, CPU at most {REACH:g} × the decoders'",
        not lost and not unknown and ratio <= REACH,
        {
            "captured": frames,
            "without_a_fate": lost,
            "dropped": dropped,
            "cpu_ms_per_frame": {"ours": ours, "decoders": bare},
            "ratio": ratio,
        },
    )


def feeds(urls: list[str]) -> tuple[float, int, int, dict[str, int]]:
    """CPU milliseconds a frame, frames, those without a fate, drops by cause."""
    made = [network_feed(f"cam{number}", url) for number, url in enumerate(urls)]
    with streaming(made) as running:
        all_live(made)
        time.sleep(1.0)
        before = sum(feed.account.counts().read for feed in made)
        cpu = time.process_time()
        time.sleep(SECONDS)
        cpu = time.process_time() - cpu
        read = sum(feed.account.counts().read for feed in made) - before
        rows = running.stop().data["feeds"]
    causes: dict[str, int] = {}
    for row in rows:
        for cause, count in row["dropped"].items():
            causes[cause] = causes.get(cause, 0) + count
    return 1e3 * cpu / read, sum(r["captured"] for r in rows), sum(map(unexplained, made)), causes


def decoders(urls: list[str]) -> float:
    """CPU milliseconds a frame of as many threads that only decode."""
    stop, counts = threading.Event(), [0] * len(urls)
    threads = [
        threading.Thread(target=_decode, args=(url, stop, counts, number)) for number, url in enumerate(urls)
    ]
    for thread in threads:
        thread.start()
    until(lambda: all(counts), 30)
    time.sleep(1.0)
    before, cpu = sum(counts), time.process_time()
    time.sleep(SECONDS)
    cpu, read = time.process_time() - cpu, sum(counts) - before
    stop.set()
    for thread in threads:
        thread.join()
    return 1e3 * cpu / read


def _decode(url: str, stop: threading.Event, counts: list[int], number: int) -> None:
    for image in bare_pictures(url):
        counts[number] += image.shape[0] > 0
        if stop.is_set():
            return


def bare_pictures(url: str) -> Iterator[Image]:
    """The pictures of a stream, and nothing more.

    Raises:
        OSError, ValueError: FFmpeg's.
    """
    import av

    options = {"rtsp_transport": "tcp", "analyzeduration": "0", "probesize": "32", "max_delay": "100000"}
    with av.open(url, options=options, timeout=(5.0, 5.0)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="bgr24")
