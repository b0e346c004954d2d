"""The two loops: overlapped with several slots, and serial with one. They give identical results.

While slot A executes, the frames for slot B are prepared and those before are interpreted. This file alone
decides the order between slots: first in, first out, so the results of a feed leave in frame order.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from edge.backends import Slot, Span
from edge.errors import DeviceLost
from edge.stream.admission import Admission, Lane
from edge.stream.batching import BatchSize
from edge.stream.faults import Faults
from edge.stream.feed import Feed
from edge.stream.flight import Flight, Rider, stages_of
from edge.stream.metrics import DeviceTimes
from edge.stream.moment import LastMoment
from edge.stream.motion import MotionGate
from edge.stream.network import Network, has_nan
from edge.types import Array, Frame, Result

REBUILDS = 1
"""How often a run loads its engine again after the GPU's context died; a second time it stops."""
SETTLING = 8
"""Batches a slot after which a GPU run allocates nothing more, as long as pictures keep their size."""
SLICE = 0.5e-3
"""Seconds that the loop waits for another frame of a batch before it looks after those in flight."""


class Pipeline:
    """Frames from `admission` through `network` to `deliver`.

    Args:
        feeds: by name; frames carry the name of theirs.
        deliver: takes each result; may block, which slows the loop and with it readers that never drop.
        latency: seconds from frame to result that batches are kept small for.

    Attributes:
        rebuilds: how often the engine was loaded again.
        stopped: why the run ended before its feeds did; None if it did not.
    """

    def __init__(
        self,
        network: Network,
        admission: Admission,
        feeds: Mapping[str, Feed],
        deliver: Callable[[Result], None],
        faults: Faults,
        latency: float | None = None,
    ) -> None:
        self.network, self.admission, self.feeds = network, admission, feeds
        self.deliver, self.faults = deliver, faults
        self.slots = network.slots()
        self.device_times = DeviceTimes(len(self.slots))
        self.on_rebuild: Callable[[], None] = lambda: None
        """Called after the engine was loaded again: what it lent before is worth nothing now."""
        self._settled: int | None = None
        self._batches = 0
        self.rebuilds = 0
        self.stopped: DeviceLost | None = None
        self.size = BatchSize(network.batch, latency)
        self._moment = LastMoment()
        self._idle, self._flying = deque(self.slots), deque[Flight]()

    def device_summary(self) -> dict[str, Any] | None:
        """What the device did; None on a processor.

        Allocations are counted from where the run had settled: None if it ended before.
        """
        if not self.device_times.batches:
            return None
        made = None if self._settled is None else self.network.allocations - self._settled
        return {**self.device_times.summary(), "allocations_after_warm_up": made}

    def overlapped(self) -> None:
        """Launch batch N, then finish the oldest in flight, until every feed has ended.

        A frame that is in its slot is finished before the loop waits for a new one: a slow camera's result
        is never held back. A live feed's next frame is taken just before the engine is free: in a slot it
        would only grow old.
        """
        self._guarded(self._overlapped)

    def serial(self) -> None:
        """One batch after the other."""
        self._guarded(self._serial)

    def _land(self) -> None:
        """Finish the oldest batch in flight."""
        self._idle.append(self._finish(self._flying.popleft()))

    def _overlapped(self) -> None:
        idle, flying = self._idle, self._flying
        while True:
            if flying and self.admission.live:
                self._hold()
            taken = self._take(wait=not flying)
            if taken:
                if flight := self._launch(idle[0], taken):
                    idle.popleft()
                    flying.append(flight)
            elif not flying:
                return
            if flying and (not taken or not idle):
                self._land()

    def _hold(self) -> None:
        pause = self._moment.pause((flight.prepared for flight in self._flying), time.perf_counter())
        if pause > SLICE:
            time.sleep(pause)

    def _serial(self) -> None:
        while taken := self._take(wait=True):
            if flight := self._launch(self.slots[0], taken):
                self._finish(flight)

    def _take_one(self, batch: list[Rider], wait: bool, until: float = math.inf) -> Lane | None:
        """Add the next frame that is to be run to a batch; its lane, None where there is none just now.

        One that is not run waits for the results before it: with this batch, or the newest in flight.
        """
        while (taken := self.admission.take(wait, until)) is not None:
            lane, frame = taken
            feed = self.feeds[frame.feed]
            if feed.gate is None or self._is_to_run(feed, feed.gate, frame):
                feed.looked_at = frame.seq
                batch.append(Rider(feed, frame))
                return lane
            rider = Rider(feed, frame, gated=True, like=feed.looked_at)
            if batch:
                batch.append(rider)
            elif self._flying:
                self._flying[-1].riders.append(rider)
            else:
                self._repeat(rider)
        return None

    def _is_to_run(self, feed: Feed, gate: MotionGate, frame: Frame) -> bool:
        """Whether something moved in it, or it has to be looked at all the same."""
        if frame.thumb is None:
            return True
        now = time.perf_counter()
        moved = gate.decide(frame.thumb, now)
        if feed.alarm is not None:
            feed.alarm.moved(moved.share, now)
        dense = feed.alarm is not None and feed.alarm.active(now)
        if moved.run or dense or feed.looked_at is None:
            gate.ran(frame.thumb, now)
            return True
        return False

    def _repeat(self, rider: Rider) -> None:
        """The last finding once more, for a frame in which nothing moved."""
        feed, frame = rider.feed, rider.frame
        if feed.last is None or feed.found_in != rider.like:  # the frame that it looks like has failed
            feed.account.drop("gated")
            feed.miss(frame.meta, "gated")
            return
        done = time.perf_counter()
        flags = (*frame.flags, "gated")
        stages = stages_of(frame, done, done, 0.0, done, done)
        feed.times.add(stages)
        self._hand_over(feed, Result(frame, self.network.id, feed.last, stages, flags), done)

    def _take(self, wait: bool) -> list[Rider]:
        """Frames for one batch: the first, and others that come before its patience ends."""
        batch: list[Rider] = []
        first = self._take_one(batch, wait)
        if first is None:
            return batch
        size, lanes = self.size, [first]
        until = batch[0].frame.captured + self.network.patience
        while len(lanes) < size.limit and self.admission.may_give(lanes):
            more = self._take_one(batch, True, min(until, time.perf_counter() + SLICE))
            if more is not None:
                lanes.append(more)
            elif time.perf_counter() >= until:
                break
            elif self._flying and self._flying[0].slot.done():
                self._land_before(batch)
        if size.target is not None:
            size.took(len(lanes), self.admission.waiting)
        return batch

    def _land_before(self, batch: list[Rider]) -> None:
        """A result that is there has not to wait for the batch that is being formed."""
        try:
            self._land()
        except DeviceLost as lost:
            self._fail_all(batch, "preprocess", lost)
            raise

    def _launch(self, slot: Slot, taken: list[Rider]) -> Flight | None:
        """Fill the slot and start it; None when all its frames failed on the way."""
        started = time.perf_counter()
        riders: list[Rider] = []
        rows = 0
        lost: DeviceLost | None = None
        for rider in taken:
            if rider.gated:
                riders.append(rider)
                continue
            try:
                if lost is not None:
                    raise lost
                riders.append(rider._replace(placement=self.network.prepare(rider.frame, slot, rows)))
                rows += 1
            except Exception as e:  # this frame is lost, its feed and the others of the batch go on
                self._fail(rider, "preprocess", e)
                lost = e if isinstance(e, DeviceLost) else lost
        if lost is not None:
            self._fail_all(riders, "infer", lost)
            raise lost
        if not rows:
            self._wait_behind(riders)
            return None
        prepared = time.perf_counter()
        try:
            slot.submit(rows)
        except DeviceLost as e:
            self._fail_all(riders, "infer", e)
            raise
        except Exception as e:
            self._fail_all([rider for rider in riders if not rider.gated], "infer", e)
            self._wait_behind([rider for rider in riders if rider.gated])
            return None
        return Flight(slot, riders, started, prepared)

    def _wait_behind(self, gated: list[Rider]) -> None:
        """Frames that are not run, of a batch that is not run either."""
        if self._flying:
            self._flying[-1].riders.extend(gated)
            return
        for rider in gated:
            self._repeat(rider)

    def _finish(self, flight: Flight) -> Slot:
        """Wait for the slot, interpret its outputs, deliver the results; the slot is free again."""
        slot = flight.slot
        try:
            outputs = slot.wait()
        except DeviceLost as lost:
            self._fail_all(flight.riders, "infer", lost)
            raise
        except Exception as e:
            self._fail_all(flight.riders, "infer", e)
            return slot
        executed = time.perf_counter()
        copied = sum(end - start for stage, (start, end) in slot.spans.items() if stage != "execute")
        self._moment.learn(flight.prepared - flight.started + copied, slot.infer_seconds, executed)
        if slot.spans:
            self._count(slot.spans)
        row = 0
        for rider in flight.riders:
            if rider.gated:
                self._repeat(rider)
                continue
            executed = self._interpret(flight, rider, row, outputs, executed)
            row += 1
        return slot

    def _interpret(
        self, flight: Flight, rider: Rider, index: int, outputs: Mapping[str, Array], begun: float
    ) -> float:
        """Deliver the finding of picture `index`; when that was."""
        feed, frame, placement = rider[:3]
        try:
            broken = has_nan(outputs, index)
            payload = self.network.interpret(outputs, placement, index)
        except Exception as e:
            self._fail(rider, "postprocess", e)
            return time.perf_counter()
        done = time.perf_counter()
        stages = stages_of(frame, flight.started, flight.prepared, flight.slot.infer_seconds, begun, done)
        feed.times.add(stages)
        self.size.gave(stages["total"])
        flags = frame.flags
        if broken:
            flags = (*flags, "nan")
            self.faults.report(feed.name, "infer", ValueError("the outputs hold NaN or infinity"))
        feed.last, feed.found_in = payload, frame.seq
        if feed.alarm is not None:
            feed.alarm.seen(payload, done)
            if feed.alarm.active(done):
                flags = (*flags, "alarm")
        self._hand_over(feed, Result(frame, self.network.id, payload, stages, flags), done)
        return done

    def _hand_over(self, feed: Feed, result: Result, done: float) -> None:
        if result.flags:
            feed.flags.update(result.flags)
        feed.account.deliver()
        if feed.outcomes is not None:
            feed.outcomes.delivered(result)
        feed.last_delivered = done
        self.deliver(result)

    def _count(self, spans: Mapping[str, Span]) -> None:
        self.device_times.add(spans)
        self._batches += 1
        if self._batches == SETTLING * len(self.slots):
            self._settled = self.network.allocations

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a loop to its end; if the GPU's context dies, load the engine again and go on, once."""
        while True:
            try:
                return loop()
            except DeviceLost as lost:
                self._fail_flying(lost)
                if self.rebuilds >= REBUILDS or not self._rebuild():
                    self.stopped = lost
                    return None

    def _rebuild(self) -> bool:
        try:
            self.network.reopen()
            self.slots = self.network.slots()
        except Exception as e:
            self.faults.report("engine", "loading it again", e)
            return False
        self.rebuilds += 1
        self._idle, self._batches, self._settled = deque(self.slots), 0, None
        self.on_rebuild()
        return True

    def _fail_flying(self, lost: DeviceLost) -> None:
        """Whatever is in flight when the context dies is lost."""
        while self._flying:
            self._fail_all(self._flying.popleft().riders, "infer", lost)

    def _fail_all(self, riders: list[Rider], stage: str, error: Exception) -> None:
        """Those that were to be run are lost; the others may have another finding to repeat."""
        for rider in riders:
            if rider.gated:
                self._repeat(rider)
            else:
                self._fail(rider, stage, error)

    def _fail(self, rider: Rider, stage: str, error: Exception) -> None:
        feed = rider.feed
        feed.looked_at = None  # whatever it showed has not been looked at
        feed.account.fail(stage)
        feed.miss(rider.frame.meta, stage, error)
        self.faults.report(feed.name, stage, error)
