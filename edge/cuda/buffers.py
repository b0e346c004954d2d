"""Memory of the device, and memory that it shares or exchanges with the processor."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.cuda.driver import cuda_errors
from edge.cuda.resource import Resource
from edge.errors import RuntimeFault
from edge.types import Array

if TYPE_CHECKING:
    from edge.cuda.device import Device, Stream


class DeviceArray(Resource):
    """Memory that only the device sees."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        super().__init__(device)
        self.shape, self.dtype = shape, dtype
        self.nbytes = _nbytes(shape, dtype)
        with cuda_errors(f"cannot allocate {_megabytes(self.nbytes)} on the GPU"):
            self._memory = device._cuda.driver.mem_alloc(max(1, self.nbytes))
        device.counters.device += 1
        self.address = int(self._memory)
        self._made()

    def _release(self) -> None:
        self._memory.free()


class Exchange(Resource):
    """A host array that the device can read or write.

    Attributes:
        host: the array; untouched by the processor while a copy is in flight.
        address: where the device sees it.
    """

    host: Array
    address: int

    @abstractmethod
    def upload(self, stream: Stream, rows: int | None = None) -> None:
        """Enqueue the copy to the device, of the first `rows` or all of it."""

    @abstractmethod
    def upload_from(self, source: Array, stream: Stream) -> None:
        """Enqueue a copy to the device from another page-locked array, contiguous and no larger."""

    @abstractmethod
    def download(self, stream: Stream, rows: int | None = None) -> None:
        """Enqueue the copy to the host."""


class CopiedExchange(Exchange):
    """Page-locked host memory and memory of the device."""

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
            raise
        self.address = self._memory.address
        self._copy_in, self._copy_out = driver.memcpy_htod_async, driver.memcpy_dtoh_async
        self._made()

    def upload(self, stream: Stream, rows: int | None = None) -> None:
        self._copy_in(self.address, self.host if rows is None else self.host[:rows], stream.raw)

    def upload_from(self, source: Array, stream: Stream) -> None:
        self._copy_in(self.address, source, stream.raw)

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
        self._made()

    def upload(self, stream: Stream, rows: int | None = None) -> None:
        pass

    def upload_from(self, source: Array, stream: Stream) -> None:
        """At once: nothing of this memory is in flight when it is filled."""
        self.host.reshape(-1).view(np.uint8)[: source.nbytes] = source.reshape(-1).view(np.uint8)

    def download(self, stream: Stream, rows: int | None = None) -> None:
        pass

    def _release(self) -> None:
        self.host.base.free()  # type: ignore[union-attr]


def _nbytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
