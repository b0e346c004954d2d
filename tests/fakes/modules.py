"""PyCUDA's modules and functions: kernels are Python callables that the test has registered."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fakes.allocations import DeviceAllocation
from fakes.contexts import Dependent
from fakes.errors import failure
from fakes.queues import Work
from fakes.streams import queue_of

if TYPE_CHECKING:
    from fakes.cuda import FakeCuda


class Module(Dependent):
    def __init__(self, cuda: FakeCuda, image: bytes) -> None:
        self._acquire(cuda)
        self.cuda, self.image = cuda, image

    def get_function(self, name: str) -> Function:
        self.cuda.call("cuModuleGetFunction")
        if name not in self.cuda.kernels:
            raise failure("cuModuleGetFunction", "NOT_FOUND")
        return Function(self, name)


class Function:
    def __init__(self, module: Module, name: str) -> None:
        self._module, self._name = module, name  # PyCUDA's keeps its module alive, too
        self.arg_format = ""

    def prepare(self, arg_types: Sequence[Any]) -> Function:
        self.arg_format = "".join(_format(kind) for kind in arg_types)
        return self

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Any, *args: Any, shared_size: int = 0
    ) -> None:
        """Enqueue it.

        Raises:
            struct.error: the arguments are not of the prepared types.
            TypeError: grid or block is no tuple of counts.
        """
        cuda = self._module.cuda
        cuda.call("cuLaunchKernel")
        _check_shape(grid, block)
        packed = struct.pack(self.arg_format, *map(_plain_value, args))
        values = list(struct.unpack(self.arg_format, packed))
        run, accesses = cuda.kernels[self._name]
        reads, writes = accesses(values)
        kernel: Callable[[], None] = lambda: run(values, grid, block)  # noqa: E731
        cuda.submit(queue_of(stream), Work(f"kernel {self._name}", tuple(reads), tuple(writes), kernel))


def _format(kind: Any) -> str:
    """The character of `struct` for one of `prepare`'s types; everything unknown is a pointer."""
    if isinstance(kind, str):
        return kind
    if isinstance(kind, np.dtype):
        return f"{kind.itemsize}s" if kind.char == "V" else kind.char
    if isinstance(kind, type) and issubclass(kind, np.number):
        return np.dtype(kind).char
    return "P"


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.void):
        return value.tobytes()
    return int(value) if isinstance(value, DeviceAllocation) else value


def _check_shape(grid: tuple[int, ...], block: tuple[int, ...]) -> None:
    if type(grid) is not tuple or type(block) is not tuple or len(block) != 3 or len(grid) > 3:
        raise TypeError("Python argument types did not match C++ signature: grid and block are tuples")
    if not 1 <= math.prod(block) <= 1024 or min(*grid, 1) < 1 or min(block) < 1:
        raise failure("cuLaunchKernel", "INVALID_VALUE")
