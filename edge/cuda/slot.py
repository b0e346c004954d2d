"""The order of work in a slot: copy in → preprocess → execute → copy out, on two streams.

    feed   start ─ copy in ─ copied ─ preprocess ─ ready
    work                                             └─ wait ─ begun ─ execute ─ executed ─ copy out ─ done

While one slot executes, the feed stream of another copies and preprocesses, and results of a third are
copied out. The work stream is the more urgent one: what prepares frame N+1 does not slow down frame N. The
processor enqueues all of it at once and waits for `done` alone, before it reads outputs or fills the slot
again; that is all the ordering there is between two batches of one slot. Executions of different slots follow
each other if they share a `Turn`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Protocol, TypeVar

from edge.backends import DEVICE_STAGES, Span
from edge.cuda.buffers import Exchange
from edge.cuda.device import URGENT, CapturedGraph, Device, Event, Stream, guarded
from edge.cuda.timeline import Timeline
from edge.errors import DeviceLost, RuntimeFault
from edge.preprocess import Placement
from edge.types import Array, Image

log = logging.getLogger(__name__)
T = TypeVar("T")

STEADY = 3
"""Batches of the same size in a row after which a CUDA graph is recorded: recording costs milliseconds."""


MOST_STEADY = 1000
"""The same, at most: it doubles with every graph that was given up."""


class Feeder(Protocol):
    """Brings a batch to the addresses that the executor reads."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Host arrays to write tensors into."""
        ...

    def place(self, index: int, image: Image, stream: Stream) -> Placement:
        """Take picture `index` of the next batch; what only its size decides is sent along `stream`."""
        ...

    def upload(self, stream: Stream, rows: int) -> None:
        """Enqueue the copies to the device."""
        ...

    def prepare(self, stream: Stream, rows: int) -> None:
        """Enqueue the work that makes tensors of what was copied."""
        ...


class Executor(Protocol):
    """One execution context, bound to the addresses of one slot."""

    capturable: bool
    """Whether `enqueue` may be recorded in a CUDA graph."""

    def resize(self, rows: int) -> None:
        """Batches have this many rows from now on."""
        ...

    def enqueue(self, stream: Stream) -> None:
        """Enqueue one execution."""
        ...


class Turn:
    """Lets the executions of several slots follow each other: who executed last."""

    def __init__(self) -> None:
        self.last: Event | None = None


