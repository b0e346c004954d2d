"""Streams: queues of work, each on a thread of its own, the points in them that events name, and captures."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from fakes.errors import failure
from fakes.loans import Loan
from fakes.memory import Block, Resource
from fakes.order import Access, Clock, learn, race

if TYPE_CHECKING:
    from fakes.schedule import Schedule

Span = tuple[int, int]
"""Address and number of bytes."""


class Work(NamedTuple):
    """One operation, as it is enqueued.

    Attributes:
        run: does it, to real memory, on the stream's thread.
        uses: what else two operations must not use at once: an execution context, a graph's executable.
    """

    name: str
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    run: Callable[[], None]
    uses: tuple[Resource, ...] = ()


class Trace(NamedTuple):
    """When an operation ran, `time.perf_counter()` seconds."""

    name: str
    stream: int
    start: float
    end: float


class Task(NamedTuple):
    """Work with its place in the order of things."""

    work: Work
    reads: list[tuple[Block, int, int]]
    writes: list[tuple[Block, int, int]]
    loans: list[Loan]
    epoch: int


class Record:
    """A point in a queue that an event stands for.

    Attributes:
        ticket: the queue has come past it when `queue.ended` has reached this number.
        clock: what has ended by then.
        stamp: when the device came past it, `time.perf_counter()` seconds.
        capture: the capture it was recorded in, if it was.
    """

    def __init__(self, queue: Queue, ticket: int, clock: Clock, capture: Capture | None = None) -> None:
        self.queue, self.ticket, self.clock, self.capture = queue, ticket, clock, capture
        self.stamp = 0.0

    @property
    def passed(self) -> bool:
        return self.queue.ended >= self.ticket


class Queue:
    """A stream inside the device: its order of work and the thread that does it.

    Attributes:
        clock: what will have ended when everything enqueued so far has.
        tickets, ended: how many items were enqueued, and how many are through.
    """

    def __init__(self, cuda: Schedule, index: int, handle: int) -> None:
        self.cuda, self.index, self.handle = cuda, index, handle
        self.priority = 0
        self.clock: Clock = {}
        self.tickets = self.ended = 0
        self.capture: Capture | None = None
        self._items: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._random = random.Random(f"{cuda.seed}/{index}")
        self._thread = threading.Thread(target=self._work, name=f"stream-{index}", daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return f"stream {self.index}"

    def put(self, item: Callable[[], None]) -> int:
        """Enqueue it; the ticket that `ended` reaches when it is through."""
        self.tickets += 1
        self._items.put(item)
        return self.tickets

    def close(self) -> None:
        """End the thread when all work is done."""
        self._items.put(None)

    def join(self) -> None:
        self._thread.join(10)

    def pause(self) -> None:
        """What a real device would take, or need until it starts: mostly nothing, up to 300 µs."""
        if self.cuda.jitter:
            dice = self._random.random()
            if dice > 0.8:
                time.sleep(self._random.uniform(0, 300e-6))
            elif dice > 0.4:
                time.sleep(0)

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            self.cuda.running.wait()
            try:
                item()
            except Exception:  # of a kernel or of the simulator: the test must see it
                self.cuda.report(f"an operation on {self} raised\n{traceback.format_exc()}")
            with self.cuda.lock:
                self.ended += 1
                self.cuda.lock.notify_all()


class Capture:
    """A recording of what is enqueued on one stream, and on those that join it by waiting for its events."""

    def __init__(self, origin: Queue) -> None:
        self.origin, self.thread = origin, threading.get_ident()
        self.works: list[Work] = []
        self.broken = self.ended = False
        self.clocks: dict[Queue, Clock] = {origin: {}}
        self._accesses: list[Access] = []

    def add(self, queue: Queue, work: Work) -> None:
        clock = self.clocks[queue]
        clock[queue.index] = time = clock.get(queue.index, 0) + 1
        spans = [(*span, False) for span in work.reads] + [(*span, True) for span in work.writes]
        for address, nbytes, write in spans:
            other = race(self._accesses, address, address + nbytes, write, clock)
            if other is not None:
                queue.cuda.report(f"in a captured graph, {work.name} and {other.label} have no order")
            access = Access(address, address + nbytes, write, queue.index, time, work.name)
            self._accesses.append(access)
        self.works.append(work)

    def join(self, queue: Queue, record: Record) -> None:
        """`queue` waits for an event of this capture, and so becomes a part of it."""
        learn(self.clocks.setdefault(queue, {}), record.clock)
        queue.capture = self

    def end(self, queue: Queue) -> list[Work]:
        """The recorded work in order.

        Raises:
            Error: the capture was spoilt, is another stream's, or a stream that joined was not waited for.
        """
        call = "cuStreamEndCapture"
        if queue is not self.origin:
            raise failure(call, "STREAM_CAPTURE_UNMATCHED")
        if threading.get_ident() != self.thread:
            raise failure(call, "STREAM_CAPTURE_WRONG_THREAD")
        self.ended = True
        for joined in self.clocks:
            joined.capture = None
        if self.broken:
            raise failure(call, "STREAM_CAPTURE_INVALIDATED")
        known = self.clocks[queue]
        if any(known.get(other.index, 0) < clock.get(other.index, 0) for other, clock in self.clocks.items()):
            raise failure(call, "STREAM_CAPTURE_UNJOINED")
        return self.works
