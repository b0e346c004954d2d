"""A sink on a thread of its own, behind a short queue."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from edge.errors import RuntimeFault
from edge.sinks import Gone, Sink
from edge.stream.faults import Faults, describe
from edge.types import Result

log = logging.getLogger("edge.stream")

DEPTH = 8
"""Results that may wait for a sink; then the loop waits or the oldest is dropped, so memory stays bounded."""

LONGEST_WRITE = 5.0
"""Seconds that the loop waits for a sink that takes nothing; then it counts as failing."""

LONGEST_CLOSE = 10.0
"""Seconds that the end of a run waits for a sink that makes no progress."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each attempt to open a failed sink again; the last is repeated."""

FLUSH_EVERY = 32
"""Results after which a sink that is never idle is flushed: what a fault can take with it."""


@dataclass(frozen=True, slots=True)
class OutletCounts:
    """What became of the results that a sink was given.

    Attributes:
        written: left the sink's own buffers.
        lost: given while it failed, or in its buffers when it did.
        dropped: taken out of the queue again for a newer one.
        retries: attempts to open it again.
        failing: the last thing known of it is a fault.
        error: the last fault, also of a sink that works again.
    """

    written: int
    lost: int
    dropped: int = 0
    retries: int = 0
    failing: bool = False
    error: str | None = None


class StraightOutlet:
    """Feeds a sink that is instant: waking up a thread for it would cost more than the rest of a frame."""

    def __init__(self, uri: str, sink: Sink) -> None:
        self.uri, self._sink = uri, sink
        self._written = 0

    def put(self, result: Result) -> None:
        self._sink.write(result)
        self._written += 1

    def counts(self) -> OutletCounts:
        return OutletCounts(self._written, 0)

    def close(self) -> OutletCounts:
        self._sink.close()
        return self.counts()


def open_outlet(uri: str, sink: Sink, faults: Faults) -> Outlet | StraightOutlet:
    """What hands results to an opened sink."""
    return StraightOutlet(uri, sink) if getattr(sink, "instant", False) else Outlet(uri, sink, faults)


class Outlet:
    """Feeds one sink. What fails is closed, and opened again after a pause while the run goes on.

    One thread puts and closes. Every counter is written by one thread only.
    """

    def __init__(self, uri: str, sink: Sink, faults: Faults) -> None:
        self.uri = uri
        self.error: str | None = None
        self._sink, self._faults = sink, faults
        self._drops = getattr(sink, "policy", "block") == "drop-oldest"
        self._idle: float | None = getattr(sink, "idle_s", None)
        self._given = self._refused = self._dropped = 0  # by the thread that puts
        self._hangs = False  # likewise
        self._taken = self._written = self._spoilt = 0  # by the sink's thread
        self._closed = False  # likewise: for good, or until it is opened again
        self._failures = self._retries = 0  # likewise; failures since it last worked
        # A SimpleQueue costs a tenth of a Queue; its bound is kept by `_room`, touched only when it is full.
        self._queue: SimpleQueue[Result | None] = SimpleQueue()
        self._room, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"sink-{uri}", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> bool:
        return self._hangs or self._failures > 0

    def put(self, result: Result) -> None:
        """Pass a result on. While the sink is `DEPTH` results behind, wait or drop the oldest, by policy."""
        self._given += 1
        if self._closed or self._hangs:
            if self._refuses():
                self._refused += 1
                return
        elif self._queue.qsize() >= DEPTH and not self._make_room():
            self._refused += 1
            return
        self._queue.put(result)

    def counts(self) -> OutletCounts:
        """The account so far; what waits in the queue is in none of it."""
        lost = self._refused + self._spoilt
        return OutletCounts(self._written, lost, self._dropped, self._retries, self.failing, self.error)

    def close(self) -> OutletCounts:
        """Write what waits, close the sink, and say what became of everything.

        A sink that hangs is left to the end of the process, and what it has not written counts as lost.
        """
        self._ending.set()
        self._queue.put(None)
        before = -1
        while self._thread.is_alive() and before != self._taken:
            before = self._taken
            self._thread.join(LONGEST_CLOSE)
        if self._thread.is_alive():
            self._hangs = True
            self._report("closing", f"it is not done after {LONGEST_CLOSE:g} s")
        written = self._written
        lost = self._given - written - self._dropped
        return OutletCounts(written, lost, self._dropped, self._retries, self.failing, self.error)

    def _refuses(self) -> bool:
        """A sink that hung gets results again when it has caught up, one that is closed when it is open."""
        if self._hangs and self._queue.empty():
            self._hangs = False
        return self._closed or self._hangs

    def _make_room(self) -> bool:
        """Drop the oldest result, or wait until one is taken; False if the sink is in no state to take it."""
        if self._drops:
            with suppress(Empty):  # the sink was quicker
                self._queue.get_nowait()
                self._dropped += 1
            return True
        while self._queue.qsize() >= DEPTH and not self._closed:
            self._room.clear()
            # If the last one was taken between the two lines above, there is nothing to wait for.
            if self._queue.qsize() >= DEPTH and not self._closed and not self._room.wait(LONGEST_WRITE):
                self._hangs = True
                self._report("writing", f"it has taken nothing for {LONGEST_WRITE:g} s")
                return False
        return not self._closed

    def _report(self, what: str, why: str) -> None:
        fault = RuntimeFault("it hangs", why, "see whether its disk or reader is there")
        self.error = describe(fault)
        self._faults.report(self.uri, what, fault)

    def _work(self) -> None:
        while (fault := self._write_all()) is not None:
            self._fail(fault)
            with suppress(Exception):  # the fault before is the one to tell
                self._sink.close()
            if isinstance(fault, Gone) or not self._open_again():
                return
        try:
            self._sink.close()
            self._settle()
        except Exception as e:
            self._fail(e)

    def _write_all(self) -> Exception | None:
        """Write until the end of the run, or until it fails."""
        queue, sink, idle = self._queue, self._sink, self._idle
        try:
            while True:
                try:
                    result = queue.get(timeout=idle)
                except Empty:
                    sink.flush()
                    continue
                if result is None:
                    return None
                self._taken += 1
                if not self._room.is_set():
                    self._room.set()
                sink.write(result)
                if queue.empty() or self._taken - self._spoilt - self._written >= FLUSH_EVERY:
                    sink.flush()
                    self._settle()
        except Exception as e:  # whatever it is, the others and the loop go on
            return e

    def _settle(self) -> None:
        """What was taken has left the sink's buffers."""
        before, self._written = self._written, self._taken - self._spoilt
        if self._failures and self._written > before:
            log.warning("%s: writes again, %d results were lost", self.uri, self.counts().lost)
            self._failures = 0

    def _fail(self, error: Exception) -> None:
        """Nothing more is taken, and what was and is not known to be written is lost."""
        self.error = describe(error)
        self._failures += 1
        self._closed = True
        self._room.set()
        with suppress(Empty):
            while True:
                self._taken += self._queue.get_nowait() is not None
        self._spoilt = self._taken - self._written
        self._faults.report(self.uri, "writing", error)

    def _open_again(self) -> bool:
        """Open the sink again, however long it takes; False when the run ends before, or it never will."""
        reopen = getattr(self._sink, "reopen", None)
        while reopen is not None:
            if self._ending.wait(PAUSES[min(self._failures, len(PAUSES)) - 1]):
                return False
            self._retries += 1
            try:
                reopen()
            except Exception as e:
                self._fail(e)
                if isinstance(e, Gone):
                    return False
                continue
            self._closed = False
            return True
        return False
