"""Whether an engine can be finished on this machine, and what is missing; judged by what is installed."""

from __future__ import annotations

from dataclasses import dataclass

from edge.backends import backend
from edge.backends.trt_api import PACKAGES, minor
from edge.errors import EdgeError, RuntimeFault, StoreError, UsageError
from edge.machine import Gpu, Machine
from edge.targets import Target, for_gpu, format_capability

RUNTIMES = ("tensorrt", "tensorrt_rtx")
"""What compiles and runs engines on a GPU that is here; TensorRT first, which times its kernels on it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where an engine is finished.

    Attributes:
        gpu: of this machine.
        runtime: what compiles and runs here, a name in `edge.backends.BACKENDS`.
        version: of its package.
    """

    gpu: Gpu
    runtime: str
    version: str

    @property
    def builder(self) -> str:
        return f"{self.runtime} {self.version}"


def gpu_of(target: Target, machine: Machine) -> Gpu | None:
    """The first GPU of this machine that engines of this target run on."""
    for gpu in machine.gpus:
        try:
            wanted = for_gpu(gpu.compute_capability, {target.name: target})
        except UsageError:
            continue
        if wanted is target:
            return gpu
    return None


def find_site(target: Target, machine: Machine) -> Site | None:
    """What finishes engines of this target on this machine; None if nothing does, `obstacle` says why."""
    gpu = gpu_of(target, machine)
    if gpu is None:
        return None
    for runtime in RUNTIMES:
        if not _runtime_obstacle(runtime, target, machine):
            return Site(gpu, runtime, machine.packages[PACKAGES[runtime][0]])
    return None


def obstacle(target: Target, machine: Machine) -> EdgeError | None:
    """Why engines of this target cannot be finished on this machine; None if they can."""
    gpu = gpu_of(target, machine)
    if gpu is None:
        here = ", ".join(f"{g.name} ({format_capability(g.compute_capability)})" for g in machine.gpus)
        return StoreError(
            f"engines for {target.name} cannot be finished on this machine",
            f"they need compute capability {target.capability_text}, here is {here or 'no NVIDIA GPU'}",
            f"finish them on the device itself, for example {target.devices[0]}",
        )
    why = {runtime: _runtime_obstacle(runtime, target, machine) for runtime in RUNTIMES}
    if not all(why.values()):
        return None
    return RuntimeFault(
        f"engines for {target.name} cannot be compiled and run on {gpu.name} yet",
        "; ".join(text for runtime, text in why.items() if runtime in target.builders),
        _how_to_get(target, machine),
    )


def _runtime_obstacle(runtime: str, target: Target, machine: Machine) -> str:
    """Why this runtime cannot finish engines of this target here; "" if it can."""
    if runtime not in target.builders:
        return f"{runtime} does not know this GPU"
    if missing := backend(runtime).unavailable(machine):
        return missing
    version, least = machine.packages[PACKAGES[runtime][0]], target.min_tensorrt or (0, 0)
    if runtime == "tensorrt" and minor(version) < least:
        return (
            f"TensorRT {version} does not know {target.name}, {'.'.join(map(str, least))} or newer is needed"
        )
    return ""


def _how_to_get(target: Target, machine: Machine) -> str:
    """Commands that bring what a GPU needs."""
    if machine.jetson:
        tensorrt = "install JetPack 6.2 or newer (sudo apt install nvidia-jetpack), which brings TensorRT"
    elif "tensorrt_rtx" in target.builders and machine.is_x86:
        tensorrt = "pip install '.[rtx]' (TensorRT-RTX) or '.[trt]' (TensorRT)"
    else:
        tensorrt = "pip install '.[trt]' (TensorRT)"
    return f"{tensorrt}; pip install '.[gpu]' (PyCUDA; it needs nvcc); then run this again"
