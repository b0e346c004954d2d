"""A GPU as this project uses it: streams, events and buffers that end with it, whoever forgets them.

The thread that opens a device owns it: its primary context (the one that TensorRT and ONNX Runtime use too)
is current there until the device is closed, and only that thread makes CUDA calls.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.cuda.driver import bindings, cuda_errors, fault, version_text
from edge.cuda.libcuda import CudaCallError
from edge.errors import RuntimeFault
from edge.types import Array

log = logging.getLogger(__name__)

URGENT = -5
"""Priority of the streams that execute engines; the driver takes the nearest that it has."""
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream."""

_open: dict[int, Device] = {}


def open_device(index: int = 0, spin: bool = False) -> Device:
    """The GPU with this number; every call needs a `close` of its own, the last one gives it back.

    Args:
        spin: wait for events by spinning (an answer comes some 20 µs sooner, a processor core is busy).

    Raises:
        MissingPackage: PyCUDA is not installed.
        RuntimeFault: no driver, no such GPU, or another process holds it.
    """
    device = _open.get(index)
    if device is None:
        device = _open[index] = Device(index, spin)
    device.users += 1
    return device


@dataclass(slots=True)
class Counters:
    """Allocations since the device was opened; a run in its steady state makes none."""

    host: int = 0
    device: int = 0

    @property
    def total(self) -> int:
        return self.host + self.device


