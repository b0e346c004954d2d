"""Memory of a real device: exchanges, page-locked frames, what closing leaves, and running out of it."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import numpy as np
import pytest
from on_device import INDEX, SIMULATED, engine_of

from edge.cuda.device import URGENT, Device, open_device
from edge.errors import OutOfDeviceMemory, RuntimeFault

pytestmark = pytest.mark.gpu

SLACK = 4 << 20
"""Drivers give memory back in blocks, and keep some for themselves."""


@pytest.mark.parametrize("nbytes", [1, 4096, 1 << 20])
@pytest.mark.parametrize("write_combined", [False, True])
@pytest.mark.parametrize("copied", [False, True])
def test_what_is_exchanged_comes_back(
    device: Device, nbytes: int, write_combined: bool, copied: bool
) -> None:
    exchange = device.exchange((nbytes,), np.uint8, write_combined, copied=copied)
    stream = device.stream()
    pattern = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    exchange.host[...] = pattern
    exchange.upload(stream)
    stream.synchronize()
    if copied or not device.integrated:
        exchange.host[...] = 0
    exchange.download(stream)
    stream.synchronize()
    np.testing.assert_array_equal(exchange.host, pattern)
    stream.free()
    exchange.free()


def test_rows_of_an_exchange_travel_alone(device: Device) -> None:
    exchange, stream = device.exchange((4, 100), np.float32, copied=True), device.stream()
    exchange.host[...] = 1
    exchange.upload(stream)
    stream.synchronize()
    exchange.host[...] = 2
    exchange.upload(stream, 2)
    stream.synchronize()
    exchange.host[...] = 0
    exchange.download(stream, 3)
    stream.synchronize()
    assert exchange.host[:, 0].tolist() == [2, 2, 1, 0]
    stream.free()
    exchange.free()


def test_frames_are_page_locked_and_come_back_to_their_pool(device: Device) -> None:
    pool, shape = device.frames, (48, 64, 3)
    lender = pool.lend(6)
    lender(shape)
    pool.provide_wanted()
    frames = [lender(shape) for _ in range(6)]
    assert all(pool.holds(frame) for frame in frames)
    assert not pool.holds(lender(shape)), "more than there are"
    addresses = {frame.ctypes.data for frame in frames}
    del frames
    assert lender(shape).ctypes.data in addresses


def test_a_page_locked_frame_reaches_the_device(device: Device) -> None:
    pool, shape = device.frames, (50, 70, 3)
    lender = pool.lend(2)
    lender(shape)
    pool.provide_wanted()
    frame, stream = lender(shape), device.stream()
    frame[...] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    exchange = device.exchange((frame.nbytes,), np.uint8, copied=True)
    exchange.upload_from(frame, stream)
    exchange.download(stream)
    stream.synchronize()
    np.testing.assert_array_equal(exchange.host, frame.ravel())
    stream.free()
    exchange.free()


@pytest.mark.parametrize("order", list(itertools.permutations(("slot", "engine", "device"))))
def test_closing_in_any_order_leaves_the_memory_as_it_was(
    device: Device, tmp_path: Path, order: tuple[str, ...]
) -> None:
    def cycle() -> None:
        engine, other = engine_of("synthetic", tmp_path, device), open_device(INDEX)
        slots = [engine.slot(), engine.slot()]
        slots[0].submit()  # in flight while it is closed
        ends = {"slot": slots[1].free, "engine": engine.close, "device": other.close}  # type: ignore[attr-defined]
        for name in order:
            ends[name]()

    cycle()  # what the driver keeps for good it takes now
    gc.collect()
    before = device.free_memory()
    for _ in range(3):
        cycle()
    gc.collect()
    assert device.free_memory() >= before - SLACK


def test_too_much_is_out_of_memory_with_its_cuda_name_and_harms_nothing(device: Device) -> None:
    small, stream = device.exchange((1000,), np.uint8), device.stream()
    with pytest.raises(OutOfDeviceMemory, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        device.device_array((device.total_memory + (64 << 30),), np.uint8)
    assert "MiB are free" in caught.value.why and caught.value.fix
    small.host[...] = 5
    small.upload(stream)
    small.download(stream)
    stream.synchronize()
    assert (small.host == 5).all()
    stream.free()
    small.free()


@pytest.mark.skipif(SIMULATED, reason="the simulated driver does not look into kernels")
def test_what_is_no_kernel_is_refused_by_name(device: Device) -> None:
    with pytest.raises(RuntimeFault, match="CUDA_ERROR_"):
        device.module(bytes(4096))


def test_an_urgent_stream_is_urgent_or_says_that_it_is_not(device: Device) -> None:
    plain, urgent = device.stream(), device.stream(URGENT)
    assert plain.priority == 0 and urgent.priority <= 0
    for stream in (plain, urgent):
        stream.free()


def test_a_gpu_that_is_not_there_is_named(device: Device) -> None:
    with pytest.raises(RuntimeFault, match="no GPU 99"):
        open_device(99)
