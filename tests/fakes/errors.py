"""CUDA's error codes as the driver names and describes them, and PyCUDA's exceptions for them.

Names and codes: cuda.h 13.0, enum CUresult. Descriptions: cuGetErrorString of the same release.
"""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    code: int
    name: str
    text: str


_TABLE = """
1    INVALID_VALUE                   invalid argument
2    OUT_OF_MEMORY                   out of memory
3    NOT_INITIALIZED                 initialization error
4    DEINITIALIZED                   driver shutting down
34   STUB_LIBRARY                    CUDA driver is a stub library
46   DEVICE_UNAVAILABLE              CUDA-capable device(s) is/are busy or unavailable
100  NO_DEVICE                       no CUDA-capable device is detected
101  INVALID_DEVICE                  invalid device ordinal
200  INVALID_IMAGE                   device kernel image is invalid
201  INVALID_CONTEXT                 invalid device context
209  NO_BINARY_FOR_GPU               no kernel image is available for execution on the device
214  ECC_UNCORRECTABLE               uncorrectable ECC error encountered
218  INVALID_PTX                     a PTX JIT compilation failed
222  UNSUPPORTED_PTX_VERSION         the provided PTX was compiled with an unsupported toolchain.
400  INVALID_HANDLE                  invalid resource handle
401  ILLEGAL_STATE                   the operation cannot be performed in the present state
500  NOT_FOUND                       named symbol not found
600  NOT_READY                       device not ready
700  ILLEGAL_ADDRESS                 an illegal memory access was encountered
701  LAUNCH_OUT_OF_RESOURCES         too many resources requested for launch
702  LAUNCH_TIMEOUT                  the launch timed out and was terminated
709  CONTEXT_IS_DESTROYED            context is destroyed
710  ASSERT                          device-side assert triggered
712  HOST_MEMORY_ALREADY_REGISTERED  part or all of the requested memory range is already mapped
713  HOST_MEMORY_NOT_REGISTERED      pointer does not correspond to a registered memory region
714  HARDWARE_STACK_ERROR            hardware stack error
715  ILLEGAL_INSTRUCTION             an illegal instruction was encountered
716  MISALIGNED_ADDRESS              misaligned address
717  INVALID_ADDRESS_SPACE           operation not supported on global/shared address space
718  INVALID_PC                      invalid program counter
719  LAUNCH_FAILED                   unspecified launch failure
801  NOT_SUPPORTED                   operation not supported
802  SYSTEM_NOT_READY                system not yet initialized
803  SYSTEM_DRIVER_MISMATCH          system has unsupported display driver / cuda driver combination
804  COMPAT_NOT_SUPPORTED_ON_DEVICE  forward compatibility was attempted on non supported HW
900  STREAM_CAPTURE_UNSUPPORTED      operation not permitted when stream is capturing
901  STREAM_CAPTURE_INVALIDATED      operation failed due to a previous error during capture
902  STREAM_CAPTURE_MERGE            operation would result in a merge of separate capture sequences
903  STREAM_CAPTURE_UNMATCHED        capture was not ended in the same stream as it began
904  STREAM_CAPTURE_UNJOINED         capturing stream has unjoined work
905  STREAM_CAPTURE_ISOLATION        dependency created on uncaptured work in another stream
907  CAPTURED_EVENT                  operation not permitted on an event last recorded in a capturing stream
908  STREAM_CAPTURE_WRONG_THREAD     attempt to terminate a thread-local capture sequence from another thread
999  UNKNOWN                         unknown error
"""

RESULTS = {
    result.name: result
    for code, name, text in (line.split(maxsplit=2) for line in _TABLE.strip().splitlines())
    for result in [Result(int(code), f"CUDA_ERROR_{name}", text)]
}

STICKY = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        *("ECC_UNCORRECTABLE", "ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "ASSERT", "HARDWARE_STACK_ERROR"),
        *("ILLEGAL_INSTRUCTION", "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC"),
        "LAUNCH_FAILED",
    )
)
"""After one of these the context is dead: every later call returns it again."""


class Error(Exception):
    """pycuda.driver.Error, with what the text is made of."""

    call = ""
    result = RESULTS["CUDA_ERROR_UNKNOWN"]


class MemoryError(Error):
    """pycuda.driver.MemoryError."""


class LogicError(Error):
    """pycuda.driver.LogicError."""


class LaunchError(Error):
    """pycuda.driver.LaunchError."""


class RuntimeError(Error):
    """pycuda.driver.RuntimeError."""


_CLASSES = {
    "LAUNCH_FAILED": LaunchError,
    "LAUNCH_OUT_OF_RESOURCES": LaunchError,
    "LAUNCH_TIMEOUT": LaunchError,
    "OUT_OF_MEMORY": MemoryError,
    "NO_DEVICE": RuntimeError,
    "NO_BINARY_FOR_GPU": RuntimeError,
    "NOT_READY": RuntimeError,
    "ECC_UNCORRECTABLE": RuntimeError,
    "UNKNOWN": Error,
}
"""Which exception PyCUDA raises (wrap_cudadrv.cpp, translate_cuda_error); LogicError for all others."""


def failure(call: str, name: str, detail: str = "") -> Error:
    """The exception for a call that returned CUDA_ERROR_`name`, with PyCUDA's text."""
    result = RESULTS[f"CUDA_ERROR_{name.removeprefix('CUDA_ERROR_')}"]
    kind = _CLASSES.get(result.name.removeprefix("CUDA_ERROR_"), LogicError)
    error = kind(f"{call} failed: {result.text}" + (f" - {detail}" if detail else ""))
    error.call, error.result = call, result
    return error