class Device:
    """One GPU and what was allocated on it.

    Attributes:
        integrated: processor and GPU share one memory (Jetson): nothing needs to be copied.
        generation: counts contexts: a buffer of an earlier one is gone.
    """

    def __init__(self, index: int, spin: bool = False) -> None:
        self.index, self.spin, self.users = index, spin, 0
        self.generation = 0
        self.counters = Counters()
        self._cuda = bindings()
        self._resources: weakref.WeakSet[_Resource] = weakref.WeakSet()
        driver = self._cuda.driver
        with cuda_errors(f"cannot use GPU {index}"):
            count = driver.Device.count()
            if index >= count:
                raise RuntimeFault(f"no GPU {index}", f"the driver sees {count}", "check nvidia-smi")
            self._handle = driver.Device(index)
            self._context = self._handle.retain_primary_context()
            self._context.push()
            self.name: str = self._handle.name()
            self.compute_capability: tuple[int, int] = tuple(self._handle.compute_capability())
            self.total_memory: int = self._handle.total_memory()
            attribute = driver.device_attribute
            self.integrated = bool(self._handle.get_attribute(attribute.INTEGRATED)) and bool(
                self._handle.get_attribute(attribute.CAN_MAP_HOST_MEMORY)
            )
        self._owner = threading.get_ident()

    @property
    def driver_version(self) -> str:
        """The newest CUDA that the driver supports: "13.0"."""
        return version_text(self._cuda.driver.get_driver_version())

    def free_memory(self) -> int:
        """Bytes that nobody uses, this process or another."""
        with cuda_errors("cannot ask the GPU's memory"):
            return int(self._cuda.driver.mem_get_info()[0])

    def stream(self, priority: int = 0) -> Stream:
        self._check_thread()
        return Stream(self, priority)

    def event(self) -> Event:
        self._check_thread()
        return Event(self)

    def device_array(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """Device memory; what it holds is undefined.

        Raises:
            OutOfDeviceMemory: there is not enough.
        """
        self._check_thread()
        return DeviceArray(self, tuple(shape), np.dtype(dtype))

    def exchange(self, shape: Sequence[int], dtype: Any, write_combined: bool = False) -> Exchange:
        """A host array and device memory of the same size, with the copies between them.

        Args:
            write_combined: faster to copy from, very slow for the processor to read: for input only.

        Raises:
            OutOfDeviceMemory: there is not enough.
        """
        self._check_thread()
        kind = MappedExchange if self.integrated else CopiedExchange
        return kind(self, tuple(shape), np.dtype(dtype), write_combined)

    def module(self, image: bytes) -> Any:
        """Load compiled kernels (a cubin or PTX)."""
        with cuda_errors("cannot load a GPU kernel"):
            return self._cuda.driver.module_from_buffer(image)

    def close(self) -> None:
        """Give back one `open_device`; the last one frees what is left and lets go of the context."""
        self.users -= 1
        if self.users == 0 and _open.pop(self.index, None) is not None:
            self._check_thread()
            self._free_all()
            self._leave()

    def reset(self) -> None:
        """Make the context anew after a `DeviceLost`: all buffers, streams and engines in it are gone.

        Raises:
            RuntimeFault: the GPU does not come back.
        """
        self._check_thread()
        self.generation += 1
        for resource in list(self._resources):
            resource.abandon()
        self._leave()
        with cuda_errors(f"cannot reset {self.name}"):
            self._cuda.libcuda.reset_primary_context(self.index)
            self._context = self._handle.retain_primary_context()
            self._context.push()

    def _free_all(self) -> None:
        for resource in list(self._resources):
            resource.free()

    def _leave(self) -> None:
        """PyCUDA ends the process if a context is still pushed when it is unloaded."""
        try:
            self._cuda.driver.Context.pop()
            self._context.detach()
        except self._cuda.driver.Error as e:  # a dead context: there is nothing to let go of
            log.debug("leaving the context of %s: %s", self.name, e)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeFault(
                "a CUDA call from a second thread",
                f"{self.name} belongs to the thread that opened it",
                "open engines and make slots in the thread that runs them",
            )


class _Resource:
    """What lives in a device's context and is freed once, by its user or with the device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._generation = device.generation
        device._resources.add(self)

    def free(self) -> None:
        """Give it back; a second call does nothing. No work that uses it may be in flight."""
        if self._generation != self.device.generation or self not in self.device._resources:
            return
        self.device._resources.discard(self)
        driver = self.device._cuda.driver
        try:
            self._release()
        except (driver.Error, CudaCallError) as e:  # a dead context took it along
            log.debug("freeing %s: %s", type(self).__name__, e)

    def abandon(self) -> None:
        """Forget it without a call: its context is dead."""
        self.device._resources.discard(self)

    def _release(self) -> None:
        raise NotImplementedError


class Stream(_Resource):
    """A queue of work on the device."""

    def __init__(self, device: Device, priority: int = 0) -> None:
        super().__init__(device)
        with cuda_errors("cannot make a CUDA stream"):
            self.raw = device._cuda.driver.Stream(_NON_BLOCKING)
        self.handle: int = self.raw.handle
        self.priority = 0
        if priority:
            self._set_priority(priority)

    def _set_priority(self, priority: int) -> None:
        """PyCUDA makes streams of default priority; drivers before CUDA 12 cannot change it afterwards."""
        try:
            self.device._cuda.libcuda.set_priority(self.handle, priority)
            self.priority = self.device._cuda.libcuda.priority(self.handle)
        except CudaCallError as e:
            log.debug("stream priority %d was not granted: %s", priority, e)

    def wait(self, event: Event) -> None:
        """What is enqueued from now on starts after `event`."""
        self.raw.wait_for_event(event.raw)

    def synchronize(self) -> None:
        with cuda_errors("GPU work failed"):
            self.raw.synchronize()

    def _release(self) -> None:
        self.raw.synchronize()
        self.raw = None


class Event(_Resource):
    """A point in a stream's work, with its time on the device's clock."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        flags = device._cuda.driver.event_flags
        with cuda_errors("cannot make a CUDA event"):
            self.raw = device._cuda.driver.Event(flags.DEFAULT if device.spin else flags.BLOCKING_SYNC)

    def record(self, stream: Stream) -> None:
        self.raw.record(stream.raw)

    def synchronize(self) -> None:
        self.raw.synchronize()

    def done(self) -> bool:
        return bool(self.raw.query())

    def since(self, earlier: Event) -> float:
        """Seconds between two events that have happened, in steps of about 1 µs."""
        return float(self.raw.time_since(earlier.raw)) / 1e3

    def _release(self) -> None:
        self.raw = None


class DeviceArray(_Resource):
    """Memory that only the device sees."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(device)
        self.shape, self.dtype = shape, dtype
        self.nbytes = _nbytes(shape, dtype)
        with cuda_errors(f"cannot allocate {_megabytes(self.nbytes)} on the GPU"):
            self._memory = device._cuda.driver.mem_alloc(max(1, self.nbytes))
        device.counters.device += 1
        self.address = int(self._memory)

    def _release(self) -> None:
        self._memory.free()


class Exchange(_Resource):
    """A host array that the device can read or write.

    Attributes:
        host: the array; untouched by the processor while a copy is in flight.
        address: where the device sees it.
    """

    host: Array
    address: int

    def upload(self, stream: Stream, rows: int | None = None) -> None:
        """Enqueue the copy to the device, of the first `rows` or all of it."""
        raise NotImplementedError

    def download(self, stream: Stream, rows: int | None = None) -> None:
        """Enqueue the copy to the host."""
        raise NotImplementedError


class CopiedExchange(Exchange):
    """Page-locked host memory and memory of a discrete GPU."""

    def __init__(
        self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any], write_combined: bool
    ) -> None:
        super().__init__(device)
        driver = device._cuda.driver
        flags = driver.host_alloc_flags.PORTABLE
        flags |= driver.host_alloc_flags.WRITECOMBINED if write_combined else 0
        with cuda_errors(f"cannot allocate {_megabytes(_nbytes(shape, dtype))} of page-locked memory"):
            self.host = driver.pagelocked_empty(shape, dtype, "C", flags)
        device.counters.host += 1
        try:
            self._memory = DeviceArray(device, shape, dtype)
        except RuntimeFault:
            self.host.base.free()  # type: ignore[union-attr]
            self.abandon()
            raise
        self.address = self._memory.address
        self._copy_in, self._copy_out = driver.memcpy_htod_async, driver.memcpy_dtoh_async

    def upload(self, stream: Stream, rows: int | None = None) -> None:
        self._copy_in(self.address, self.host if rows is None else self.host[:rows], stream.raw)

    def download(self, stream: Stream, rows: int | None = None) -> None:
        self._copy_out(self.host if rows is None else self.host[:rows], self.address, stream.raw)

    def _release(self) -> None:
        self._memory.free()
        self.host.base.free()  # type: ignore[union-attr]


class MappedExchange(Exchange):
    """One block of memory that processor and integrated GPU both see: there is nothing to copy."""

    def __init__(
        self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any], write_combined: bool
    ) -> None:
        super().__init__(device)
        driver = device._cuda.driver
        flags = driver.host_alloc_flags.DEVICEMAP | driver.host_alloc_flags.PORTABLE
        flags |= driver.host_alloc_flags.WRITECOMBINED if write_combined else 0
        with cuda_errors(f"cannot allocate {_megabytes(_nbytes(shape, dtype))} of mapped memory"):
            self.host = driver.pagelocked_empty(shape, dtype, "C", flags)
            self.address = int(self.host.base.get_device_pointer())  # type: ignore[union-attr]
        device.counters.host += 1

    def upload(self, stream: Stream, rows: int | None = None) -> None:
        pass

    def download(self, stream: Stream, rows: int | None = None) -> None:
        pass

    def _release(self) -> None:
        self.host.base.free()  # type: ignore[union-attr]


class CapturedGraph(_Resource):
    """Work that was recorded from a stream once and is launched as one call.

    Raises:
        RuntimeFault: something in it cannot be recorded.
    """

    def __init__(self, device: Device, stream: Stream, enqueue: Callable[[Stream], None]) -> None:
        super().__init__(device)
        self._libcuda = device._cuda.libcuda
        with cuda_errors("cannot record a CUDA graph"):
            graph = self._record(stream, enqueue)
            try:
                self._executable = self._libcuda.instantiate(graph)
            finally:
                self._libcuda.destroy_graph(graph)

    def _record(self, stream: Stream, enqueue: Callable[[Stream], None]) -> int:
        self._libcuda.begin_capture(stream.handle)
        try:
            enqueue(stream)
        except BaseException:
            with suppress(CudaCallError):  # what was recorded so far is no graph
                self._libcuda.destroy_graph(self._libcuda.end_capture(stream.handle))
            raise
        return self._libcuda.end_capture(stream.handle)

    def launch(self, stream: Stream) -> None:
        self._libcuda.launch(self._executable, stream.handle)

    def _release(self) -> None:
        self._libcuda.destroy_executable(self._executable)


def guarded(what: str, error: Exception) -> RuntimeFault | None:
    """The EdgeError for a CUDA error of the per-frame path; None if `error` is none."""
    found = bindings()
    return fault(what, error, found) if isinstance(error, (found.driver.Error, CudaCallError)) else None


def _nbytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
