"""PyCUDA's memory: on the device and page-locked, freed once, by hand or with the object."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from fakes.contexts import Dependent
from fakes.errors import failure
from fakes.memory import Block
from fakes.queues import Span

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda


class DeviceAllocation(Dependent):
    def __init__(self, cuda: FakeCuda, block: Block) -> None:
        self._acquire(cuda)
        self.cuda, self.block, self._valid = cuda, block, True

    def __int__(self) -> int:
        return self.block.address

    __index__ = __int__

    def free(self) -> None:
        """Give it back now.

        Raises:
            LogicError: it was given back before.
        """
        if not self._valid:
            self.cuda.report(f"{self.block.label} was freed twice")
            raise failure("device_allocation::free", "INVALID_HANDLE")
        self._valid = False
        if self._may_destroy(self.block.label):
            self.cuda.calls["cuMemFree"] += 1
            self.cuda.free_block(self.block)

    def __del__(self) -> None:
        if getattr(self, "_valid", False):
            self.free()


class _HostAllocation(Dependent):
    """Page-locked memory; what arrays made of it have as their `base`."""

    cuda: FakeCuda
    block: Block
    valid: bool

    def free(self) -> None:
        """Give it back now; arrays that show it must not be touched any more.

        Raises:
            LogicError: it was given back before.
        """
        if not self.valid:
            self.cuda.report(f"{self.block.label} was freed twice")
            raise failure("pagelockedhost_allocation::free", "INVALID_HANDLE")
        self.valid = False
        if self._may_destroy(self.block.label):
            self.cuda.calls["cuMemFreeHost"] += 1
            self.cuda.free_block(self.block)

    def get_device_pointer(self) -> int:
        self.cuda.call("cuMemHostGetDevicePointer")
        if not self.block.mapped:
            raise failure("cuMemHostGetDevicePointer", "INVALID_VALUE")
        return self.block.address

    def __del__(self) -> None:
        if getattr(self, "valid", False):
            self.free()


def host_allocation(cuda: FakeCuda, block: Block) -> Any:
    """As a ctypes array over the block: numpy keeps the object behind such a buffer as `base`."""
    kind: Any = type("PagelockedHostAllocation", (_HostAllocation, ctypes.c_uint8 * block.nbytes), {})
    allocation = kind.from_address(block.address)
    allocation._acquire(cuda)
    allocation.cuda, allocation.block, allocation.valid = cuda, block, True
    return allocation


def device_pointer(pointer: Any) -> int:
    """Boost converts Python's own integers and allocations, and nothing else."""
    if type(pointer) is not int and not isinstance(pointer, DeviceAllocation):
        raise TypeError(f"Python argument types did not match C++ signature: {type(pointer).__name__}")
    return int(pointer)


def host_span(array: Any, writable: bool) -> Span:
    found = np.asarray(array)
    if not (found.flags.c_contiguous or found.flags.f_contiguous):
        raise ValueError("ndarray is not contiguous")
    if writable and not found.flags.writeable:
        raise ValueError("buffer source array is read-only")
    return int(found.ctypes.data), found.nbytes


def page_locked(cuda: FakeCuda, address: int, nbytes: int, call: str) -> bool:
    block = cuda.memory.find(address, nbytes)
    if block is not None:
        return True
    if not cuda.allow_pageable:
        cuda.report(f"{call} with ordinary memory: the copy would not be asynchronous")
    return False