class DeviceSlot:
    """Buffers, streams, events and an execution context that one batch in flight owns.

    Args:
        rows: the most pictures of a batch.
        outputs: by name, batch first.
        turn: shared with the slots whose executions come before and after; None to execute beside them.
    """

    def __init__(
        self,
        device: Device,
        timeline: Timeline,
        feeder: Feeder,
        executor: Executor,
        outputs: Mapping[str, Exchange],
        rows: int,
        label: str,
        turn: Turn | None = None,
    ) -> None:
        self._device, self._timeline, self._label = device, timeline, label
        self._feeder, self._executor, self._outputs, self._rows = feeder, executor, dict(outputs), rows
        self._feed, self._work = device.stream(), device.stream(URGENT)
        self._start, self._copied, self._ready, self._begun, self._executed, self._done = (
            device.event() for _ in range(6)
        )
        self._views = {n: {name: o.host[:n] for name, o in outputs.items()} for n in range(1, rows)}
        self._views[rows] = {name: o.host for name, o in outputs.items()}
        self.parts = ExitStack()
        """What is freed with the slot: memory of its tensors, its feeder and its execution context."""
        self._turn = turn
        self._graph: CapturedGraph | None = None
        self._steady = STEADY
        self._in_a_row = 0
        self._size = 0
        self._busy = False
        self.infer_seconds = 0.0
        self.spans: Mapping[str, Span] = {}

    @property
    def inputs(self) -> Mapping[str, Array]:
        return self._feeder.inputs

    def place(self, index: int, image: Image) -> Placement:
        """Picture `index` of the next batch; see `edge.backends.PictureSlot`."""
        return self._checked(
            lambda: self._feeder.place(index, image, self._feed), "a picture cannot be placed"
        )

    def submit(self, rows: int | None = None) -> None:
        """Enqueue one batch; see `edge.backends.Slot`."""
        if self._busy:
            raise RuntimeFault("a slot was submitted twice", "its last batch was not waited for")
        rows = self._rows if rows is None else rows
        if not 1 <= rows <= self._rows:
            raise RuntimeFault(
                f"{self._label}: a batch of {rows}", f"slots were made for 1 to {self._rows}", "see --batch"
            )
        self._checked(lambda: self._enqueue(rows), f"{self._label}: the GPU refuses a batch")
        self._busy = True

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        try:
            return not self._busy or self._done.done()
        except Exception:  # `wait` meets it too, and says what it is
            return True

    def wait(self) -> Mapping[str, Array]:
        """Outputs by name, valid until the next `submit`; see `edge.backends.Slot`."""
        if not self._busy:
            raise RuntimeFault("a slot was waited for", "nothing was submitted")
        self._busy = False
        self._checked(self._finish, f"{self._label}: inference failed")
        return self._views[self._size]

    def repeat(self, executions: int) -> None:
        """Like `submit`, with so many executions in a row between one copy in and one copy out.

        `wait` for it; `spans["execute"]` is then what the engine alone takes for them (benchmarks).
        """
        if self._busy:
            raise RuntimeFault("a slot was submitted twice", "its last batch was not waited for")
        self._checked(
            lambda: self._enqueue(self._rows, executions), f"{self._label}: the GPU refuses a batch"
        )
        self._busy = True

    def free(self) -> None:
        """Wait for what is in flight and give everything back."""
        with suppress(Exception):  # a dead context has nothing in flight
            self._drain()
        if self._turn is not None and self._turn.last is self._executed:
            self._turn.last = None
        if self._graph is not None:
            self._graph.free()
        self.parts.close()
        events = (self._start, self._copied, self._ready, self._begun, self._executed, self._done)
        for resource in (*events, self._feed, self._work):
            resource.free()

    def _enqueue(self, rows: int, executions: int = 1) -> None:
        feed, work = self._feed, self._work
        part = None if rows == self._rows else rows  # of a whole batch of one, outputs need no batch axis
        self._timeline.refresh()
        self._resize(rows)
        self._start.record(feed)
        self._feeder.upload(feed, rows)
        self._copied.record(feed)
        self._feeder.prepare(feed, rows)
        self._ready.record(feed)
        work.wait(self._ready)
        self._wait_turn()
        self._begun.record(work)
        for _ in range(executions):
            self._execute()
        self._executed.record(work)
        if self._turn is not None:
            self._turn.last = self._executed
        for output in self._outputs.values():
            output.download(work, part)
        self._done.record(work)

    def _wait_turn(self) -> None:
        if self._turn is not None and self._turn.last not in (None, self._executed):
            self._work.wait(self._turn.last)

    def _resize(self, rows: int) -> None:
        """A recorded graph holds for the size it was recorded with; where sizes change often, none pays."""
        if rows == self._size:
            self._in_a_row += 1
            return
        if self._graph is not None:
            self._graph.free()
            self._graph = None
            self._steady = min(2 * self._steady, MOST_STEADY)
        self._size = 0  # if the executor refuses, it is asked again next time
        self._executor.resize(rows)
        self._size, self._in_a_row = rows, 1

    def _execute(self) -> None:
        if self._graph is None and self._in_a_row == self._steady and self._executor.capturable:
            self._record()
        if self._graph is not None:
            self._graph.launch(self._work)
        else:
            self._executor.enqueue(self._work)

    def _record(self) -> None:
        try:
            self._graph = CapturedGraph(self._device, self._work, self._executor.enqueue)
        except DeviceLost:
            raise
        except RuntimeFault as e:  # a layer that synchronizes, for example: works, but not as a graph
            self._executor.capturable = False
            log.info("%s runs without a CUDA graph: %s", self._label, e)

    def _finish(self) -> None:
        self._done.synchronize()
        start, copied, ready, begun, executed, done = self._timeline.at(
            (self._start, self._copied, self._ready, self._begun, self._executed, self._done)
        )
        edges = ((start, copied), (copied, ready), (begun, executed), (executed, done))
        self.spans = dict(zip(DEVICE_STAGES, edges, strict=True))
        self.infer_seconds = self._executed.since(self._begun)

    def _checked(self, work: Callable[[], T], what: str) -> T:
        """`work()`, with CUDA's errors as EdgeErrors; nothing is in flight in this slot after one."""
        try:
            return work()
        except Exception as e:
            found = guarded(what, e) or e
            if not isinstance(found, DeviceLost):
                try:
                    self._drain()
                except DeviceLost as lost:  # the first error was its consequence
                    found = lost
                except RuntimeFault as other:
                    log.debug("while ending a failed batch: %s", other)
            self._device.lost |= isinstance(found, DeviceLost)
            if found is e:
                raise
            raise found from e

    def _drain(self) -> None:
        """Wait until nothing of this slot is in flight."""
        self._feed.synchronize()
        self._work.synchronize()


class TensorFeeder:
    """Tensors that the processor has prepared.

    Args:
        exchanges: the engine's inputs by name, batch first.
        rows: the most rows of a batch.
    """

    def __init__(self, exchanges: Mapping[str, Exchange], rows: int) -> None:
        self._exchanges, self._rows = dict(exchanges), rows
        self.inputs = {name: exchange.host for name, exchange in exchanges.items()}

    def place(self, index: int, image: Image, stream: Stream) -> Placement:
        raise RuntimeFault("a picture was given to a slot that takes tensors", "", "write its `inputs`")

    def upload(self, stream: Stream, rows: int) -> None:
        for exchange in self._exchanges.values():
            exchange.upload(stream, None if rows == self._rows else rows)

    def prepare(self, stream: Stream, rows: int) -> None:
        pass
