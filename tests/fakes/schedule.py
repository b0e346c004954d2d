"""How work is ordered and done: each operation on its stream's thread, each conflict with an order."""

from __future__ import annotations

import threading
import time

from fakes.errors import failure
from fakes.loans import Loans
from fakes.memory import POISON, Block, Memory, Resource
from fakes.order import Access, Clock, learn, race
from fakes.queues import Capture, Queue, Record, Span, Task, Trace, Work

PATIENCE = 30.0
"""Seconds after which a wait has failed: a test hangs in no case."""


class Schedule:
    """The streams of one device and what they work on.

    Attributes:
        violations: what went against the rules, in words.
        trace: what ran when.
        lock: held by whoever looks at or changes anything here; notified when work ends.
        running: cleared while the device does nothing.
        known: what the host knows to have ended.
        sticky: the error that killed the context, "" without one.
        epoch: which context this is; work of an earlier one is not done any more.
    """

    def __init__(self, seed: int, jitter: bool) -> None:
        self.seed, self.jitter = seed, jitter
        self.violations: list[str] = []
        self.trace: list[Trace] = []
        self.lock = threading.Condition(threading.RLock())
        self.running = threading.Event()
        self.running.set()
        self.memory = Memory()
        self.loans = Loans(self.report)
        self.known: Clock = {}
        self.sticky = ""
        self.epoch = 0
        self.queues: dict[int, Queue] = {}
        self._threads: list[Queue] = []

    def report(self, text: str) -> None:
        self.violations.append(text)

    def add_queue(self, handle: int) -> Queue:
        queue = Queue(self, len(self._threads) + 1, handle)
        self._threads.append(queue)
        self.queues[queue.handle] = queue
        return queue

    def submit(self, queue: Queue, work: Work) -> None:
        """Enqueue work, or record it if the stream is being captured."""
        with self.lock:
            if queue.capture is not None:
                queue.capture.add(queue, work)
                return
            reads = [found for span in work.reads if (found := self._locate(work, span))]
            writes = [found for span in work.writes if (found := self._locate(work, span))]
            if len(reads) + len(writes) < len(work.reads) + len(work.writes):
                return
            queue.clock[queue.index] = queue.tickets + 1
            learn(queue.clock, self.known)
            task = Task(work, reads, writes, [], self.epoch)
            if self._claim(queue, task):
                queue.put(lambda: self._run(queue, task))
            else:  # what it would do to real memory, and to this process, is anyone's guess
                queue.put(lambda: None)

    def _locate(self, work: Work, span: Span) -> tuple[Block, int, int] | None:
        address, nbytes = span
        block = self.memory.find(address, nbytes)
        if block is None:
            self.report(f"{work.name} uses {nbytes} bytes at {address:#x}, which are no one's")
        elif not block.alive:
            self.report(f"{work.name} uses {block.label}, which was freed")
        else:
            return block, address - block.address, address - block.address + nbytes
        return None

    def _claim(self, queue: Queue, task: Task) -> bool:
        """Note what the work touches; False if something that conflicts with it need not be over by then."""
        name, told = f"{task.work.name} on {queue}", len(self.violations)
        spans: list[tuple[Resource, int, int, bool]] = [(*span, False) for span in task.reads]
        spans += [(*span, True) for span in task.writes]
        spans += [(resource, 0, 1, True) for resource in task.work.uses]
        for resource, start, end, write in spans:
            if not resource.alive:
                self.report(f"{name} uses {resource.label}, which was freed")
            resource.accesses = [a for a in resource.accesses if not a.ended(self.known)]
            other = race(resource.accesses, start, end, write, queue.clock)
            if other is not None:
                self.report(f"{resource.label}: {other.label} and {name} have no order")
            access = Access(start, end, write, queue.index, queue.clock[queue.index], name)
            resource.accesses.append(access)
            if isinstance(resource, Block) and resource.on_host:
                task.loans.append(self.loans.lend(resource, access))
        return len(self.violations) == told

    def _run(self, queue: Queue, task: Task) -> None:
        """On the stream's thread."""
        queue.pause()
        start = time.perf_counter()
        with self.lock:
            if self._is_over(task):
                return
            if not self._begin(queue, task):
                return
        queue.pause()
        task.work.run()
        with self.lock:
            if self._is_over(task):
                return
            self.loans.end(task.loans)
            for block, first, last in task.writes:
                if block.undefined is not None:
                    block.undefined[first:last] = False
        self.trace.append(Trace(task.work.name, queue.index, start, time.perf_counter()))

    def _is_over(self, task: Task) -> bool:
        """Whether the context that it was enqueued in has died."""
        return bool(self.sticky) or task.epoch != self.epoch

    def _begin(self, queue: Queue, task: Task) -> bool:
        """Poison what will be written; False if nothing has written what will be read."""
        self.loans.begin(task.loans)
        sound = True
        for block, first, last in task.reads:
            if block.undefined is not None and (missing := int(block.undefined[first:last].sum())):
                name = f"{task.work.name} on {queue}"
                self.report(f"{name} reads {missing} bytes of {block.label} that nothing wrote")
                sound = False
        for block, first, last in task.writes:
            if block.undefined is not None and not _updates(task, block):
                block.data[first:last] = POISON
                block.undefined[first:last] = True
        return sound

    def record(self, queue: Queue) -> Record:
        """A point after everything enqueued so far."""
        with self.lock:
            if queue.capture is not None:
                return Record(queue, 0, dict(queue.capture.clocks[queue]), queue.capture)
            record = Record(queue, queue.tickets + 1, dict(queue.clock))
            queue.put(lambda: setattr(record, "stamp", time.perf_counter()))
            return record

    def wait_for(self, queue: Queue, ticket: int) -> None:
        """Block until the queue has come this far."""
        with self.lock:
            if not self.lock.wait_for(lambda: queue.ended >= ticket, PATIENCE):
                raise AssertionError(f"{queue} has not come to an end in {PATIENCE:.0f} s")

    def learn(self, clock: Clock) -> None:
        """The host has seen that all of this has ended."""
        with self.lock:
            learn(self.known, clock)
            self.loans.settle(self.known)

    def synchronize(self, queue: Queue) -> None:
        with self.lock:
            ticket, clock = queue.tickets, dict(queue.clock)
        self.wait_for(queue, ticket)
        self.learn(clock)

    def make_wait(self, queue: Queue, record: Record, call: str) -> None:
        """What is enqueued on `queue` from now on starts after the record."""
        with self.lock:
            if record.capture is not None:
                self._join_capture(queue, record.capture, record, call)
            elif queue.capture is not None:
                queue.capture.broken = True
                raise failure(call, "STREAM_CAPTURE_ISOLATION")
            else:
                learn(queue.clock, record.clock)
                queue.put(lambda: self.wait_for(record.queue, record.ticket))

    def _join_capture(self, queue: Queue, capture: Capture, record: Record, call: str) -> None:
        if capture.ended:
            raise failure(call, "CAPTURED_EVENT")
        if queue.capture not in (None, capture):
            capture.broken = queue.capture.broken = True
            raise failure(call, "STREAM_CAPTURE_MERGE")
        capture.join(queue, record)


def _updates(task: Task, block: Block) -> bool:
    """Whether the work reads the block it writes: then what is in it must stay."""
    return any(read is block for read, _, _ in task.reads)
