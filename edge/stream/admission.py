"""Which frame is processed next, which is dropped, and where every frame went.

A feed that is live keeps one frame waiting: the newest. A feed that is not live keeps a few, and its reader
waits when they are not taken. Of the feeds that have a frame, the one that was served longest ago is next.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from edge.types import Frame

PREFETCH = 2
"""Frames that a feed which never drops may have read ahead: some take longer to decode than others. More
would only grow old."""

_POLL = 0.25
"""Longest uninterrupted wait in seconds: a shutdown asked for by a signal is seen this late at worst."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A consistent view of a feed's account.

    Attributes:
        read: frames the reader has handed in.
        delivered: frames with a result.
        failed: cause → frames that were lost to a fault.
        dropped: cause → frames that were left out on purpose.
    """

    read: int
    delivered: int
    failed: dict[str, int]
    dropped: dict[str, int]

    @property
    def captured(self) -> int:
        """Frames whose fate is decided."""
        return self.delivered + sum(self.failed.values()) + sum(self.dropped.values())

    @property
    def in_flight(self) -> int:
        """Frames that wait or are being processed."""
        return self.read - self.captured


class Account:
    """Counts the fate of every frame of one feed, exactly; each method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = 0
        self._delivered = 0
        self._failed: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def read(self) -> None:
        with self._lock:
            self._read += 1

    def deliver(self) -> None:
        with self._lock:
            self._delivered += 1

    def fail(self, cause: str) -> None:
        with self._lock:
            self._failed[cause] += 1

    def drop(self, cause: str) -> None:
        with self._lock:
            self._dropped[cause] += 1

    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._read, self._delivered, dict(self._failed), dict(self._dropped))


class Lane:
    """The waiting frames of one feed.

    Args:
        live: the newest frame wins; otherwise the reader waits.
        max_age: seconds after which a waiting frame of a live feed is not worth processing any more.
    """

    def __init__(self, live: bool, max_age: float | None = None, account: Account | None = None) -> None:
        self.live, self.max_age = live, max_age
        self.account = account or Account()
        self.waiting: deque[Frame] = deque()
        self.finished = False
        self.idle = False
        """Its source has nothing to read just now."""
        self.served = 0
        """When a frame was last taken from it, counted in frames taken."""

    def is_stale(self, frame: Frame) -> bool:
        if self.max_age is None or not self.live:
            return False
        return time.perf_counter() - frame.captured > self.max_age


class Bell:
    """Wakes up the one thread that waits for it; a ring that nobody waits for is heard by the next wait.

    A condition would do too, at four times the cost.
    """

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        with suppress(RuntimeError):  # it has rung already
            self._silent.release()

    def wait(self, seconds: float) -> None:
        """Until it rings, or no longer than so many seconds."""
        self._silent.acquire(timeout=seconds)


class Admission:
    """Between the readers, one thread each, and the loop that processes frames.

    Args:
        open_end: lanes may be added, so that all of them having ended is no end.
        ahead: frames that a feed which never drops may have read ahead.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        stop: threading.Event | None = None,
        open_end: bool = False,
        ahead: int = PREFETCH,
    ) -> None:
        self.lanes = list(lanes)
        self.stop, self.open_end, self.ahead = stop or threading.Event(), open_end, ahead
        self._taken_frames = 0
        self._closed = False
        self._lock = threading.Lock()  # held for a few list operations only
        self._bell = Bell()
        self._taken = threading.Condition(self._lock)

    def offer(self, lane: Lane, frame: Frame) -> None:
        """A reader hands in a frame; returns when it is waiting, has replaced another, or is dropped."""
        lane.account.read()
        with self._lock:
            if not lane.live:
                self._wait_for_room(lane)
            elif lane.waiting:
                lane.waiting.popleft()
                lane.account.drop("superseded")
            if self._shutting_down() or lane.finished:
                lane.account.drop("removed" if lane.finished else "shutdown")
                return
            lane.idle = False
            lane.waiting.append(frame)
            self._bell.ring()

    def wait_for_room(self, lane: Lane) -> None:
        """Wait until it is time to read the next frame of a feed that never drops."""
        with self._lock:
            self._wait_for_room(lane)

    def _wait_for_room(self, lane: Lane) -> None:
        while len(lane.waiting) >= self.ahead and not (lane.finished or self._shutting_down()):
            self._taken.wait(_POLL)

    def rest(self, lane: Lane) -> None:
        """The reader of this lane has nothing to read just now: nobody need wait for it."""
        with self._lock:
            lane.idle = True

    def finish(self, lane: Lane) -> None:
        """The reader of this lane has ended."""
        with self._lock:
            lane.finished = True
            self._bell.ring()

    def add(self, lane: Lane) -> None:
        """One lane more."""
        with self._lock:
            lane.served = self._taken_frames
            self.lanes.append(lane)

    def remove(self, lane: Lane) -> None:
        """A lane less; what waits in it is dropped as `removed`."""
        with self._lock:
            lane.finished = True
            while lane.waiting:
                lane.waiting.popleft()
                lane.account.drop("removed")
            self.lanes = [other for other in self.lanes if other is not lane]
            self._bell.ring()
            self._taken.notify_all()

    @property
    def waiting(self) -> int:
        """Frames that wait, for a look at the load."""
        return sum(len(lane.waiting) for lane in self.lanes)

    @property
    def live(self) -> bool:
        """Whether no feed that goes on waits for its frames to be taken."""
        return all(lane.live or lane.finished or _rests(lane) for lane in self.lanes)

    def take(self, wait: bool = True, until: float = math.inf) -> tuple[Lane, Frame] | None:
        """The next frame, feeds taking turns. Called by one thread only.

        Args:
            wait: block until there is one. Without it None means «none just now».
            until: block no longer than this moment, `time.perf_counter()` seconds.

        Returns:
            None when every feed has ended, or after a shutdown.
        """
        while True:
            with self._lock:
                if self._shutting_down():
                    self._close()
                    return None
                if (chosen := self._next()) is not None:
                    return chosen
                if not wait or self._ended():
                    return None
            left = until - time.perf_counter()
            if left <= 0:
                return None
            self._bell.wait(min(left, _POLL))

    def may_give(self, taken: Sequence[Lane]) -> bool:
        """Whether waiting can bring a frame besides those just taken from these lanes.

        A live lane that has given its frame is not waited for: its next one is a frame time away.
        """
        with self._lock:
            return any(
                lane.waiting or not (lane.finished or lane.idle or (lane.live and lane in taken))
                for lane in self.lanes
            )

    def close(self) -> None:
        """Drop what still waits, counted as `shutdown`; what is offered later is dropped too."""
        with self._lock:
            self._close()

    def _next(self) -> tuple[Lane, Frame] | None:
        while full := [lane for lane in self.lanes if lane.waiting]:
            lane = full[0] if len(full) == 1 else min(full, key=_served)
            frame = lane.waiting.popleft()
            if lane.is_stale(frame):
                lane.account.drop("stale")
                continue
            if not lane.live:
                self._taken.notify_all()
            self._taken_frames += 1
            lane.served = self._taken_frames
            return lane, frame
        return None

    def _ended(self) -> bool:
        return not self.open_end and all(lane.finished for lane in self.lanes)

    def _shutting_down(self) -> bool:
        return self._closed or self.stop.is_set()

    def _close(self) -> None:
        self._closed = True
        for lane in self.lanes:
            while lane.waiting:
                lane.waiting.popleft()
                lane.account.drop("shutdown")
        self._taken.notify_all()


def _rests(lane: Lane) -> bool:
    return lane.idle and not lane.waiting


def _served(lane: Lane) -> int:
    return lane.served
