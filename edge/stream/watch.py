"""One thread that watches all live feeds: which has stalled, and which read will not come back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge.stream.reader import Reader

log = logging.getLogger("edge.stream")

EVERY = 0.1
"""Seconds between two looks."""
GRACE = 1.0
"""Seconds that a stalled feed has to come back by itself, before it is opened anew."""
OPENING = 3.0
"""Seconds beyond its timeout that opening a source may take."""
FIRST_FRAME = 12.0
"""Seconds that the first frame may take: a stream joined in the middle waits for its key frame."""
LEFT_BEHIND = 4
"""Threads that may hang in reads of one feed; then it is waited for one of them."""

Replace = Callable[[Reader], Reader]
"""Starts another reader in the place of one that was given up."""


class Watch(threading.Thread):
    """Watches until `stop`.

    A read that blocks in native code cannot be interrupted; its thread is left behind, its frames are thrown
    away if it ever comes back, and another thread opens the feed anew.
    """

    def __init__(self, stop: threading.Event, replace: Replace) -> None:
        super().__init__(name="watch", daemon=True)
        self.stop, self._replace = stop, replace
        self._lock = threading.Lock()
        self._readers: dict[str, Reader] = {}
        self._left: dict[str, list[Reader]] = {}

    def add(self, reader: Reader) -> None:
        with self._lock:
            self._readers[reader.feed.name] = reader

    def readers(self) -> list[Reader]:
        """Who reads now, by feed."""
        with self._lock:
            return list(self._readers.values())

    def run(self) -> None:
        while not self.stop.wait(EVERY):
            for reader in self.readers():
                self.look(reader, time.perf_counter())

    def look(self, reader: Reader, now: float) -> None:
        """Look at one feed."""
        feed = reader.feed
        if feed.life.over or not feed.live or feed.removed.is_set():
            return
        health = feed.settings.health
        if feed.life.state in ("connecting", "reconnecting"):
            since = reader.since
            most = feed.settings.reconnect.open_s + OPENING if reader.opening else FIRST_FRAME
            if since is not None and now - since > most:
                what = "opening it has not come back" if reader.opening else "no first frame"
                self._give_up(reader, f"{what} for {now - since:.0f} s", now)
            return
        silent = now - (feed.last_arrived or now)
        if silent <= health.stalled_s:
            return
        if feed.life.to("stalled", f"no frame for {silent:.1f} s"):
            log.warning("%s: stalled: %s", feed.name, feed.life.now.reason)
        if feed.opener is not None and silent > health.stalled_s + GRACE:
            self._give_up(reader, f"no frame for {silent:.1f} s", now)

    def _give_up(self, reader: Reader, why: str, now: float) -> None:
        feed = reader.feed
        over = feed.patience(now) <= 0
        left = [r for r in self._left.get(feed.name, []) if r.is_alive()]
        if len(left) >= LEFT_BEHIND and not over:
            return
        with feed.lock:
            reader.give_up()
        feed.given_up += 1
        if over:
            reader.fail(why)
            return
        feed.life.to("reconnecting" if feed.last_arrived is not None else "connecting", why)
        self._left[feed.name] = [*left, reader]
        log.warning("%s: opened anew: %s", feed.name, why)
        with self._lock:
            if self._readers.get(feed.name) is reader:
                self._readers[feed.name] = self._replace(reader)
