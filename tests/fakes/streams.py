"""PyCUDA's streams and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fakes.contexts import Dependent
from fakes.errors import failure
from fakes.queues import Queue, Record

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda

DISABLE_TIMING = 2


class Stream(Dependent):
    cuda: FakeCuda

    def __init__(self, flags: int = 0) -> None:
        self._acquire(self.cuda)
        self.cuda.call("cuStreamCreate")
        self.queue = self.cuda.add_stream()

    @property
    def handle(self) -> int:
        return self.queue.handle

    def synchronize(self) -> None:
        self._check_not_captured("cuStreamSynchronize")
        self.cuda.synchronize(self.queue)
        if self.cuda.sticky:
            raise failure("cuStreamSynchronize", self.cuda.sticky)

    def is_done(self) -> bool:
        self._check_not_captured("cuStreamQuery")
        done = self.queue.ended >= self.queue.tickets
        if done:
            self.cuda.learn(self.queue.clock)
        return done

    def wait_for_event(self, event: Event) -> None:
        self.cuda.call("cuStreamWaitEvent")
        if event.record_ is not None:
            self.cuda.make_wait(self.queue, event.record_, "cuStreamWaitEvent")

    def _check_not_captured(self, call: str) -> None:
        self.cuda.call(call)
        if self.queue.capture is not None:
            self.queue.capture.broken = True
            raise failure(call, "STREAM_CAPTURE_UNSUPPORTED")

    def __del__(self) -> None:
        if hasattr(self, "queue") and self._may_destroy(str(self.queue)):
            self.cuda.calls["cuStreamDestroy"] += 1
            self.cuda.queues.pop(self.queue.handle, None)
            self.queue.close()


class Event(Dependent):
    cuda: FakeCuda

    def __init__(self, flags: int = 0) -> None:
        self._acquire(self.cuda)
        self.cuda.call("cuEventCreate")
        self._timed = not int(flags) & DISABLE_TIMING
        self.record_: Record | None = None
        """The point it stands for since it was recorded last."""

    def record(self, stream: Stream | None = None) -> Event:
        self.cuda.call("cuEventRecord")
        self.record_ = self.cuda.record(queue_of(stream))
        return self

    def synchronize(self) -> Event:
        record = self._recorded("cuEventSynchronize")
        if record is not None:
            self.cuda.wait_for(record.queue, record.ticket)
            self.cuda.learn(record.clock)
        if self.cuda.sticky:
            raise failure("cuEventSynchronize", self.cuda.sticky)
        return self

    def query(self) -> bool:
        record = self._recorded("cuEventQuery")
        if record is None:
            return True
        if record.passed:
            self.cuda.learn(record.clock)
        return record.passed

    def time_since(self, event: Event) -> float:
        """Milliseconds from `event` to this one, as CUDA's float32."""
        call = "cuEventElapsedTime"
        start, end = event._recorded(call), self._recorded(call)
        if start is None or end is None or not (self._timed and event._timed):
            raise failure(call, "INVALID_HANDLE")
        if not (start.passed and end.passed):
            raise failure(call, "NOT_READY")
        self.cuda.learn(start.clock)
        self.cuda.learn(end.clock)
        return float(np.float32((end.stamp - start.stamp) * 1e3))

    def _recorded(self, call: str) -> Record | None:
        self.cuda.call(call)
        if self.record_ is not None and self.record_.capture is not None:
            self.record_.capture.broken = True
            raise failure(call, "CAPTURED_EVENT")
        return self.record_

    def __del__(self) -> None:
        if self._may_destroy("an event"):
            self.cuda.calls["cuEventDestroy"] += 1


def queue_of(stream: Any) -> Queue:
    if not isinstance(stream, Stream):
        raise TypeError(f"a Stream is needed, not {type(stream).__name__}: nothing here uses the default one")
    return stream.queue
