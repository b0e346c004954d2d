"""What benchmarks of live feeds share: feeds of a real server, a run on a thread, this process's size."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))  # where the server is

import rtsp  # noqa: E402
from rtsp import RtspServer as RtspServer  # noqa: E402

from edge.sinks import Sink  # noqa: E402
from edge.sources import describe, open_source  # noqa: E402
from edge.stream.config import FeedSettings  # noqa: E402
from edge.stream.feed import Feed  # noqa: E402
from edge.stream.metrics import Histogram  # noqa: E402
from edge.stream.network import Network, null_network  # noqa: E402
from edge.stream.run import Run, Summary  # noqa: E402

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Size:
    """What this process holds (Linux).

    Attributes:
        rss: bytes in memory.
        threads: Python's and others'.
        descriptors: open files and sockets.
    """

    rss: int
    threads: int
    descriptors: int

    @classmethod
    def now(cls) -> Size:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tasks, files = os.listdir("/proc/self/task"), os.listdir("/proc/self/fd")
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(tasks), len(files) - 1)  # one is the listing's own


class Interval:
    """The part of a histogram that came since it was last asked."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram, self._before = histogram, list(histogram.buckets)

    def next(self) -> Histogram:
        now, part = list(self._histogram.buckets), Histogram()
        part.buckets = [after - before for after, before in zip(now, self._before, strict=True)]
        part.count, part.maximum = sum(part.buckets), self._histogram.maximum
        self._before = now
        return part


class Streaming:
    """A run on a thread of its own.

    Attributes:
        summary: None until it has ended.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.feeds = run, run.feeds
        self.summary: Summary | None = None
        self._thread = threading.Thread(target=self._go, name="run")

    def _go(self) -> None:
        self.summary = self.run.go()

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """End it; a second call does nothing."""
        self.run.stop.set()
        self._thread.join()

    def stop(self) -> Summary:
        """End it, and tell what happened.

        Raises:
            RuntimeError: it ended with an error of its own.
        """
        self.end()
        if self.summary is None:
            raise RuntimeError("the run ended with an error")
        return self.summary


@contextmanager
def streaming(
    feeds: Sequence[Feed], network: Network | None = None, sinks: Sequence[tuple[str, Sink]] = ()
) -> Iterator[Streaming]:
    """The feeds through a network, until the block ends; default: one that costs nothing."""
    running = Streaming(Run(network or null_network(), feeds, sinks, stop=threading.Event()))
    running.start()
    try:
        yield running
    finally:
        running.end()


def network_feed(name: str, url: str, settings: FeedSettings | None = None) -> Feed:
    """A feed that comes and goes, as `edge run` makes it."""
    absent = describe(url)
    assert absent is not None
    opener = partial(open_source, url)
    return Feed(
        name, absent.shown, None, settings=settings or FeedSettings(), opener=opener, place=absent.place
    )


def until(condition: Callable[[], bool], seconds: float) -> float | None:
    """Seconds until it holds; None if it does not in time."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        if condition():
            return time.perf_counter() - start
        time.sleep(0.005)
    return None


def all_live(feeds: Sequence[Feed], seconds: float = 30.0) -> None:
    """Wait until every feed has given a result.

    Raises:
        RuntimeError: one does not.
    """
    if until(lambda: all(feed.account.counts().delivered for feed in feeds), seconds) is None:
        absent = [feed for feed in feeds if not feed.account.counts().delivered]
        why = "; ".join(f"{feed.name}: {feed.life.now.reason}" for feed in absent)
        raise RuntimeError(f"no result within {seconds:g} s: {why}")


def need_server() -> None:
    """End the benchmark where there is no RTSP server."""
    if why := rtsp.missing():
        sys.exit(why)


def unexplained(feed: Feed) -> int:
    """Frames of which nobody knows where they are, after a run."""
    counts = feed.account.counts()
    return abs(feed.reader_count - counts.read) + abs(counts.in_flight)
