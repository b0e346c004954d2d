"""Feeds that stall, freeze or turn black: how long until their state says so?"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from edge.stream.feed import Feed
from feeds.faults import KNOBS, SHOWS
from feeds.question import Answer, Options
from feeds.stage import RtspServer, all_live, network_feed, rtsp, streaming, until

KINDS = {"freeze": "the server hangs", "pause": "no frames", "static": "the same picture", "black": "black"}
REACH_S = 2.5


def measure(options: Options) -> Answer:
    after: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        pictures = rtsp.clip(Path(folder) / "clip")
        # A camera a kind, which remembers no other's faults, with a codec that repeats pictures exactly.
        mounts = [rtsp.mount(f"/{kind}", pictures, codec="jpeg", fps=10.0) for kind in KINDS]
        with RtspServer(Path(folder), mounts) as server:
            feeds = {kind: network_feed(kind, server.url(f"/{kind}")) for kind in KINDS}
            with streaming(list(feeds.values())):
                all_live(list(feeds.values()))
                for _ in range(options.repeat):
                    for kind, seconds in after.items():
                        until(lambda: all(feed.life.state == "live" for feed in feeds.values()), 30)
                        time.sleep(3.0)
                        seconds.append(one(kind, server, feeds[kind]))
    worst = max(max(seconds) for seconds in after.values())
    told = ", ".join(f"{KINDS[kind]} {statistics.median(s):.2f} s" for kind, s in after.items())
    return Answer(
        f"{told}; at worst {worst:.2f} s",
        f"at most {REACH_S:g} s",
        worst <= REACH_S,
        {"after_s": {KINDS[kind]: seconds for kind, seconds in after.items()}, "reach_s": REACH_S},
    )


def one(kind: str, server: RtspServer, feed: Feed) -> float:
    """Seconds from a fault to the state that shows it, 10 where none does; then it is taken back."""
    if kind == "freeze":
        server.freeze()
    else:
        server.turn(f"/{kind}", **KNOBS[kind])
    seconds = until(lambda: feed.life.state in SHOWS[kind], 10)
    if kind == "freeze":
        server.thaw()
    else:
        server.calm(f"/{kind}")
    return 10.0 if seconds is None else seconds
