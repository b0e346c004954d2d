"""A simulated GPU for what is meant for real ones: it proves tests/gpu and `make gpu-check` without any."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kernel_on_host
import numpy as np
import pytest
from fakes.cuda import FakeCuda
from fakes.ort import FakeOnnxRuntime
from fakes.tensorrt import FakeTensorRT

for folder in (Path(__file__).parents[2], Path(__file__).parents[2] / "benchmarks"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from gpu.synthetic import ENTRY, on_processor  # noqa: E402

import edge.machine  # noqa: E402

TENSORRT = "10.3.0"
SECONDS = 5e-4
"""What an execution of the synthetic engine takes here."""


def install(patch: pytest.MonkeyPatch, cuda: FakeCuda, cache: Path, tensorrt: bool = True) -> None:
    """PyCUDA, a compiler, ONNX Runtime's CUDA provider and perhaps TensorRT are here from now on."""
    cuda.install(patch)
    kernel_on_host.install(cuda, patch, cache)
    cuda.register_kernel(ENTRY, _run, _accesses)
    FakeOnnxRuntime(cuda).install(patch)
    packages = {"pycuda": "2026.1"}
    if tensorrt:
        FakeTensorRT(cuda, TENSORRT).install(patch)
        packages["tensorrt"] = TENSORRT
    really = edge.machine.installed_packages
    patch.setattr(edge.machine, "installed_packages", lambda: {**really(), **packages})
    patch.setattr("edge.build.finish.in_child", _in_this_process)


def _in_this_process(work: Any, *args: Any, progress: Any = None) -> tuple[Any, int]:
    """A child process would not know the simulated TensorRT."""
    return work(*args, progress=progress), 0


def _run(arguments: Sequence[int], grid: Sequence[int], block: Sequence[int]) -> None:
    source, out, rows, in_words, out_words, rounds = arguments
    time.sleep(SECONDS)
    tensor = _words(source, rows * in_words).reshape(rows, in_words)
    _words(out, rows * out_words)[:] = on_processor(tensor, out_words, rounds).ravel()


def _words(address: int, count: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint32 * count).from_address(address))


def _accesses(arguments: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    source, out, rows, in_words, out_words, _ = arguments
    return [(source, 4 * rows * in_words)], [(out, 4 * rows * out_words)]
