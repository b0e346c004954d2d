"""Tests for a machine with an NVIDIA GPU; elsewhere they are skipped, with the reason.

    pytest tests/gpu                            on this machine's GPU
    EDGE_TEST_GPU=simulated pytest tests/gpu    on the simulated one, which tests the tests

`EDGE_TEST_GPU_INDEX` chooses among several.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cuda.device import Device, open_device
from edge.errors import EdgeError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # the synthetic engine is there

from on_device import INDEX, SIMULATED

pytest.register_assert_rewrite("contract.test_backends")


@functools.cache
def absent() -> str:
    """Why there is no GPU that can be used; "" if there is one."""
    try:
        open_device(INDEX).close()
    except EdgeError as e:
        return str(e)
    return ""


@pytest.fixture(scope="module", autouse=True)
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The machine's GPU, or the simulated one with all its rules."""
    if not SIMULATED:
        if absent():
            pytest.skip(absent())
        yield
        return
    import simulated_gpu
    from fakes.cuda import FakeCuda

    with FakeCuda(seed=7) as cuda, pytest.MonkeyPatch.context() as patch:
        simulated_gpu.install(patch, cuda, tmp_path_factory.mktemp("cache"))
        yield
        cuda.assert_clean()


@pytest.fixture
def device(gpu: None) -> Iterator[Device]:
    found = open_device(INDEX)
    yield found
    found.close()
