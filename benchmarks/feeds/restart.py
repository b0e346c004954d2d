"""A server is killed and started again: how long until its feeds give results, and what do others notice?

Beside them a bare client tries without a pause: what the server itself needs for a first picture.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from edge.stream.feed import Feed
from feeds.question import Answer, Options
from feeds.sixteen import bare_pictures
from feeds.stage import RtspServer, all_live, network_feed, rtsp, streaming

FEEDS, FPS = 4, 10.0
DOWN_S = 3.0
REACH_S = 2.0
PATIENCE_S = 30.0
KEPT = 0.95
"""Share of their frames that the others still have to give."""


def measure(options: Options) -> Answer:
    back, bare = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        pictures = rtsp.clip(Path(folder) / "clip")
        mounts = [rtsp.mount(f"/{number}", pictures, fps=FPS, gop=10) for number in range(FEEDS)]
        killed, other = (opened.enter_context(RtspServer(Path(folder), mounts)) for _ in range(2))
        struck = [network_feed(f"struck{n}", killed.url(f"/{n}")) for n in range(FEEDS)]
        others = [network_feed(f"other{n}", other.url(f"/{n}")) for n in range(FEEDS)]
        with streaming([*struck, *others]):
            all_live([*struck, *others])
            time.sleep(2.0)
            start, before = time.perf_counter(), sum(f.account.counts().read for f in others)
            for _ in range(options.repeat):
                killed.kill()
                time.sleep(DOWN_S)
                feeds, alone = restarted(killed, struck)
                back += feeds
                bare.append(alone)
                time.sleep(1.0)
            seconds = time.perf_counter() - start
            given = sum(f.account.counts().read for f in others) - before
    kept = given / (FEEDS * FPS * seconds)
    calm = all(not f.life.counts["reconnecting"] and not f.life.counts["stalled"] for f in others)
    return Answer(
        f"first results after {statistics.median(back):.2f} s, at worst {max(back):.2f} s (a bare client: "
        f"{statistics.median(bare):.2f} s); others gave {kept:.0%} of their frames",
        f"at most {REACH_S:g} s after it accepts; others undisturbed",
        max(back) <= REACH_S and kept >= KEPT and calm,
        {
            "back_s": back,
            "bare_client_s": bare,
            "others_kept": kept,
            "others_stayed_live": calm,
            "down_s": DOWN_S,
            "reach_s": REACH_S,
        },
    )


def restarted(server: RtspServer, feeds: list[Feed]) -> tuple[list[float], float]:
    """Start the server; seconds from then until each feed has a new result, and until the bare client has."""
    known = {feed.name: feed.account.counts().delivered for feed in feeds}
    server.start()
    start, found, alone = time.perf_counter(), dict[str, float](), list[float]()
    client = threading.Thread(target=_first_picture, args=(server.url("/0"), alone))
    client.start()
    while len(found) < len(feeds) and time.perf_counter() - start < PATIENCE_S:
        for feed in feeds:
            if feed.name not in found and feed.account.counts().delivered > known[feed.name]:
                found[feed.name] = time.perf_counter() - start
        time.sleep(0.005)
    client.join()
    return [found.get(feed.name, PATIENCE_S) for feed in feeds], alone[0]


def _first_picture(url: str, seconds: list[float]) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < PATIENCE_S:
        with suppress(OSError, ValueError):
            for _ in bare_pictures(url):
                seconds.append(time.perf_counter() - start)
                return
    seconds.append(PATIENCE_S)
