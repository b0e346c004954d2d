"""`edge.cuda.libcuda.LibCuda` on the simulated device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from fakes.errors import RESULTS, Error, failure
from fakes.memory import Block, Resource
from fakes.queues import Capture, Work

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda

C = TypeVar("C", bound=Callable[..., Any])
_MOST_URGENT = -5


def _raw(method: C) -> C:
    """Failures as the ctypes layer reports them."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        from edge.cuda.libcuda import CudaCallError

        try:
            return method(*args)
        except Error as e:
            raise CudaCallError(e.call, *e.result) from e

    return call  # type: ignore[return-value]


class Graph:
    """Recorded work."""

    def __init__(self, works: list[Work]) -> None:
        self.works = works

    def __str__(self) -> str:
        return f"a graph of {len(self.works)} operations"


class Executable(Graph):
    """An instance of a graph; two launches of it must not overlap."""

    def __init__(self, works: list[Work]) -> None:
        super().__init__(works)
        self.resource = Resource("a graph's executable")


class FakeLibCuda:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def error_names(self) -> dict[str, str]:
        return {result.text: result.name for result in RESULTS.values()}

    def pop_context(self) -> None:
        with suppress(Error):
            self._cuda.pop_current()

    @_raw
    def priority_range(self) -> tuple[int, int]:
        self._cuda.call("cuCtxGetStreamPriorityRange")
        return 0, _MOST_URGENT

    @_raw
    def set_priority(self, stream: int, priority: int) -> None:
        self._cuda.call("cuStreamSetAttribute")
        self._cuda.queue(stream, "cuStreamSetAttribute").priority = max(_MOST_URGENT, min(0, priority))

    @_raw
    def priority(self, stream: int) -> int:
        self._cuda.call("cuStreamGetPriority")
        return self._cuda.queue(stream, "cuStreamGetPriority").priority

    @_raw
    def begin_capture(self, stream: int) -> None:
        call = "cuStreamBeginCapture_v2"
        self._cuda.call(call)
        queue = self._cuda.queue(stream, call)
        if queue.capture is not None:
            raise failure(call, "ILLEGAL_STATE")
        queue.capture = Capture(queue)

    @_raw
    def end_capture(self, stream: int) -> int:
        self._cuda.call("cuStreamEndCapture")
        queue = self._cuda.queue(stream, "cuStreamEndCapture")
        if queue.capture is None:
            raise failure("cuStreamEndCapture", "ILLEGAL_STATE")
        return self._keep(Graph(queue.capture.end(queue)))

    @_raw
    def instantiate(self, graph: int) -> int:
        call = "cuGraphInstantiateWithFlags"
        self._cuda.call(call, unsafe=True)
        return self._keep(Executable(self._find(graph, Graph, call).works))

    @_raw
    def launch(self, executable: int, stream: int) -> None:
        """Replays the work in the order it was recorded, one operation after the other."""
        self._cuda.call("cuGraphLaunch")
        found = self._find(executable, Executable, "cuGraphLaunch")
        queue = self._cuda.queue(stream, "cuGraphLaunch")
        for work in found.works:
            self._cuda.submit(queue, work._replace(uses=(*work.uses, found.resource)))

    @_raw
    def destroy_graph(self, graph: int) -> None:
        self._cuda.call("cuGraphDestroy")
        self._find(graph, Graph, "cuGraphDestroy")
        del self._cuda.handles[graph]

    @_raw
    def destroy_executable(self, executable: int) -> None:
        self._cuda.call("cuGraphExecDestroy")
        found = self._find(executable, Executable, "cuGraphExecDestroy")
        del self._cuda.handles[executable]
        self._cuda.release(found.resource)

    @_raw
    def register_host(self, address: int, nbytes: int) -> None:
        call = "cuMemHostRegister_v2"
        self._cuda.call(call, unsafe=True)
        if any(self._cuda.memory.find(edge) for edge in (address, address + nbytes - 1)):
            raise failure(call, "HOST_MEMORY_ALREADY_REGISTERED")
        label = f"registered memory {self._cuda.calls['cuMemHostRegister']} ({nbytes} bytes)"
        self._cuda.add_block(Block.at(address, nbytes, label))

    @_raw
    def unregister_host(self, address: int) -> None:
        call = "cuMemHostUnregister"
        self._cuda.call(call, unsafe=True)
        self._cuda.free_block(self._registered(address, call))

    @_raw
    def host_device_pointer(self, address: int) -> int:
        call = "cuMemHostGetDevicePointer_v2"
        self._cuda.call(call)
        if self._cuda.memory.find(address) is None:
            raise failure(call, "INVALID_VALUE")
        return address

    @_raw
    def reset_primary_context(self, device: int) -> None:
        self._cuda.call("cuDevicePrimaryCtxReset_v2", context=False)
        if device != 0:
            raise failure("cuDevicePrimaryCtxReset_v2", "INVALID_DEVICE")
        if not self._cuda.revives:
            self._cuda.check_alive("cuDevicePrimaryCtxReset_v2")
        self._cuda.end_context()

    def _registered(self, address: int, call: str) -> Block:
        block = self._cuda.memory.find(address)
        if block is None or block.kind != "registered" or block.address != address:
            raise failure(call, "HOST_MEMORY_NOT_REGISTERED")
        return block

    def _keep(self, thing: Any) -> int:
        handle = self._cuda.new_handle()
        self._cuda.handles[handle] = thing
        return handle

    def _find(self, handle: int, kind: type[Any], call: str) -> Any:
        found = self._cuda.handles.get(handle)
        if type(found) is not kind:
            raise failure(call, "INVALID_VALUE")
        return found
