"""The simulated CUDA device: how its work runs, and which mistakes of order, reach and end it tells of.

Other tests trust it to find ordering bugs, so each rule is broken here once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_bench import Bench, told
from fakes import errors
from fakes.cuda import FakeCuda


@pytest.fixture(params=[False, True], ids=["no jitter", "jitter"])
def cuda(request: pytest.FixtureRequest) -> Iterator[FakeCuda]:
    with FakeCuda(seed=1, jitter=request.param) as fake:
        yield fake


@pytest.fixture
def bench(cuda: FakeCuda) -> Bench:
    return Bench(cuda)


# Streams, events, memory: like a real device


def test_work_of_a_stream_runs_in_order_and_events_order_streams(bench: Bench, cuda: FakeCuda) -> None:
    bench.copy_in(bench.one)
    bench.event.record(bench.one)
    bench.two.wait_for_event(bench.event)
    bench.copy_out(bench.two)
    bench.two.synchronize()
    assert bench.back.tolist() == [1, 2, 3, 4]
    assert [(t.name, t.stream) for t in cuda.trace] == [("copy in", 1), ("copy out", 2)]
    assert cuda.trace[0].end <= cuda.trace[1].start
    bench.finish()
    cuda.assert_clean()


def test_two_streams_really_work_at_the_same_time(bench: Bench, cuda: FakeCuda) -> None:
    meeting = threading.Barrier(2, timeout=10)
    cuda.register_kernel("meet", lambda args, grid, block: meeting.wait(), lambda args: ((), ()))
    meet = bench.driver.module_from_buffer(b"cubin").get_function("meet").prepare("")
    for stream in (bench.one, bench.two):
        meet.prepared_async_call((1, 1), (1, 1, 1), stream)
    bench.finish()
    cuda.assert_clean()


def test_an_enqueued_call_returns_before_its_work_is_done(bench: Bench, cuda: FakeCuda) -> None:
    with cuda.stopped():
        bench.copy_in()
        bench.event.record(bench.one)
        assert not bench.one.is_done()
        assert not bench.event.query()
    bench.event.synchronize()
    assert bench.event.query()
    assert bench.one.is_done()


def test_an_event_that_was_never_recorded_is_complete(bench: Bench) -> None:
    assert bench.event.query()
    bench.event.synchronize()
    bench.one.wait_for_event(bench.event)
    bench.one.synchronize()


def test_a_wait_is_for_the_record_made_last_before_it(bench: Bench, cuda: FakeCuda) -> None:
    bench.event.record(bench.one)
    bench.two.wait_for_event(bench.event)
    with cuda.stopped():
        bench.copy_in(bench.one)
        bench.event.record(bench.one)  # later than the wait: no order for what follows on two
        bench.copy_out(bench.two)
    bench.finish()
    assert told(cuda, "device memory", "copy in on stream 1", "copy out on stream 2", "no order")


def test_events_tell_the_time_between_them_once_they_have_happened(bench: Bench, cuda: FakeCuda) -> None:
    late = bench.driver.Event()
    with pytest.raises(errors.LogicError, match="cuEventElapsedTime failed: invalid resource handle"):
        late.time_since(bench.event)
    bench.event.record(bench.one)
    cuda.register_kernel("sleep", lambda args, grid, block: time.sleep(0.003), lambda args: ((), ()))
    sleep = bench.driver.module_from_buffer(b"cubin").get_function("sleep").prepare("")
    with cuda.stopped():
        sleep.prepared_async_call((1, 1), (1, 1, 1), bench.one)
        late.record(bench.one)
        with pytest.raises(errors.RuntimeError, match="device not ready"):
            late.time_since(bench.event)
    late.synchronize()
    assert late.time_since(bench.event) >= 3.0
    assert bench.event.time_since(late) == -late.time_since(bench.event)


def test_page_locked_memory_is_the_base_of_its_array(bench: Bench) -> None:
    array = bench.driver.pagelocked_empty((2, 3), np.float16, "C", 0)
    assert (array.shape, array.dtype, array.flags.c_contiguous) == ((2, 3), np.float16, True)
    assert array[0].base is array
    array.base.free()


def test_memory_is_counted_and_limited(bench: Bench, cuda: FakeCuda) -> None:
    free, total = bench.driver.mem_get_info()
    assert (total - free, total) == (16, cuda.total_memory)
    with pytest.raises(errors.MemoryError, match="cuMemAlloc failed: out of memory"):
        bench.driver.mem_alloc(total)
    assert +cuda.allocations == {"device": 2, "pinned": 2, "stream": 2, "event": 1}


def test_memory_that_only_the_collector_still_holds_is_found_when_it_is_needed() -> None:
    with FakeCuda(total_memory=1000) as cuda:
        bench = Bench(cuda)
        circle: dict[str, Any] = {"memory": bench.driver.mem_alloc(900)}
        circle["self"] = circle
        del circle
        bench.driver.mem_alloc(900).free()
        bench.finish()
        cuda.assert_clean()


def test_set_fills_device_memory(bench: Bench, cuda: FakeCuda) -> None:
    bench.driver.memset_d8_async(bench.device, 0, 16, bench.one)
    bench.copy_out()
    bench.finish()
    cuda.assert_clean()


# What the host may not do


def test_who_reads_before_the_wait_reads_poison_however_fast_the_copy_was(bench: Bench) -> None:
    bench.copy_in()
    bench.copy_out()
    while bench.cuda.trace[-1:] == [] or bench.cuda.trace[-1].name != "copy out":
        time.sleep(1e-3)
    assert (bench.back < -4e8).all()
    bench.one.synchronize()
    assert bench.back.tolist() == [1, 2, 3, 4]


def test_a_source_refilled_before_its_copy_ran_is_told(bench: Bench, cuda: FakeCuda) -> None:
    with cuda.stopped():
        bench.copy_in()
        bench.host[:] = 9
    bench.finish()
    assert told(cuda, "the host changed page-locked memory 1", "copy in on stream 1")


def test_a_source_refilled_before_the_wait_is_told_however_fast_the_copy_was(
    bench: Bench, cuda: FakeCuda
) -> None:
    bench.copy_in()
    while not cuda.trace:
        time.sleep(1e-3)
    bench.host[:] = 9
    bench.finish()
    assert told(cuda, "the host changed page-locked memory 1")


def test_a_source_may_be_refilled_after_the_wait(bench: Bench, cuda: FakeCuda) -> None:
    for value in range(20):
        bench.host[:] = value
        bench.copy_in()
        bench.copy_out()
        bench.one.synchronize()
        assert (bench.back == value).all()
    bench.finish()
    cuda.assert_clean()


def test_a_destination_the_host_writes_in_flight_is_told(bench: Bench, cuda: FakeCuda) -> None:
    bench.copy_in()
    bench.copy_out()
    bench.back[0] = 7
    bench.finish()
    assert told(cuda, "the host wrote into page-locked memory 2", "copy out")


def test_ordinary_memory_in_an_asynchronous_copy_is_told_unless_allowed(bench: Bench, cuda: FakeCuda) -> None:
    bench.driver.memcpy_htod_async(bench.device, np.ones(4, np.float32), bench.one)
    assert told(cuda, "cuMemcpyHtoDAsync with ordinary memory")
    cuda.violations.clear()
    cuda.allow_pageable = True
    ordinary = np.empty(4, np.float32)
    bench.driver.memcpy_dtoh_async(ordinary, bench.device, bench.one)
    assert ordinary.tolist() == [1, 1, 1, 1]
    bench.finish()
    cuda.assert_clean()


# Races: found by order, not by luck


def test_a_missing_wait_is_told_whatever_the_timing_was(bench: Bench, cuda: FakeCuda) -> None:
    bench.copy_in(bench.one)
    while not cuda.trace:  # by luck the copy is over
        time.sleep(1e-3)
    bench.copy_out(bench.two)
    bench.finish()
    assert told(cuda, "copy in on stream 1 and copy out on stream 2 have no order")


def test_what_the_host_waited_for_is_ordered_for_all_that_follows(bench: Bench, cuda: FakeCuda) -> None:
    bench.copy_in(bench.one)
    bench.one.synchronize()
    bench.copy_out(bench.two)
    bench.finish()
    cuda.assert_clean()


def test_two_streams_may_read_the_same_memory(bench: Bench, cuda: FakeCuda) -> None:
    other, back = bench.driver.mem_alloc(16), bench.pinned()
    bench.copy_in(bench.one)
    bench.one.synchronize()
    bench.copy_out(bench.one)
    bench.driver.memcpy_dtoh_async(back, bench.device, bench.two)
    bench.driver.memcpy_htod_async(other, bench.host, bench.two)
    bench.two.synchronize()
    other.free()
    back.base.free()
    bench.finish()
    cuda.assert_clean()


def test_reading_what_nothing_wrote_is_told(bench: Bench, cuda: FakeCuda) -> None:
    bench.driver.memcpy_htod_async(bench.device, bench.host[:2], bench.one)
    bench.copy_out()
    bench.finish()
    assert told(cuda, "copy out", "reads 8 bytes", "that nothing wrote")


# Ends: freed once, not too early, not too late


def test_memory_freed_in_flight_is_told(bench: Bench, cuda: FakeCuda) -> None:
    temporary = bench.pinned()
    temporary[:] = 5
    bench.driver.memcpy_htod_async(bench.device, temporary, bench.one)
    del temporary  # PyCUDA keeps no reference
    assert told(cuda, "page-locked memory 3", "was freed while copy in on stream 1 may still use it")


def test_device_memory_freed_in_flight_is_told(bench: Bench, cuda: FakeCuda) -> None:
    bench.copy_in()
    bench.device.free()
    assert told(cuda, "device memory 1", "freed while copy in")


def test_freeing_twice_is_told(bench: Bench, cuda: FakeCuda) -> None:
    bench.device.free()
    with pytest.raises(errors.LogicError, match="device_allocation::free failed: invalid resource handle"):
        bench.device.free()
    assert told(cuda, "device memory 1", "freed twice")


def test_using_freed_memory_is_told(bench: Bench, cuda: FakeCuda) -> None:
    address = int(bench.device)
    bench.device.free()
    bench.driver.memcpy_htod_async(address, bench.host, bench.one)
    assert told(cuda, "copy in uses device memory 1", "which was freed")


def test_writing_beyond_the_end_or_into_freed_memory_is_told(bench: Bench, cuda: FakeCuda) -> None:
    address = int(bench.device)

    def scribble(args: Sequence[Any], grid: Any, block: Any) -> None:
        found = cuda.memory.find(address)
        assert found is not None
        assert found.data.base is not None
        found.data.base[-1] = 0

    cuda.register_kernel("scribble", scribble, lambda args: ((), ()))
    kernel = bench.driver.module_from_buffer(b"cubin").get_function("scribble").prepare("")
    kernel.prepared_async_call((1, 1), (1, 1, 1), bench.one)
    array = bench.pinned()
    array.base.free()
    array[0] = 1
    bench.finish()
    with pytest.raises(AssertionError) as failed:
        cuda.assert_clean()
    assert "device memory 1 (16 bytes): something was written beyond its ends" in str(failed.value)
    assert "page-locked memory 3 (16 bytes): something was written into it after it was freed" in str(
        failed.value
    )


def test_addresses_that_are_no_ones_are_told(bench: Bench, cuda: FakeCuda) -> None:
    bench.driver.memcpy_htod_async(int(bench.device) + 8, bench.host, bench.one)
    assert told(cuda, "copy in uses 16 bytes", "which are no one's")


def test_everything_that_is_left_is_listed(bench: Bench, cuda: FakeCuda) -> None:
    kept = bench.driver.mem_alloc(64)
    with pytest.raises(AssertionError) as failed:
        cuda.assert_clean()
    for words in (
        "device memory 1 (16 bytes) was not freed",
        "device memory 2 (64 bytes) was not freed",
        "page-locked memory 1 (16 bytes) was not freed",
        "stream 1 was not destroyed",
        "the primary context is retained 1 times",
        "a context is still pushed: PyCUDA aborts the process",
    ):
        assert words in str(failed.value)
    kept.free()
    bench.finish()
    cuda.assert_clean()


def test_memory_that_outlives_its_context_is_told(bench: Bench, cuda: FakeCuda) -> None:
    kept = bench.driver.mem_alloc(64)
    bench.finish()
    assert told(cuda, "device memory 2 (64 bytes) was not freed before its context was released")
    kept.free()  # as PyCUDA: nothing happens
