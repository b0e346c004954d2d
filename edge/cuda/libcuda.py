"""The driver calls that PyCUDA does not wrap: graph capture, stream priorities, registering host memory.

Each method is one or two calls of the CUDA driver API (docs.nvidia.com/cuda/cuda-driver-api), with handles
and addresses as plain integers.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_void_p
from typing import Any

from edge.errors import RuntimeFault

LIBRARY = "libcuda.so.1"
_CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads cannot spoil a capture."""
_REGISTER = 1 | 2
"""CU_MEMHOSTREGISTER_PORTABLE | DEVICEMAP."""
_PRIORITY = 8
"""CU_LAUNCH_ATTRIBUTE_PRIORITY, valid for streams."""
_HIGHEST_CODE = 1000


class CudaCallError(Exception):
    """A driver call that failed."""

    def __init__(self, call: str, code: int, name: str, description: str) -> None:
        super().__init__(f"{call} failed: {description}")
        self.call, self.code, self.name, self.description = call, code, name, description


class _AttributeValue(ctypes.Union):
    """CUlaunchAttributeValue: 64 bytes, of which the priority is the first int."""

    _fields_ = (("priority", c_int), ("pad", ctypes.c_char * 64))


class LibCuda:
    """libcuda, opened by name.

    Raises:
        RuntimeFault: there is no NVIDIA driver on this machine.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._lib: Any = ctypes.CDLL(library)
        except OSError as e:
            raise RuntimeFault(
                "no NVIDIA driver on this machine",
                str(e),
                "install the driver for this GPU, or use the cpu engine: --target cpu",
            ) from e
        self._names: dict[str, str] | None = None

    def error_names(self) -> dict[str, str]:
        """Description ("out of memory") → name ("CUDA_ERROR_OUT_OF_MEMORY"), of every error there is."""
        if self._names is None:
            codes = range(_HIGHEST_CODE)
            texts = ((self._text("cuGetErrorString", c), self._text("cuGetErrorName", c)) for c in codes)
            self._names = {description: name for description, name in texts if description and name}
        return self._names

    def pop_context(self) -> None:
        """Take the current context off the thread's stack, whatever state it is in."""
        with suppress(CudaCallError):
            self._call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def priority_range(self) -> tuple[int, int]:
        """The least and the most urgent priority of this device, (0, -5) for example."""
        least, most = c_int(), c_int()
        self._call("cuCtxGetStreamPriorityRange", byref(least), byref(most))
        return least.value, most.value

    def set_priority(self, stream: int, priority: int) -> None:
        """Lower is more urgent, within `priority_range`; 0 is the default."""
        value = _AttributeValue(priority=priority)
        self._call("cuStreamSetAttribute", c_void_p(stream), c_int(_PRIORITY), byref(value))

    def priority(self, stream: int) -> int:
        value = c_int()
        self._call("cuStreamGetPriority", c_void_p(stream), byref(value))
        return value.value

    def begin_capture(self, stream: int) -> None:
        """What is enqueued on the stream from now on is recorded instead of run."""
        self._call("cuStreamBeginCapture_v2", c_void_p(stream), c_int(_CAPTURE_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """The recorded graph."""
        graph = c_void_p()
        self._call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        return graph.value or 0

    def instantiate(self, graph: int) -> int:
        """An executable of the graph."""
        executable = c_void_p()
        self._call("cuGraphInstantiateWithFlags", byref(executable), c_void_p(graph), ctypes.c_ulonglong(0))
        return executable.value or 0

    def launch(self, executable: int, stream: int) -> None:
        self._call("cuGraphLaunch", c_void_p(executable), c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphDestroy", c_void_p(graph))

    def destroy_executable(self, executable: int) -> None:
        self._call("cuGraphExecDestroy", c_void_p(executable))

    def register_host(self, address: int, nbytes: int) -> None:
        """Page-lock ordinary memory, so that copies from it need no help of the processor."""
        self._call("cuMemHostRegister_v2", c_void_p(address), c_size_t(nbytes), c_uint(_REGISTER))

    def unregister_host(self, address: int) -> None:
        self._call("cuMemHostUnregister", c_void_p(address))

    def host_device_pointer(self, address: int) -> int:
        """Where the device sees registered host memory."""
        pointer = ctypes.c_ulonglong()
        self._call("cuMemHostGetDevicePointer_v2", byref(pointer), c_void_p(address), c_uint(0))
        return pointer.value

    def reset_primary_context(self, device: int) -> None:
        """Destroy all that lives in the device's primary context, its errors included."""
        self._call("cuDevicePrimaryCtxReset_v2", c_int(device))

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._lib, function)(*arguments)
        except AttributeError:
            raise CudaCallError(
                function, -1, "CUDA_ERROR_NOT_FOUND", "the driver has no such function"
            ) from None
        if code:
            name = self._text("cuGetErrorName", code) or f"CUDA error {code}"
            description = self._text("cuGetErrorString", code) or "unknown"
            raise CudaCallError(function, code, name, description)

    def _text(self, function: str, code: int) -> str:
        text = c_char_p()
        if getattr(self._lib, function)(c_int(code), byref(text)) or text.value is None:
            return ""
        return text.value.decode()
