"""PyCUDA and libcuda, opened when a device is, and what their errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from edge.cuda.libcuda import CudaCallError, LibCuda
from edge.errors import DeviceLost, OutOfDeviceMemory, RuntimeFault, missing_package

NOT_READY = "CUDA_ERROR_NOT_READY"
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"

STICKY = frozenset(
    {
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "CUDA_ERROR_LAUNCH_FAILED",
        "CUDA_ERROR_LAUNCH_TIMEOUT",
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "CUDA_ERROR_INVALID_ADDRESS_SPACE",
        "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_ASSERT",
        "CUDA_ERROR_ECC_UNCORRECTABLE",
        "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED",
        "CUDA_ERROR_CONTAINED",
        "CUDA_ERROR_TENSOR_MEMORY_LEAK",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUDA_ERROR_MPS_CLIENT_TERMINATED",
        "CUDA_ERROR_UNKNOWN",
    }
)
"""After one of these every call in the context fails: it "leaves the process in an inconsistent state and any
further CUDA work will return the same error. To continue using CUDA, the process must be terminated and
relaunched" (cuda.h, enum CUresult). Making the context anew is an attempt that some drivers allow."""

_ADVICE = {
    "CUDA_ERROR_NO_DEVICE": ("the driver sees no GPU", "check nvidia-smi; in a container: --gpus all"),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": (
        "another process holds the GPU exclusively",
        "end it (nvidia-smi names it), or set the compute mode to default: nvidia-smi -c 0",
    ),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": ("driver and kernel module differ", "restart the machine"),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": ("the driver is too old", "update the NVIDIA driver"),
    "CUDA_ERROR_NOT_INITIALIZED": ("the driver did not start", "check nvidia-smi"),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": ("the kernel was compiled for another GPU", "clear the cache folder"),
    "CUDA_ERROR_ECC_UNCORRECTABLE": ("the GPU's memory is damaged", "restart; replace the GPU if it recurs"),
}


@dataclass(frozen=True, slots=True)
class Bindings:
    """Attributes:
    driver: the module `pycuda.driver`.
    libcuda: what it does not wrap.
    """

    driver: Any
    libcuda: LibCuda


@cache
def bindings() -> Bindings:
    """Open PyCUDA and libcuda and start the driver.

    Raises:
        RuntimeFault: there is no NVIDIA driver, it sees no GPU, or it is older than PyCUDA needs.
        MissingPackage: PyCUDA is not installed.
    """
    libcuda = LibCuda()  # first: without a driver PyCUDA's own import error would be the message
    try:
        import pycuda.driver as driver
    except ModuleNotFoundError as e:
        if e.name not in ("pycuda", "pycuda.driver"):
            raise _broken(e) from e
        raise missing_package("pycuda", "gpu", "running on an NVIDIA GPU") from e
    except ImportError as e:
        raise _broken(e) from e
    return started(Bindings(driver, libcuda))


def _broken(error: ImportError) -> RuntimeFault:
    return RuntimeFault(
        "PyCUDA is installed and cannot be imported",
        str(error),
        "build it again for this CUDA: pip install --force-reinstall --no-binary :all: pycuda",
    )


def started(found: Bindings) -> Bindings:
    """The same bindings after `cuInit`, which fails where driver and GPU do not fit.

    Raises:
        RuntimeFault: no GPU, or the driver is older than the CUDA that PyCUDA was built with.
    """
    with cuda_errors("the NVIDIA driver does not start", found):
        found.driver.init()
        built, has = found.driver.get_version(), supported_cuda(found)
    if has < (built[0], 0):
        raise RuntimeFault(
            f"the NVIDIA driver supports CUDA {has[0]}.{has[1]}",
            f"PyCUDA was built for CUDA {built[0]}.{built[1]}",
            "update the driver, or build PyCUDA with the older CUDA toolkit",
        )
    return found


def supported_cuda(found: Bindings) -> tuple[int, int]:
    """The newest CUDA that the driver supports: (13, 0)."""
    number = int(found.driver.get_driver_version())
    return number // 1000, number % 1000 // 10


@contextmanager
def cuda_errors(what: str, found: Bindings | None = None) -> Iterator[None]:
    """Turn CUDA errors inside the block into EdgeErrors; for set-up, not for every frame.

    Raises:
        DeviceLost: the context is dead.
        OutOfDeviceMemory, RuntimeFault: as the names say.
    """
    found = found or bindings()
    try:
        yield
    except (found.driver.Error, CudaCallError) as e:
        raise fault(what, e, found) from e


def fault(what: str, error: Exception, found: Bindings) -> RuntimeFault:
    """The EdgeError for a CUDA error, with its CUDA name."""
    call, name, description = _identify(error, found)
    why = f"{call}: {name} ({description})" if call else f"{name} ({description})"
    if name in STICKY:
        _, fix = _ADVICE.get(name, ("", "if it recurs, look for it in dmesg and check the GPU's temperature"))
        return DeviceLost(what, why, fix)
    if name == OUT_OF_MEMORY:
        fix = "end other programs on this GPU (nvidia-smi)"
        return OutOfDeviceMemory(what, f"{why}; {_memory(found)}", fix)
    cause, fix = _ADVICE.get(name, ("", ""))
    return RuntimeFault(what, f"{why}; {cause}" if cause else why, fix)


def _identify(error: Exception, found: Bindings) -> tuple[str, str, str]:
    """Call, name and description; PyCUDA's errors hold call and description as text only."""
    if isinstance(error, CudaCallError):
        return error.call, error.name, error.description
    match = re.match(r"(\w+) failed: (.*?)(?: - .*)?$", str(error), re.DOTALL)
    call, description = (match[1], match[2]) if match else ("", str(error))
    return call, found.libcuda.error_names().get(description, "an unlisted CUDA error"), description


def _memory(found: Bindings) -> str:
    try:
        free, total = found.driver.mem_get_info()
    except found.driver.Error:
        return "how much is free is not known"
    return f"{free >> 20} of {total >> 20} MiB are free"
