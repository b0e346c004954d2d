"""`pycuda.driver` on the simulated device: the calls this project uses, with PyCUDA's names and manners.

Source of names, argument orders and semantics: PyCUDA 2026.1, src/cpp/cuda.hpp and src/wrapper.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import gc
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fakes import errors
from fakes.allocations import DeviceAllocation, device_pointer, host_allocation, host_span, page_locked
from fakes.contexts import Context
from fakes.errors import failure
from fakes.memory import Block
from fakes.modules import Module
from fakes.queues import Span, Work
from fakes.streams import DISABLE_TIMING, Event, Stream, queue_of

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda


class DeviceAttribute(enum.IntEnum):
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19
    ASYNC_ENGINE_COUNT = 40


class EventFlags(enum.IntEnum):
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = DISABLE_TIMING


class HostAllocFlags:
    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


class Driver:
    """The module."""

    Error, MemoryError, LogicError = errors.Error, errors.MemoryError, errors.LogicError
    LaunchError, RuntimeError = errors.LaunchError, errors.RuntimeError
    device_attribute, event_flags, host_alloc_flags = DeviceAttribute, EventFlags, HostAllocFlags

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.Device, self.Context = _of(cuda, Device), _of(cuda, Context)
        self.Stream, self.Event = _of(cuda, Stream), _of(cuda, Event)

    def init(self, flags: int = 0) -> None:
        self._cuda.call("cuInit", context=False)
        self._cuda.initialized = True

    def get_version(self) -> tuple[int, int, int]:
        """The CUDA that PyCUDA was built with."""
        return 13, 0, 0

    def get_driver_version(self) -> int:
        return self._cuda.driver_version

    def mem_get_info(self) -> tuple[int, int]:
        """Bytes that are free, and all there are."""
        self._cuda.call("cuMemGetInfo")
        return self._cuda.total_memory - self._cuda.used_memory, self._cuda.total_memory

    def mem_alloc(self, nbytes: int) -> DeviceAllocation:
        self._cuda.call("cuMemAlloc", unsafe=True)
        if nbytes <= 0:
            raise failure("cuMemAlloc", "INVALID_VALUE")
        if self._cuda.used_memory + nbytes > self._cuda.total_memory:
            gc.collect()  # as PyCUDA does, before it gives up
        if self._cuda.used_memory + nbytes > self._cuda.total_memory:
            raise failure("cuMemAlloc", "OUT_OF_MEMORY")
        label = f"device memory {self._cuda.calls['cuMemAlloc']} ({nbytes} bytes)"
        return DeviceAllocation(self._cuda, self._cuda.add_block(Block.fresh("device", nbytes, label)))

    def pagelocked_empty(self, shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        """An array whose `base` is the allocation."""
        self._cuda.call("cuMemHostAlloc", unsafe=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        label = f"page-locked memory {self._cuda.calls['cuMemHostAlloc']} ({nbytes} bytes)"
        block = Block.fresh("pinned", nbytes, label, mapped=bool(mem_flags & HostAllocFlags.DEVICEMAP))
        allocation = host_allocation(self._cuda, self._cuda.add_block(block))
        fortran: Any = order
        return np.ndarray(shape, dtype, allocation, order=fortran)

    def memcpy_htod_async(self, dest: Any, src: Any, stream: Any = None) -> None:
        call = "cuMemcpyHtoDAsync"
        self._cuda.call(call)
        start, (address, nbytes) = device_pointer(dest), host_span(src, writable=False)
        if not nbytes:
            return
        source = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        reads: tuple[Span, ...] = ((address, nbytes),)
        if not page_locked(self._cuda, address, nbytes, call):
            source, reads = source.copy(), ()
        work = Work("copy in", reads, ((start, nbytes),), lambda: _move(start, source.ctypes.data, nbytes))
        self._cuda.submit(queue_of(stream), work)

    def memcpy_dtoh_async(self, dest: Any, src: Any, stream: Any = None) -> None:
        call = "cuMemcpyDtoHAsync"
        self._cuda.call(call)
        start, (address, nbytes) = device_pointer(src), host_span(dest, writable=True)
        if not nbytes:
            return
        known = page_locked(self._cuda, address, nbytes, call)
        writes: tuple[Span, ...] = ((address, nbytes),) if known else ()
        work = Work("copy out", ((start, nbytes),), writes, lambda: _move(address, start, nbytes))
        self._cuda.submit(queue_of(stream), work)
        if not known:  # the driver does not return before ordinary memory is filled
            self._cuda.synchronize(queue_of(stream))

    def memset_d8_async(self, dest: Any, data: int, size: int, stream: Any = None) -> None:
        self._cuda.call("cuMemsetD8Async")
        start = device_pointer(dest)
        work = Work("set", (), ((start, size),), functools.partial(_fill, start, data, size))
        self._cuda.submit(queue_of(stream), work)

    def module_from_buffer(self, buffer: Any, options: Any = (), message_handler: Any = None) -> Module:
        self._cuda.call("cuModuleLoadDataEx", unsafe=True)
        if not bytes(buffer):
            raise failure("cuModuleLoadDataEx", "INVALID_IMAGE")
        return Module(self._cuda, bytes(buffer))


def _of(cuda: FakeCuda, kind: type[Any]) -> Any:
    """The class, tied to its device: PyCUDA's are to the one driver there is."""
    return type(kind.__name__, (kind,), {"cuda": cuda})


def _fill(start: int, value: int, nbytes: int) -> None:
    ctypes.memset(start, value, nbytes)


def _move(destination: int, source: int, nbytes: int) -> None:
    ctypes.memmove(destination, source, nbytes)


class Device:
    cuda: FakeCuda

    def __init__(self, index: int) -> None:
        self.cuda.call("cuDeviceGet", context=False)
        if not 0 <= index < self.count():
            raise failure("cuDeviceGet", "INVALID_DEVICE")

    @classmethod
    def count(cls) -> int:
        cls.cuda.call("cuDeviceGetCount", context=False)
        return 1

    def name(self) -> str:
        return self.cuda.name

    def compute_capability(self) -> tuple[int, int]:
        return self.cuda.capability

    def total_memory(self) -> int:
        return self.cuda.total_memory

    def get_attribute(self, attribute: DeviceAttribute) -> int:
        self.cuda.call("cuDeviceGetAttribute", context=False)
        values = {DeviceAttribute.INTEGRATED: int(self.cuda.integrated)}
        values[DeviceAttribute.ASYNC_ENGINE_COUNT] = 1 if self.cuda.integrated else 2
        return values.get(attribute, 1)

    def retain_primary_context(self) -> Context:
        """Retained, not pushed."""
        self.cuda.call("cuDevicePrimaryCtxRetain", context=False)
        if not self.cuda.revives:
            self.cuda.check_alive("cuDevicePrimaryCtxRetain")
        self.cuda.retained += 1
        context: Context = self.cuda.driver.Context()
        return context
