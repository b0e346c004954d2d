"""The two loops: overlapped with two slots, and serial with one. They give identical results.

While slot A executes, the frame for slot B is prepared and the one before is interpreted. This file alone
decides the order between slots: first in, first out, so the results of a feed leave in frame order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from edge.backends import Slot
from edge.stream.admission import Admission
from edge.stream.faults import Faults
from edge.stream.feed import Feed
from edge.stream.network import Network, has_nan
from edge.types import Frame, Result

if TYPE_CHECKING:
    from edge.preprocess import Placement


class Flight(NamedTuple):
    """A frame in a slot, on its way."""

    slot: Slot
    feed: Feed
    frame: Frame
    placement: Placement | None
    started: float
    """When the loop took the frame up, `time.perf_counter()` seconds."""
    prepared: float
    """When its slot was filled."""


class Pipeline:
    """Frames from `admission` through `network` to `deliver`.

    Args:
        feeds: by name; frames carry the name of theirs.
        deliver: takes each result; may block, which slows the loop and with it readers that never drop.
    """

    def __init__(
        self,
        network: Network,
        admission: Admission,
        feeds: Mapping[str, Feed],
        deliver: Callable[[Result], None],
        faults: Faults,
    ) -> None:
        self.network, self.admission, self.feeds = network, admission, feeds
        self.deliver, self.faults = deliver, faults
        self.slots = (network.slot(), network.slot())

    def overlapped(self) -> None:
        """Launch frame N, then finish frame N−1, until every feed has ended.

        A frame that is in its slot is finished before the loop waits for a new one: a slow camera's result
        is never held back.
        """
        idle, flying = deque(self.slots), deque[Flight]()
        while True:
            taken = self.admission.take(wait=not flying)
            if taken is not None:
                flight = self._launch(idle[0], taken[1])
                if flight is not None:
                    idle.popleft()
                    flying.append(flight)
            elif not flying:
                return
            if flying and (taken is None or not idle):
                idle.append(self._finish(flying.popleft()))

    def serial(self) -> None:
        """One frame after the other."""
        while (taken := self.admission.take()) is not None:
            if flight := self._launch(self.slots[0], taken[1]):
                self._finish(flight)

    def _launch(self, slot: Slot, frame: Frame) -> Flight | None:
        """Fill the slot and start it; None when the frame failed on the way."""
        feed, stage = self.feeds[frame.feed], "preprocess"
        started = time.perf_counter()
        try:
            placement = self.network.prepare(frame, slot)
            prepared = time.perf_counter()
            stage = "infer"
            slot.submit()
        except Exception as e:  # one frame is lost, the feed goes on
            self._fail(feed, stage, e)
            return None
        return Flight(slot, feed, frame, placement, started, prepared)

    def _finish(self, flight: Flight) -> Slot:
        """Wait for the slot, interpret its outputs, deliver the result; the slot is free again."""
        feed, stage = flight.feed, "infer"
        try:
            outputs = flight.slot.wait()
            executed = time.perf_counter()
            stage = "postprocess"
            flags = ("nan",) if has_nan(outputs) else ()
            payload = self.network.interpret(outputs, flight.placement)
        except Exception as e:
            self._fail(feed, stage, e)
            return flight.slot
        stages = _stages(flight, executed, time.perf_counter())
        feed.times.add(stages)
        if flags:
            self._flag(feed, flags)
        feed.account.deliver()
        feed.last_delivered = time.perf_counter()
        self.deliver(Result(flight.frame, self.network.id, payload, stages, flags))
        return flight.slot

    def _fail(self, feed: Feed, stage: str, error: Exception) -> None:
        feed.account.fail(stage)
        self.faults.report(feed.name, stage, error)

    def _flag(self, feed: Feed, flags: tuple[str, ...]) -> None:
        feed.flags.update(flags)
        self.faults.report(feed.name, "infer", ValueError("the outputs hold NaN or infinity"))


def _stages(flight: Flight, executed: float, done: float) -> dict[str, float]:
    """Seconds of each stage. What `total` has beyond their sum is waiting: for a stream, or for the loop."""
    frame = flight.frame
    return {
        "capture": frame.read_seconds,
        "queue": flight.started - frame.captured,
        "preprocess": flight.prepared - flight.started,
        "infer": flight.slot.infer_seconds,
        "postprocess": done - executed,
        "total": done - frame.captured,
    }
