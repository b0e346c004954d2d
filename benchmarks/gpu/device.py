"""What is here: driver, GPU, packages, compilers; whether copies, streams and kernels work, and how fast."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from gpu.report import Section
from gpu.setting import Setting, or_say_why

if TYPE_CHECKING:
    from edge.cuda.device import Device, Stream

PACKAGES = (
    "pycuda", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "onnxruntime", "onnxruntime-gpu",
    "numpy", "onnx", "opencv-python", "opencv-python-headless", "pydantic", "ml-dtypes", "pytest",
)  # fmt: skip

SMI_FIELDS = (
    "driver_version", "vbios_version", "persistence_mode", "compute_mode", "pstate", "temperature.gpu",
    "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "utilization.gpu",
    "memory.used", "pcie.link.gen.current", "pcie.link.width.current", "mig.mode.current",
)  # fmt: skip

COPY_BYTES = 64 << 20


def check(setting: Setting, found: Section) -> None:
    """Facts for the head of the report, then the device's own basics."""
    found.details |= facts(setting.gpu)
    with or_say_why(found, "everything that needs CUDA"):
        from edge.cuda.device import open_device

        start = time.perf_counter()
        device = open_device(setting.gpu)
        found.note("context opened in", 1e3 * (time.perf_counter() - start), "ms")
        try:
            found.details["cuda"] = about(device)
            found.note("free memory", device.free_memory() / 2**20, "MiB")
            copies(device, found, int(COPY_BYTES * min(1.0, setting.pace)))
            priorities(device, found)
            compile_kernel(device, found)
        finally:
            device.close()


def facts(index: int) -> dict[str, Any]:
    """Machine, packages and what nvidia-smi tells; needs nothing that is not in the standard library."""
    from edge.machine import detect

    machine = detect()
    return {
        "device": next((gpu.name for gpu in machine.gpus[index : index + 1]), ""),
        "machine": machine.label,
        "arch": machine.arch,
        "jetson": machine.jetson,
        "l4t": machine.l4t,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages(),
        "compilers": compilers(),
        "nvidia_smi": nvidia_smi(index),
        "problems": list(machine.problems),
    }


def packages() -> dict[str, str]:
    """Installed versions, and what ONNX Runtime can use."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for module in ("tensorrt", "tensorrt_rtx"):  # JetPack's have no distribution in a virtual environment
        try:
            found.setdefault(module.replace("_", "-"), __import__(module).__version__)
        except Exception as e:
            if not isinstance(e, ModuleNotFoundError):
                found[f"{module} (import)"] = f"fails: {e}"
    try:
        import onnxruntime

        found["onnxruntime providers"] = ", ".join(onnxruntime.get_available_providers())
    except ImportError:
        pass
    return found


def compilers() -> list[str]:
    """What can compile kernels here, and why others cannot."""
    try:
        from edge.cuda import kernels

        problems: list[str] = []
        return [compiler.name for compiler in kernels.compilers(problems)] + problems
    except ImportError as e:
        return [str(e)]


def nvidia_smi(index: int) -> dict[str, str]:
    """Clocks, power, modes: each field alone, because one that a driver does not know spoils the others."""
    found: dict[str, str] = {}
    for field in SMI_FIELDS:
        command = ["nvidia-smi", f"--id={index}", f"--query-gpu={field}", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return found  # not there (Jetson), or about to hang
        if done.returncode == 0 and "N/A" not in done.stdout:
            found[field] = done.stdout.strip()
    return found


def about(device: Device) -> dict[str, Any]:
    """The GPU as CUDA describes it."""
    from edge.cuda.driver import bindings

    built = bindings().driver.get_version()
    return {
        "name": device.name,
        "compute_capability": "{}.{}".format(*device.compute_capability),
        "integrated": device.integrated,
        "total_memory_mib": device.total_memory >> 20,
        "driver_cuda": "{}.{}".format(*device.driver_cuda),
        "pycuda_built_for_cuda": ".".join(map(str, built)),
    }


def copies(device: Device, found: Section, nbytes: int) -> None:
    """A page-locked block there and back: it must arrive whole; GB/s of each way."""
    import numpy as np

    block, stream = device.exchange((nbytes,), np.uint8), device.stream()
    begin, end = device.event(), device.event()
    pattern = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    block.host[...] = pattern

    def timed(copy: Callable[[Stream], None]) -> float:
        begin.record(stream)
        copy(stream)
        end.record(stream)
        end.synchronize()
        return end.since(begin)

    try:
        up = [timed(block.upload) for _ in range(5)]
        if not device.integrated:
            block.host[...] = 0
        down = [timed(block.download) for _ in range(5)]
        found.expect("bytes of a round trip that differ", int(np.count_nonzero(block.host != pattern)), 0)
    finally:
        for resource in (block, stream, begin, end):
            resource.free()
    for way, times in {"host → device": up, "device → host": down}.items():
        if device.integrated:
            found.note(f"copy {way}", "none: memory is shared")
        else:
            found.note(f"copy {way}", nbytes / max(statistics.median(times), 1e-9) / 1e9, "GB/s")


def priorities(device: Device, found: Section) -> None:
    """Streams that execute engines ask to be urgent; drivers before CUDA 12 do not grant it afterwards."""
    from edge.cuda.device import URGENT

    stream = device.stream(URGENT)
    found.note("stream priority asked for, granted", f"{URGENT}, {stream.priority}")
    stream.free()


def compile_kernel(device: Device, found: Section) -> None:
    with or_say_why(found, "the preprocessing kernel"):
        from edge.cuda import kernels

        start = time.perf_counter()
        kernels.load(device)
        found.note("preprocessing kernel ready in", 1e3 * (time.perf_counter() - start), "ms")
