"""Sixteen cameras, one of which dies every ten seconds: do counts stay exact, and does anything pile up?"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from feeds.question import Answer, Options
from feeds.stage import MIB, RtspServer, Size, all_live, network_feed, rtsp, streaming, unexplained, until

FEEDS, SIZE, FPS = 16, (320, 240), 5.0
EVERY_S, DOWN_S = 10.0, 4.0
SETTLING_S = 15.0
GROWTH_MIB = 8.0


def measure(options: Options) -> Answer:
    kills = max(2, round(60 * options.minutes / EVERY_S))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        pictures = rtsp.clip(Path(folder) / "clip", SIZE, count=25)
        mount = rtsp.mount("/camera", pictures, size=SIZE, fps=FPS, gop=5)
        servers = [opened.enter_context(RtspServer(Path(folder), [mount])) for _ in range(FEEDS)]
        feeds = [network_feed(f"cam{n}", server.url("/camera")) for n, server in enumerate(servers)]
        with streaming(feeds) as running:
            all_live(feeds, 60)
            time.sleep(SETTLING_S)
            sizes = [Size.now()]
            for number in range(kills):
                due = time.perf_counter() + EVERY_S
                server = servers[number % FEEDS]
                server.kill()
                time.sleep(DOWN_S)
                server.start()
                time.sleep(max(0.0, due - time.perf_counter()))
                sizes.append(Size.now())
            alive = until(lambda: all(feed.life.state == "live" for feed in feeds), 30) is not None
            time.sleep(2.0)
            sizes.append(Size.now())
            summary = running.stop().data
    lost = sum(map(unexplained, feeds))
    first, last = sizes[0], sizes[-1]
    warm = sizes[min(FEEDS, len(sizes) // 2)]  # by then every feed has been opened anew, or as many as can be
    grown = (statistics.median(size.rss for size in sizes[-3:]) - warm.rss) / MIB
    threads, files = last.threads - first.threads, last.descriptors - first.descriptors
    captured = sum(row["captured"] for row in summary["feeds"])
    return Answer(
        f"{kills} killed, {captured} frames, {lost} without a fate; at the end {threads:+d} threads, "
        f"{files:+d} files, {grown:+.1f} MiB, all live: {'yes' if alive else 'no'}",
        "exact; no more threads, files or memory",
        not lost and alive and threads <= 0 and files <= 0 and grown <= GROWTH_MIB,
        {
            "killed": kills,
            "captured": captured,
            "without_a_fate": lost,
            "all_live": alive,
            "every_s": EVERY_S,
            "rss_mib": [size.rss / MIB for size in sizes],
            "threads": [size.threads for size in sizes],
            "descriptors": [size.descriptors for size in sizes],
            "grown_mib": grown,
        },
    )
