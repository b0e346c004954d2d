"""A sink on a thread of its own, behind a short queue."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from queue import SimpleQueue

from edge.sinks import Sink
from edge.stream.faults import Faults, describe
from edge.types import Result

DEPTH = 8
"""Results that may wait for a sink; then the loop waits, so memory stays bounded."""


@dataclass(frozen=True, slots=True)
class OutletCounts:
    """What became of the results that a sink was given."""

    written: int
    lost: int
    error: str | None


class Outlet:
    """Feeds one sink. A sink that fails is closed; what it was given afterwards is counted as lost.

    One thread puts and closes.
    """

    def __init__(self, uri: str, sink: Sink, faults: Faults) -> None:
        self.uri = uri
        self.error: str | None = None
        self._sink, self._faults = sink, faults
        self._given = self._taken = self._written = 0  # written: known to have left the sink's own buffers
        # A SimpleQueue costs a tenth of a Queue; its bound is kept by `_room`, touched only when it is full.
        self._queue: SimpleQueue[Result | None] = SimpleQueue()
        self._room = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"sink-{uri}", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> None:
        """Pass a result on; blocks while the sink is `DEPTH` results behind."""
        self._given += 1
        if self.error is not None:
            return
        while self._queue.qsize() >= DEPTH and self.error is None:
            self._room.clear()
            if self._queue.qsize() >= DEPTH:  # else the last one was taken between the two lines above
                self._room.wait(1.0)
        self._queue.put(result)

    def close(self) -> OutletCounts:
        """Write what waits, close the sink, and say what became of everything."""
        self._queue.put(None)
        self._thread.join()
        return OutletCounts(self._written, self._given - self._written, self.error)

    def _work(self) -> None:
        try:
            self._write_all()
        except Exception as e:  # this sink ends, the others and the loop go on
            self._failed(e)
        try:
            self._sink.close()
            if self.error is None:
                self._written = self._taken
        except Exception as e:
            if self.error is None:
                self._failed(e)

    def _write_all(self) -> None:
        queue, sink = self._queue, self._sink
        while (result := queue.get()) is not None:
            if not self._room.is_set():
                self._room.set()
            sink.write(result)
            self._taken += 1
            if queue.empty():
                sink.flush()
                self._written = self._taken

    def _failed(self, error: Exception) -> None:
        self.error = describe(error)
        self._room.set()
        self._faults.report(self.uri, "writing", error)
