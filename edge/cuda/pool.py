"""Page-locked frame buffers that readers decode into, so that a frame goes to the GPU without another copy.

The memory is ordinary memory that is registered with the driver: a frame that a sink still holds outlives
the device and its context. A buffer comes back to the pool when the last array that shows it is dropped.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import numpy as np

from edge.cuda.device import Device
from edge.cuda.libcuda import CudaCallError
from edge.types import Image

log = logging.getLogger(__name__)

_PAGE = 4096

MOST_BYTES = 1 << 30
"""Page-locked memory is taken from everyone; beyond this, frames take ordinary memory."""
MOST_SIZES = 4
"""Picture sizes of one reader that get buffers: a feed has one, a folder may have a new one in every file."""

Shape = tuple[int, ...]


class FramePool:
    """Buffers of one or more picture sizes.

    Readers use a `Lender` each; `provide_wanted` and `close` belong to the device's thread.

    Attributes:
        misses: frames for which no buffer was free; they took ordinary memory and cost a copy.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.misses = 0
        self._free: dict[Shape, deque[Image]] = {}
        self._registered: dict[int, Image] = {}
        """Whole buffers by their address."""
        self._wanted: deque[tuple[Shape, int]] = deque()
        """Sizes that a reader has asked for the first time, and how many buffers it needs."""

    def lend(self, buffers: int) -> Lender:
        """Buffers for one reader.

        Args:
            buffers: frames of this reader that may be on their way at the same time.
        """
        return Lender(self, buffers)

    def holds(self, image: Image) -> bool:
        """Whether `image` is one of the pool's buffers, from its first byte to its last."""
        whole = self._registered.get(image.ctypes.data)
        return whole is not None and image.nbytes == whole.nbytes and image.flags.c_contiguous

    def provide_wanted(self) -> None:
        """Make the buffers that readers have asked for."""
        while self._wanted:
            self._provide(*self._wanted.popleft())

    def address(self, image: Image) -> int:
        """Where an integrated GPU sees the buffer."""
        return int(self.device._cuda.libcuda.host_device_pointer(image.ctypes.data))

    def close(self) -> None:
        """Unregister everything; arrays that are still in use stay valid. A second call does nothing."""
        self._free.clear()
        buffers, self._registered = self._registered, {}
        if self.device.lost:
            return  # the context that knew them is dead
        for address in buffers:
            try:
                self.device._cuda.libcuda.unregister_host(address)
            except CudaCallError as e:
                log.debug("unregistering a frame buffer: %s", e)

    def ask(self, shape: Shape, buffers: int) -> None:
        """A reader has met a picture size for the first time."""
        self._wanted.append((shape, buffers))

    def take(self, shape: Shape) -> Image | None:
        """A buffer; None if none of this size was made or all are on their way."""
        free = self._free.get(shape)
        if free is None:
            return None
        try:
            return np.asarray(_Lease(free.popleft(), free))
        except IndexError:
            self.misses += 1
            return None

    def _provide(self, shape: Shape, count: int) -> None:
        """Where the driver refuses, readers keep ordinary memory and copies cost the loop more."""
        made: list[Image] = []
        room = MOST_BYTES - sum(buffer.nbytes for buffer in self._registered.values())
        try:
            for _ in range(min(count, room // max(1, int(np.prod(shape))))):
                buffer = _aligned(shape)
                self.device._cuda.libcuda.register_host(buffer.ctypes.data, buffer.nbytes)
                self.device.counters.host += 1
                self._registered[buffer.ctypes.data] = buffer
                made.append(buffer)
        except CudaCallError as e:
            log.info("page-locked frame buffers: %s", e)
        if made:
            self._free.setdefault(shape, deque()).extend(made)


class Lender:
    """A reader's way to the pool; its methods may be called by the reader's thread."""

    def __init__(self, pool: FramePool, buffers: int) -> None:
        self._pool, self._buffers = pool, buffers
        self._asked: set[Shape] = set()

    def __call__(self, shape: Shape) -> Image:
        """An uninitialised uint8 array to decode into: page-locked, if one is free."""
        buffer = self._take(shape)
        return np.empty(shape, np.uint8) if buffer is None else buffer

    def copy(self, image: Image) -> Image:
        """The picture in a page-locked buffer; itself, if it is in one or none is free."""
        if self._pool.holds(image):
            return image
        buffer = self._take(image.shape)
        if buffer is None:
            return image
        np.copyto(buffer, image)
        return buffer

    def _take(self, shape: Shape) -> Image | None:
        if shape not in self._asked and len(self._asked) < MOST_SIZES:
            self._asked.add(shape)
            self._pool.ask(shape, self._buffers)
        return self._pool.take(shape)


class _Lease:
    """Makes an array whose buffer returns to its pool when the last view of it is gone."""

    __slots__ = ("__array_interface__", "_buffer", "_free")

    def __init__(self, buffer: Image, free: deque[Image]) -> None:
        self._buffer, self._free = buffer, free
        self.__array_interface__: dict[str, Any] = buffer.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._buffer)


def _aligned(shape: Shape) -> Image:
    """Zeros on pages of their own: registering locks whole pages."""
    size = int(np.prod(shape))
    block = np.zeros(size + 2 * _PAGE, np.uint8)
    start = -block.ctypes.data % _PAGE
    return block[start : start + size].reshape(shape)
