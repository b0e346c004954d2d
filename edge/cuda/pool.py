"""Page-locked frame buffers that readers decode into, so that a frame goes to the GPU without another copy.

The memory is ordinary memory that is registered with the driver: a frame that a sink still holds outlives
the device and its context. A buffer comes back to the pool when the last array that shows it is dropped.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from edge.cuda.device import Device
from edge.cuda.libcuda import CudaCallError
from edge.types import Image

log = logging.getLogger(__name__)

_PAGE = 4096


class FramePool:
    """Buffers of one or more picture sizes.

    `take` may be called from any thread; everything else from the thread that owns the device.

    Args:
        count: buffers for each reader and picture size: those in slots, waiting, and in the sinks' queues.
    """

    def __init__(self, device: Device, count: int = 10) -> None:
        self.device, self.count, self.readers = device, count, 0
        self._free: dict[tuple[int, ...], deque[Image]] = {}
        self._registered: dict[int, Image] = {}
        """Whole buffers by their address."""
        self._wanted: set[tuple[int, ...]] = set()
        """Sizes that were asked for and are not there yet."""
        self._generation = device.generation

    def lend(self) -> Callable[[tuple[int, ...]], Image]:
        """`take`, for one more reader."""
        self.readers += 1
        return self.take

    def take(self, shape: tuple[int, ...]) -> Image:
        """An uninitialised uint8 array: page-locked if this size is known and one is free."""
        free = self._free.get(shape)
        if free:
            try:
                return np.asarray(_Lease(free.popleft(), free))
            except IndexError:  # another reader was faster
                pass
        elif free is None:
            self._wanted.add(shape)
        return np.empty(shape, np.uint8)

    def holds(self, image: Image) -> bool:
        """Whether `image` is one of the pool's buffers, from its first byte to its last."""
        whole = self._registered.get(image.ctypes.data)
        return whole is not None and image.nbytes == whole.nbytes and image.flags.c_contiguous

    def provide_wanted(self) -> None:
        """Make buffers for the sizes that readers asked for."""
        self._renew()
        while self._wanted:
            self._provide(self._wanted.pop())

    def _provide(self, shape: tuple[int, ...]) -> None:
        """Where the driver refuses, readers keep ordinary memory and copies cost the processor more."""
        if shape in self._free:
            return
        free: deque[Image] = deque()
        try:
            for _ in range(self.count * max(1, self.readers)):
                buffer = _aligned(shape)
                self.device._cuda.libcuda.register_host(buffer.ctypes.data, buffer.nbytes)
                self.device.counters.host += 1
                self._registered[buffer.ctypes.data] = buffer
                free.append(buffer)
        except CudaCallError as e:
            log.info("page-locked frame buffers: %s", e)
        self._free[shape] = free

    def address(self, image: Image) -> int:
        """Where an integrated GPU sees the buffer."""
        return int(self.device._cuda.libcuda.host_device_pointer(image.ctypes.data))

    def close(self) -> None:
        """Unregister everything; arrays that are still in use stay valid. A second call does nothing."""
        self._free.clear()
        buffers, self._registered = self._registered, {}
        if self._generation != self.device.generation:
            return  # the context that knew them is gone
        for address in buffers:
            try:
                self.device._cuda.libcuda.unregister_host(address)
            except CudaCallError as e:
                log.debug("unregistering a frame buffer: %s", e)

    def _renew(self) -> None:
        """After a reset of the device nothing is registered any more."""
        if self._generation != self.device.generation:
            self._generation = self.device.generation
            self._free.clear()
            self._registered.clear()


class _Lease:
    """Makes an array whose buffer returns to its pool when the last view of it is gone."""

    __slots__ = ("__array_interface__", "_buffer", "_free")

    def __init__(self, buffer: Image, free: deque[Image]) -> None:
        self._buffer, self._free = buffer, free
        self.__array_interface__: dict[str, Any] = buffer.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._buffer)


def _aligned(shape: tuple[int, ...]) -> Image:
    """Zeros on pages of their own: registering locks whole pages."""
    size = int(np.prod(shape))
    block = np.zeros(size + 2 * _PAGE, np.uint8)
    start = -block.ctypes.data % _PAGE
    return block[start : start + size].reshape(shape)
