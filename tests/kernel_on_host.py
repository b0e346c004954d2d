"""`preprocess.cu` compiled as C++: the kernel's own text runs on the processor, thread by thread.

`call` runs one entry point on addresses of this process, `HostDevice` lets `PicturePreprocess` do so, and
`register` offers all entry points to the simulated device.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.cuda.kernels import ARGUMENTS, SOURCE, PreprocessKernel
from edge.types import Array

FORMATS = ("bgr8", "gray8", "gray16", "nv12")
ENTRIES = tuple(
    f"preprocess_{format}_{channels}x{bits}"
    for format in FORMATS
    for channels in (1, 3)
    for bits in (8, 16, 32)
)
ABSENT = (
    "" if shutil.which("g++") else "g++ is not installed: the kernel cannot be compiled for the processor"
)

_MEMBERS = (
    "pixels", "chroma", "levels", "out", "columns", "rows", "table",
    "pitch", "chroma_pitch", "left", "top", "width", "height", "out_width", "out_height",
    "reversed", "pad", "picture_width", "picture_height",
)  # fmt: skip
_TYPES = {"P": ctypes.c_void_p, "i": ctypes.c_int}

Span = tuple[int, int]
"""Address and bytes."""


class Job(ctypes.Structure):
    """The kernel's argument."""

    _fields_ = [(name, _TYPES[code]) for name, code in zip(_MEMBERS, ARGUMENTS, strict=True)]


@functools.cache
def library(*flags: str) -> ctypes.CDLL:
    """The compiled kernel, for the rest of the process; `flags` are further ones for g++."""
    folder = Path(tempfile.mkdtemp(prefix="edge-kernel-"))
    try:
        source = folder / "host.cpp"
        source.write_text(_source())
        built = folder / "kernel.so"
        command = ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", *flags]
        subprocess.run(
            [*command, "-shared", "-fPIC", "-o", built, source], check=True, env={**os.environ, "LC_ALL": "C"}
        )
        return ctypes.CDLL(str(built))
    finally:
        shutil.rmtree(folder)


def _source() -> str:
    """The kernel behind the header that stands for CUDA, and one host function for each entry point."""
    header = Path(__file__).with_name("host_cuda.h")
    runners = [
        f'extern "C" void run_{name}(const Job* job, Index grid, Index block)'
        f" {{ run_grid({name}, *job, grid, block); }}"
        for name in ENTRIES
    ]
    return "\n".join([f'#include "{header}"', f'#include "{SOURCE}"', *runners])


class _Index(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_int)]


def call(name: str, arguments: Sequence[int], grid: Sequence[int], block: Sequence[int]) -> None:
    """Run one entry point; arguments as in a launch on the device."""
    run = getattr(library(), f"run_{name}")
    run.restype = None
    run(ctypes.byref(Job(*arguments)), _Index(*grid[:2]), _Index(*block[:2]))


def accesses(name: str, arguments: Sequence[int]) -> tuple[list[Span], list[Span]]:
    """The memory that a launch reads, and that it writes."""
    job = dict(zip(_MEMBERS, arguments, strict=True))
    _, format, kind = name.split("_")
    channels, value_bytes = int(kind[0]), int(kind[2:]) // 8
    width, height = job["picture_width"], job["picture_height"]
    row = width * {"bgr8": 3, "gray16": 2}.get(format, 1)
    reads = [
        (job["pixels"], (height - 1) * job["pitch"] + row),
        (job["columns"], job["width"] * 16),
        (job["rows"], job["height"] * 16),
        (job["table"], channels * 256 * value_bytes),
    ]
    if format == "nv12":
        reads.append((job["chroma"], (height // 2 - 1) * job["chroma_pitch"] + width))
    if format == "gray16":
        reads.append((job["levels"], 65536))
    return reads, [(job["out"], channels * job["out_width"] * job["out_height"] * value_bytes)]


def register(cuda: Any) -> None:
    """Offer the entry points to a simulated device (`fakes.cuda.FakeCuda`)."""
    library()
    for name in ENTRIES:
        cuda.register_kernel(name, functools.partial(call, name), functools.partial(accesses, name))


def install(cuda: Any, monkeypatch: Any, cache: Path) -> None:
    """The same, and `edge.cuda.kernels` takes this for its compiler, which keeps its work in `cache`."""
    register(cuda)
    monkeypatch.setenv("EDGE_CACHE", str(cache))
    monkeypatch.setattr("edge.cuda.kernels.compilers", lambda problems: iter([_HostCompiler()]))


class _HostCompiler:
    name = "host"

    def compile(self, source: str, arch: str) -> bytes:
        return f"{arch}: functions of this process".encode()


class HostDevice:
    """A device whose memory is this process's and whose streams do everything at once."""

    def __init__(self) -> None:
        self.kernel = PreprocessKernel(self)
        self.raw = self
        self.allocations = 0

    def exchange(self, shape: tuple[int, ...], dtype: Any, copied: bool) -> HostExchange:
        self.allocations += 1
        return HostExchange(np.full(shape, -1, dtype))

    def get_function(self, name: str) -> HostFunction:
        return HostFunction(name)

    def synchronize(self) -> None:
        """Nothing is ever in flight."""


class HostExchange:
    def __init__(self, host: Array) -> None:
        self.host, self.address = host, host.ctypes.data

    def upload(self, stream: Any) -> None:
        """It is there already."""

    def free(self) -> None:
        """Python does it."""


class HostFunction:
    def __init__(self, name: str) -> None:
        self.name, self.format = name, ""

    def prepare(self, types: Sequence[str]) -> None:
        self.format = "".join(types)

    def prepared_async_call(self, grid: Any, block: Any, stream: Any, *arguments: int) -> None:
        struct.pack(self.format, *arguments)  # as PyCUDA does: a value out of range is an error
        call(self.name, arguments, grid, block)
