"""The thread that reads a feed: to its end, or for ever with a new connection after each loss."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from edge.backends import Lender
from edge.build.resources import give_back
from edge.errors import EdgeError, InputError, MissingPackage, UsageError
from edge.sources import Damaged, Idle, Picture, Refused, Source
from edge.stream import knock
from edge.stream.admission import Admission
from edge.stream.burned_in import UNCHECKED
from edge.stream.faults import Faults
from edge.stream.feed import Feed
from edge.stream.framing import make_frame
from edge.stream.life import Backoff, Lag, State

log = logging.getLogger("edge.stream")

LOST_AFTER = 100
"""Reads that fail in a row before a source is given up; one that is told of outcomes never is."""
LATE, IN_TIME = 0.5, 0.1
"""Seconds that frames come late when a source is to hurry, and from when it need not any more."""
TOO_LATE_S = 10.0
"""A source that has hurried so long and is late still is opened anew."""


class Reader(threading.Thread):
    """Reads one feed until it ends, is stopped, or has given `limit` frames.

    Attributes:
        since: when the call into the source that is under way began, `time.perf_counter()` seconds; None
            between calls.
        opening: whether that call opens it.
    """

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
        self._given_lender: Lender | None = None
        self.feed, self.admission, self.stop, self.faults = feed, admission, stop, faults
        self.limit = limit
        self.given_up = threading.Event()
        self.since: float | None = None
        self.opening = False
        self._source = feed.source
        self._start: float | None = None
        self._backoff = Backoff(feed.settings.reconnect)
        self._told = ""
        self._skipped = 0
        self._hurried: float | None = None

    def lend(self, lender: Lender | None) -> None:
        """From now on frames are to be in this memory: decoded there, or copied by this thread."""
        self._given_lender = lender
        if self._source is not None:
            self._let_use(self._source)

    def give_up(self) -> None:
        """Nobody waits for this thread any more; what it brings when its read comes back is thrown away.

        The source is left to it: nothing native may be closed while a read is under way.
        """
        self.given_up.set()

    def run(self) -> None:
        feed = self.feed
        feed.begun = feed.begun or time.perf_counter()
        try:
            ended = self._keep_reading() if feed.opener else self._read_all()
        except Exception as e:  # whatever it is, it ends this feed and no other
            ended = "fault"
            feed.error = self.faults.describe(e)
            self.faults.report(feed.name, "reading", e)
        if not self.given_up.is_set():
            self._end(ended)

    def fail(self, why: str) -> None:
        """The feed is looked for no longer."""
        self.feed.error = why
        give_up = self.feed.settings.reconnect.give_up_s
        self.faults.report(self.feed.name, "reading", InputError(f"given up after {give_up:g} s", why))
        self._end("failed")

    def _end(self, ended: str) -> None:
        feed = self.feed
        feed.ended = ended
        over: State = "failed" if ended in ("fault", "failed", "lost") else "ended"
        feed.life.to(over, feed.error or ended + feed.life.trouble)
        self.admission.finish(feed.lane)

    # ------------------------------------------------------------------ a source that ends

    def _read_all(self) -> str:
        feed = self.feed
        assert feed.source is not None
        feed.life.to("live")
        try:
            while True:
                if not feed.live:
                    self.admission.wait_for_room(feed.lane)
                if (ended := self._over()) is not None:
                    return ended
                if not self._read(feed.source):
                    return self._ended(feed.source.problem)
        finally:
            feed.source.close()

    def _ended(self, problem: str | None) -> str:
        """A file that is shorter than it says is what it is; a camera that goes away is a fault."""
        feed = self.feed
        feed.error = problem
        if problem and feed.live:
            self.faults.report(feed.name, "reading", InputError(problem))
            return "lost"
        return "truncated" if problem else "end"

    # ------------------------------------------------------------------ a source that comes back

    def _keep_reading(self) -> str:
        """Connect, read until the connection is lost, wait, connect again."""
        feed = self.feed
        while True:
            if (ended := self._over()) is not None:
                return ended
            before, refused = feed.reader_count, False
            why: str | None
            try:
                why = self._read_connection()
            except Refused as e:
                why, refused = self.faults.describe(e), True
            except (UsageError, MissingPackage):  # no attempt will ever succeed
                raise
            except (EdgeError, OSError) as e:
                why = self.faults.describe(e)
            except Exception as e:  # a fault in a decoder or driver is no reason never to look again
                why = self.faults.describe(e)
                self.faults.report(feed.name, "reading", e)
            if (ended := self._over()) is not None or why is None:
                return ended or "end"
            if feed.reader_count > before:
                self._backoff.reset()
            left = feed.patience(time.perf_counter())
            if left <= 0:
                self.fail(why)
                return "failed"
            pause = min(self._backoff.next(refused), left + 0.01)
            self._absent(why, pause)
            knock.wait(pause, feed.place, self.stop, self._over)

    def _read_connection(self) -> str | None:
        """One connection, from opening to its loss; why it was lost, None where all has been read."""
        feed = self.feed
        assert feed.opener is not None
        self.since, self.opening = time.perf_counter(), True
        try:
            source = feed.opener()
        finally:
            self.since, self.opening = None, False
        try:
            if self.given_up.is_set():
                return "given up"
            self._source, feed.fps, feed.lag = source, source.fps, Lag()
            self._skipped, self._hurried, self._start = 0, None, None
            self._let_use(source)
            while self._over() is None:
                if not self._read(source):
                    return source.problem
                if self._hurried is not None and time.perf_counter() - self._hurried > TOO_LATE_S:
                    return f"its frames came too late for {TOO_LATE_S:g} s"
            return "stopped"
        finally:
            self._source = None
            source.close()
            give_back()  # FFmpeg leaves the C library with more and more holes, 40 KB a connection

    def _absent(self, why: str, pause: float) -> None:
        """Told at once when the reason is new, and not at every attempt."""
        feed = self.feed
        state: State = "reconnecting" if feed.last_arrived is not None else "connecting"
        feed.error = None
        reason = f"{why}; the next attempt in {pause:.1f} s"
        if feed.life.to(state, reason) or why != self._told:
            self._told = why
            log.warning("%s: %s", feed.name, reason)

    # ------------------------------------------------------------------ frames

    def _over(self) -> str | None:
        """Why no more is to be read; None where it goes on."""
        feed = self.feed
        if feed.removed.is_set():
            return "removed"
        if self.given_up.is_set() or self.stop.is_set():
            return "shutdown"
        if self.limit is not None and feed.reader_count >= self.limit:
            return "limit"
        return None

    def _read(self, source: Source) -> bool:
        """Read one frame and hand it in; False at the end of the source."""
        failures = 0
        while True:
            start = self.since = time.perf_counter()
            try:
                picture = source.read()
            except Idle:
                self.admission.rest(self.feed.lane)
                return True
            except Damaged as e:
                self._leave_out("corrupt")
                log.debug("%s: %s", self.feed.name, e)
                return True
            except OSError as e:  # this frame is lost, the next may be readable
                failures += 1
                self._lose(e)
                if self._over() is not None:
                    return True
                if failures >= LOST_AFTER and self.feed.outcomes is None:
                    raise
                continue
            finally:
                self.since = None
            if picture is None or self.given_up.is_set():
                return False
            self._hand_in(source, self._checked(picture), start)
            return True

    def _checked(self, picture: Picture) -> Picture:
        """The picture, flagged if there is text in it; a frame that cannot be looked at is not lost."""
        if self.feed.burned_in is None:
            return picture
        try:
            return self.feed.burned_in.look(picture)
        except Exception as e:
            self.faults.report(self.feed.name, "looking for burned-in text", e)
            return replace(picture, flags=(*picture.flags, UNCHECKED))

    def _lose(self, error: OSError) -> None:
        with self.feed.lock:
            if not self.given_up.is_set():
                self.feed.lose()
        self.faults.report(self.feed.name, "reading a frame", error)

    def _leave_out(self, cause: str, frames: int = 1) -> None:
        with self.feed.lock:
            if not self.given_up.is_set():
                self.feed.last_arrived = time.perf_counter()
                self.feed.discard(cause, frames)

    def _hand_in(self, source: Source, picture: Picture, start: float) -> None:
        feed = self.feed
        captured = time.perf_counter()
        read_seconds = captured - start
        if source.paced:
            captured = self._wait_until_due(picture.pts)
        captured_at = time.time()
        if feed.opener is not None:
            late = feed.lag.of(picture.pts, captured)
            feed.lateness.add(late)
            self._keep_up(source, late, captured)
            captured, captured_at = captured - late, captured_at - late
        with feed.lock:
            if self.given_up.is_set():
                return
            frame = make_frame(feed, picture, (captured, captured_at, read_seconds), self._lender)
            if frame is not None and feed.live:
                self.admission.offer(feed.lane, frame)
        if frame is not None and not feed.live:
            self.admission.offer(feed.lane, frame)  # which may wait

    def _keep_up(self, source: Source, late: float, now: float) -> None:
        """Have a source that comes later and later decode less, until it has caught up."""
        skipped = getattr(source, "skipped", None)
        if skipped is None:
            return
        if skipped > self._skipped:
            self._leave_out("behind", skipped - self._skipped)
            self._skipped = skipped
        waited = now - (self.feed.last_arrived or now)  # as long as nothing came, nothing queued up
        if late - waited > LATE:
            self._hurried = now if self._hurried is None else self._hurried
        elif late < IN_TIME:
            self._hurried = None
        source.hurry = self._hurried is not None  # type: ignore[attr-defined]

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

    def _let_use(self, source: Source) -> None:
        """Have a source decode into lent memory, or copy there."""
        if self._given_lender is not None and self.feed.settings.roi is None and hasattr(source, "allocate"):
            source.allocate = self._given_lender
        else:
            self._lender = self._given_lender
