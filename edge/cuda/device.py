"""A GPU as this project uses it: streams, events and buffers that end with it, whoever forgets them.

The thread that opens a device owns it: its primary context (the one that TensorRT and ONNX Runtime use too)
is current there until the device is closed, and only that thread makes CUDA calls.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.cuda.buffers import CopiedExchange, DeviceArray, Exchange, MappedExchange
from edge.cuda.driver import bindings, cuda_errors, fault, supported_cuda
from edge.cuda.libcuda import CudaCallError
from edge.cuda.resource import Resource
from edge.errors import DeviceLost, RuntimeFault

if TYPE_CHECKING:
    from edge.cuda.pool import FramePool

log = logging.getLogger(__name__)

URGENT = -5
"""Priority of the streams that execute engines; the driver takes the nearest that it has."""
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream."""

_open: dict[int, Device] = {}


def open_device(index: int = 0) -> Device:
    """The GPU with this number; every call needs a `close` of its own, the last one gives it back.

    Raises:
        MissingPackage: PyCUDA is not installed.
        RuntimeFault: no driver, no such GPU, or another process holds it.
        DeviceLost: its context is dead and other engines still have to be closed.
    """
    device = _open.get(index)
    if device is not None and device.lost:
        raise DeviceLost(f"the context of {device.name} is dead", "", "close its engines first")
    if device is None:
        device = _open[index] = Device(index)
    device.users += 1
    return device


def find_gpu(capability: tuple[int, int]) -> int:
    """Number of the first GPU with this compute capability, in CUDA's order, which may not be nvidia-smi's.

    Raises:
        MissingPackage: PyCUDA is not installed.
        RuntimeFault: no driver, or the driver sees no such GPU.
    """
    driver = bindings().driver
    with cuda_errors("cannot look for a GPU"):
        found = [tuple(driver.Device(i).compute_capability()) for i in range(driver.Device.count())]
    if capability in found:
        return found.index(capability)
    raise RuntimeFault(
        "no GPU of compute capability {}.{}".format(*capability),
        f"CUDA sees {', '.join(f'{a}.{b}' for a, b in found) or 'none'}",
        "check CUDA_VISIBLE_DEVICES",
    )


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
        lost: the context is dead; set by whoever meets the error. The last `close` has it destroyed.
    """

    def __init__(self, index: int) -> None:
        self.index, self.users = index, 0
        self.lost = False
        self.counters = Counters()
        self._cuda = bindings()
        self._resources: weakref.WeakSet[Resource] = weakref.WeakSet()
        self._frames: FramePool | None = None
        self._dead: list[Resource] = []
        """Freed while the context was dead: kept until it is gone, or PyCUDA would complain about each."""
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
    def driver_cuda(self) -> tuple[int, int]:
        """The newest CUDA that the driver supports: (13, 0)."""
        return supported_cuda(self._cuda)

    @property
    def frames(self) -> FramePool:
        """Page-locked buffers for frames on their way to this device."""
        if self._frames is None:
            from edge.cuda.pool import FramePool

            self._frames = FramePool(self)
        return self._frames

    def free_memory(self) -> int:
        """Bytes that nobody uses, this process or another."""
        with cuda_errors("cannot ask the GPU's memory"):
            return int(self._cuda.driver.mem_get_info()[0])

    def room(self) -> int:
        """Bytes that can be allocated: on a Jetson also what the system's file cache would give back."""
        free = self.free_memory()
        return max(free, available_memory()) if self.integrated else free

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

    def exchange(
        self, shape: Sequence[int], dtype: Any, write_combined: bool = False, copied: bool = False
    ) -> Exchange:
        """A host array and device memory of the same size, with the copies between them.

        Args:
            write_combined: faster to copy from, very slow for the processor to read: for input only.
            copied: memory of its own on an integrated GPU too. It caches that, but not what it shares with
                the processor (CUDA for Tegra, "Memory Management"): for what is read again and again.

        Raises:
            OutOfDeviceMemory: there is not enough.
        """
        self._check_thread()
        kind = MappedExchange if self.integrated and not copied else CopiedExchange
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
            if self.lost:
                self._bury()
                self._forget_context()
            else:
                self._free_all()
                self._leave()

    def _bury(self) -> None:
        """Leave a dead context; what lived in it is dropped once PyCUDA knows that it is gone."""
        self._dead += list(self._resources)
        self._resources.clear()
        self._leave()
        self._dead.clear()

    def _forget_context(self) -> None:
        """Let the driver destroy the primary context, so that the next one is new."""
        try:
            self._cuda.libcuda.reset_primary_context(self.index)
        except CudaCallError as e:  # the next `open_device` meets it, and says so
            log.warning("%s does not come back: %s", self.name, e)

    def _free_all(self) -> None:
        if self._frames is not None:
            self._frames.close()
        for resource in list(self._resources):
            resource.free()

    def _leave(self) -> None:
        """Let go of the context. PyCUDA ends the process if one is still pushed when it is unloaded.

        `detach` takes it off PyCUDA's own stack without a call that a dead context could fail; the driver's
        stack it leaves as it is.
        """
        try:
            self._context.detach()
        except self._cuda.driver.Error as e:
            log.debug("leaving the context of %s: %s", self.name, e)
        self._cuda.libcuda.pop_context()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeFault(
                "a CUDA call from a second thread",
                f"{self.name} belongs to the thread that opened it",
                "open engines and make slots in the thread that runs them",
            )


class Stream(Resource):
    """A queue of work on the device."""

    def __init__(self, device: Device, priority: int = 0) -> None:
        super().__init__(device)
        with cuda_errors("cannot make a CUDA stream"):
            self.raw = device._cuda.driver.Stream(_NON_BLOCKING)
        self.handle: int = self.raw.handle
        self.priority = 0
        self._made()
        if priority:
            self._set_priority(priority)

    def _set_priority(self, priority: int) -> None:
        """PyCUDA makes streams of default priority; drivers before CUDA 12 cannot change it afterwards."""
        libcuda = self.device._cuda.libcuda
        try:
            least, most = libcuda.priority_range()
            libcuda.set_priority(self.handle, max(most, min(least, priority)))
            self.priority = libcuda.priority(self.handle)
        except CudaCallError as e:
            log.info("executing engines has no priority over preparing pictures on this driver: %s", e)

    def wait(self, event: Event) -> None:
        """What is enqueued from now on starts after `event`."""
        self.raw.wait_for_event(event.raw)

    def synchronize(self) -> None:
        with cuda_errors("GPU work failed"):
            self.raw.synchronize()

    def _release(self) -> None:
        self.raw.synchronize()
        self.raw = None


class Event(Resource):
    """A point in a stream's work, with its time on the device's clock."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        driver = device._cuda.driver
        with cuda_errors("cannot make a CUDA event"):
            # Waiting sleeps: an answer comes some 20 µs later than by spinning, and no core is kept busy.
            self.raw = driver.Event(driver.event_flags.BLOCKING_SYNC)
        self._made()

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


class CapturedGraph(Resource):
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
        device.counters.device += 1
        self._made()

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


def available_memory() -> int:
    """Bytes of host memory that can be had without swapping; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


@atexit.register
def _leave_all() -> None:
    """An error may end the program with a device open; its own exit code is what it should end with."""
    for index in list(_open):
        device = _open.pop(index)
        device.lost = True  # nothing is worth freeing any more
        device._bury()


def guarded(what: str, error: Exception) -> RuntimeFault | None:
    """The EdgeError for a CUDA error of the per-frame path; None if `error` is none."""
    found = bindings()
    return fault(what, error, found) if isinstance(error, (found.driver.Error, CudaCallError)) else None
