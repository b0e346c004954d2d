"""One feed: a source, the thread that reads it, and what is known about its frames."""

from __future__ import annotations

import threading
import time
from collections import Counter

from edge.backends import Lender
from edge.errors import InputError
from edge.sources import Picture, Source
from edge.stream.admission import Account, Admission, Lane
from edge.stream.faults import Faults, describe
from edge.stream.metrics import StageTimes
from edge.types import Frame

LOST_AFTER = 100
"""Reads that fail in a row before a source is given up."""


class Feed:
    """A source under a name that is unique in the run.

    Attributes:
        ended: how it ended: `end`, `limit` (--frames), `shutdown`, `truncated`, `lost` (a camera),
            `fault`; None while it runs.
        reader_count: frames as the reader counted them, apart from the account, to prove it at the end.
    """

    def __init__(self, name: str, uri: str, source: Source, max_age: float | None = None) -> None:
        self.name, self.uri, self.source = name, uri, source
        self.account = Account()
        self.lane = Lane(source.live, max_age, self.account)
        self.times = StageTimes()
        self.flags: Counter[str] = Counter()
        self.reader_count = 0
        self.ended: str | None = None
        self.error: str | None = None
        self.first_captured: float | None = None
        self.last_delivered: float | None = None


class Reader(threading.Thread):
    """Reads one feed until it ends, is stopped, or has given `limit` frames."""

    def __init__(
        self,
        feed: Feed,
        admission: Admission,
        stop: threading.Event,
        faults: Faults,
        limit: int | None = None,
    ) -> None:
        super().__init__(name=f"reader-{feed.name}", daemon=True)
        self._lender: Lender | None = None
        self.feed, self.admission, self.stop, self.faults = feed, admission, stop, faults
        self.limit = limit
        self._start: float | None = None

    def lend(self, lender: Lender | None) -> None:
        """From now on frames are to be in this memory: decoded there, or copied by this thread."""
        if lender is not None and hasattr(self.feed.source, "allocate"):
            self.feed.source.allocate = lender
        else:
            self._lender = lender

    def run(self) -> None:
        feed = self.feed
        try:
            feed.ended = self._read_all()
        except Exception as e:  # whatever it is, it ends this feed and no other
            feed.ended, feed.error = "fault", describe(e)
            self.faults.report(feed.name, "reading", e)
        finally:
            self.admission.finish(feed.lane)

    def _read_all(self) -> str:
        feed, failures = self.feed, 0
        while not self.stop.is_set():
            if self.limit is not None and feed.reader_count >= self.limit:
                return "limit"
            start = time.perf_counter()
            try:
                picture = feed.source.read()
            except OSError as e:  # InputError among them: this frame is lost, the next may be readable
                failures += 1
                self._lost(e)
                if failures >= LOST_AFTER:
                    raise
                continue
            if picture is None:
                return self._ended(feed.source.problem)
            failures = 0
            self._hand_in(picture, start)
        return "shutdown"

    def _ended(self, problem: str | None) -> str:
        """A file that is shorter than it says is what it is; a camera that goes away is a fault."""
        feed = self.feed
        feed.error = problem
        if problem and feed.source.live:
            self.faults.report(feed.name, "reading", InputError(problem))
            return "lost"
        return "truncated" if problem else "end"

    def _lost(self, error: OSError) -> None:
        feed = self.feed
        feed.reader_count += 1
        feed.account.read()
        feed.account.fail("capture")
        self.faults.report(feed.name, "reading a frame", error)

    def _hand_in(self, picture: Picture, start: float) -> None:
        feed = self.feed
        captured = time.perf_counter()
        read_seconds = captured - start
        if feed.source.paced:
            captured = self._wait_until_due(picture.pts)
        frame = Frame(
            feed.name,
            feed.reader_count,
            picture.image if self._lender is None else self._lender.copy(picture.image),
            picture.pts,
            captured,
            time.time(),
            read_seconds,
            picture.meta,
            picture.truth,
        )
        if feed.first_captured is None:
            feed.first_captured = captured
        feed.reader_count += 1
        self.admission.offer(feed.lane, frame)

    def _wait_until_due(self, pts: float | None) -> float:
        """Let the feed's own clock pass; the frame exists from the moment it returns."""
        now = time.perf_counter()
        if pts is None:
            return now
        if self._start is None:
            self._start = now - pts
        due = self._start + pts
        if due > now:
            self.stop.wait(due - now)
        return time.perf_counter()
