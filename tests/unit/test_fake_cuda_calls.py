"""The simulated CUDA device: contexts, errors, kernels, mapped memory and captures are like the driver's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from cuda_bench import Bench, told
from fakes import errors
from fakes.cuda import FakeCuda

from edge.cuda.libcuda import CudaCallError


@pytest.fixture(params=[False, True], ids=["no jitter", "jitter"])
def cuda(request: pytest.FixtureRequest) -> Iterator[FakeCuda]:
    with FakeCuda(seed=1, jitter=request.param) as fake:
        yield fake


@pytest.fixture
def bench(cuda: FakeCuda) -> Bench:
    return Bench(cuda)


# Contexts


def test_calls_need_a_context_in_their_own_thread(bench: Bench) -> None:
    found: list[str] = []

    def elsewhere() -> None:
        for call in (lambda: bench.driver.mem_alloc(1), bench.driver.Stream, bench.copy_in):
            with pytest.raises(errors.LogicError) as failed:
                call()
            found.append(str(failed.value))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [
        "cuMemAlloc failed: invalid device context",
        "explicit_context_dependent failed: invalid device context - no currently active context?",
        "cuMemcpyHtoDAsync failed: invalid device context",
    ]


def test_an_object_that_ends_in_another_thread_is_leaked_by_pycuda(bench: Bench, cuda: FakeCuda) -> None:
    held = [bench.driver.Event()]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert told(cuda, "an event ended in a thread without its context")


def test_the_stack_of_contexts_is_as_in_pycuda(bench: Bench) -> None:
    bench.driver.Context.pop()
    with pytest.raises(errors.LogicError, match="cannot pop non-current context"):
        bench.driver.Context.pop()
    bench.context.push()
    bench.finish()
    with pytest.raises(errors.LogicError, match="cannot detach from invalid context"):
        bench.context.detach()


def test_only_the_top_of_pycudas_stack_is_on_the_drivers(bench: Bench, cuda: FakeCuda) -> None:
    again = bench.driver.Device(0).retain_primary_context()
    again.push()
    assert [len(stack) for stacks in (cuda.stacks, cuda.current) for stack in stacks.values()] == [2, 1]
    bench.driver.Context.pop()
    assert [len(stack) for stacks in (cuda.stacks, cuda.current) for stack in stacks.values()] == [1, 1]
    again.detach()
    cuda.libcuda.pop_context()  # where detaching one that is not current had put it
    bench.finish()
    cuda.assert_clean()


@pytest.mark.parametrize("popped_first", [False, True])
def test_a_released_context_that_stays_on_the_drivers_stack_is_told(
    bench: Bench, cuda: FakeCuda, popped_first: bool
) -> None:
    for memory in (bench.device, bench.host.base, bench.back.base):
        memory.free()
    bench.one = bench.two = bench.event = None
    if popped_first:  # detaching puts it back
        bench.driver.Context.pop()
    bench.context.detach()
    with pytest.raises(errors.LogicError, match="context is destroyed"):
        bench.driver.mem_get_info()
    with pytest.raises(AssertionError, match="a released context is still current"):
        cuda.assert_clean()
    cuda.libcuda.pop_context()
    cuda.assert_clean()


def test_a_dead_context_can_be_detached_but_not_popped(bench: Bench, cuda: FakeCuda) -> None:
    cuda.fail_next("cuMemAlloc", "CUDA_ERROR_ILLEGAL_ADDRESS")
    with pytest.raises(errors.LogicError, match="cuMemAlloc"):
        bench.driver.mem_alloc(4)
    with pytest.raises(errors.LogicError, match="cuCtxPopCurrent failed: an illegal memory access"):
        bench.driver.Context.pop()
    assert "a context is still pushed: PyCUDA aborts the process" in cuda.leaks()
    bench.context.detach()
    cuda.libcuda.pop_context()
    cuda.assert_clean()


# Errors


@pytest.mark.parametrize(
    "name, kind",
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", errors.MemoryError),
        ("CUDA_ERROR_LAUNCH_FAILED", errors.LaunchError),
        ("CUDA_ERROR_NO_DEVICE", errors.RuntimeError),
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", errors.LogicError),
        ("CUDA_ERROR_UNKNOWN", errors.Error),
    ],
)
def test_an_injected_fault_comes_as_pycuda_raises_it(
    bench: Bench, cuda: FakeCuda, name: str, kind: type[Exception]
) -> None:
    cuda.fail_next("cuMemAlloc", name, after=1)
    bench.driver.mem_alloc(8).free()
    with pytest.raises(errors.Error) as failed:
        bench.driver.mem_alloc(8)
    assert type(failed.value) is kind
    text = str(failed.value).removeprefix("cuMemAlloc failed: ")
    assert cuda.libcuda.error_names()[text] == name


def test_a_sticky_error_stays_until_the_context_is_reset(bench: Bench, cuda: FakeCuda) -> None:
    cuda.fail_next("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS")
    for call in (bench.one.synchronize, bench.copy_in, lambda: bench.driver.mem_alloc(4)):
        with pytest.raises(errors.LogicError, match="an illegal memory access was encountered"):
            call()
    bench.device.free()  # a clean-up call that fails is only printed
    bench.context.detach()
    cuda.libcuda.pop_context()
    cuda.libcuda.reset_primary_context(0)
    again = Bench(cuda)
    again.copy_in()
    again.finish()
    cuda.assert_clean()


def test_where_nothing_revives_a_device_every_call_fails_for_good() -> None:
    with FakeCuda(revives=False) as cuda:
        bench = Bench(cuda)
        cuda.fail_next("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS")
        with pytest.raises(errors.LogicError):
            bench.one.synchronize()
        bench.context.detach()
        cuda.libcuda.pop_context()
        with pytest.raises(
            CudaCallError, match="cuDevicePrimaryCtxReset_v2 failed: an illegal memory access"
        ):
            cuda.libcuda.reset_primary_context(0)
        with pytest.raises(errors.LogicError, match="cuDevicePrimaryCtxRetain failed: an illegal memory"):
            bench.driver.Device(0).retain_primary_context()
        cuda.assert_clean()


def test_after_a_reset_old_objects_are_dead(bench: Bench, cuda: FakeCuda) -> None:
    cuda.libcuda.reset_primary_context(0)
    with pytest.raises(errors.LogicError, match="context is destroyed"):
        bench.copy_in()
    assert cuda.used_memory == 0


def test_a_kernel_that_raises_is_told(bench: Bench, cuda: FakeCuda) -> None:
    cuda.register_kernel("broken", lambda args, grid, block: 1 / 0, lambda args: ((), ()))
    kernel = bench.driver.module_from_buffer(b"cubin").get_function("broken").prepare("")
    kernel.prepared_async_call((1, 1), (1, 1, 1), bench.one)
    bench.finish()
    assert told(cuda, "ZeroDivisionError")


def test_nothing_works_before_init() -> None:
    with (
        FakeCuda() as cuda,
        pytest.raises(errors.LogicError, match="cuDeviceGet failed: initialization error"),
    ):
        cuda.driver.Device(0)


# Kernels


def add(args: Sequence[Any], grid: Any, block: Any) -> None:
    """out[i] = in[i] + amount, for as many as there are threads."""
    source, out, amount = args
    count = grid[0] * block[0]
    memory = (
        np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * count).from_address(a)) for a in (source, out)
    )
    values, result = memory
    result[:] = values + amount


def four(args: Sequence[Any]) -> Any:
    return ((args[0], 16),), ((args[1], 16),)


def test_kernels_work_on_device_addresses_in_stream_order(bench: Bench, cuda: FakeCuda) -> None:
    cuda.register_kernel("add", add, four)
    function = bench.driver.module_from_buffer(b"cubin").get_function("add")
    function.prepare([np.intp, "P", np.float32])
    out = bench.driver.mem_alloc(16)
    bench.copy_in()
    function.prepared_async_call((2, 1), (2, 1, 1), bench.one, int(bench.device), out, 0.5)
    bench.driver.memcpy_dtoh_async(bench.back, out, bench.one)
    bench.one.synchronize()
    assert bench.back.tolist() == [1.5, 2.5, 3.5, 4.5]
    out.free()
    bench.finish()
    cuda.assert_clean()


def test_a_kernels_accesses_are_checked_like_a_copys(bench: Bench, cuda: FakeCuda) -> None:
    cuda.register_kernel("add", add, four)
    function = bench.driver.module_from_buffer(b"cubin").get_function("add").prepare("PPf")
    out = bench.driver.mem_alloc(16)
    bench.copy_in(bench.one)
    function.prepared_async_call((1, 1), (4, 1, 1), bench.two, int(bench.device), int(out), 0.5)
    assert told(cuda, "copy in on stream 1 and kernel add on stream 2 have no order")


def test_a_call_that_pycuda_would_refuse_is_refused(bench: Bench, cuda: FakeCuda) -> None:
    cuda.register_kernel("add", add, four)
    module = bench.driver.module_from_buffer(b"cubin")
    function = module.get_function("add").prepare("PPf")
    with pytest.raises(Exception, match="pack expected 3 items"):
        function.prepared_async_call((1, 1), (1, 1, 1), bench.one, 1, 2)
    with pytest.raises(TypeError, match="grid and block are tuples"):
        function.prepared_async_call((1, 1), [1, 1, 1], bench.one, 1, 2, 3.0)
    with pytest.raises(errors.LogicError, match="cuLaunchKernel failed: invalid argument"):
        function.prepared_async_call((1, 1), (2048, 1, 1), bench.one, 1, 2, 3.0)
    with pytest.raises(errors.LogicError, match="cuModuleGetFunction failed: named symbol not found"):
        module.get_function("subtract")
    with pytest.raises(TypeError, match="uint64"):
        bench.driver.memcpy_htod_async(np.uint64(1), bench.host, bench.one)
    with pytest.raises(TypeError, match="nothing here uses the default one"):
        bench.driver.memcpy_htod_async(bench.device, bench.host)
    with pytest.raises(ValueError, match="not contiguous"):
        bench.driver.memcpy_htod_async(bench.device, bench.host[::2], bench.one)


# Memory that both sides see


def test_an_integrated_device_works_on_host_memory() -> None:
    with FakeCuda(integrated=True) as cuda:
        bench = Bench(cuda)
        assert bench.driver.Device(0).get_attribute(bench.driver.device_attribute.INTEGRATED) == 1
        cuda.register_kernel("add", add, four)
        function = bench.driver.module_from_buffer(b"cubin").get_function("add").prepare("PPf")
        mapped, out = (bench.pinned(bench.driver.host_alloc_flags.DEVICEMAP) for _ in range(2))
        assert mapped.base.get_device_pointer() == mapped.ctypes.data
        for value in range(5):
            mapped[:] = value
            spans = mapped.base.get_device_pointer(), out.base.get_device_pointer()
            function.prepared_async_call((1, 1), (4, 1, 1), bench.one, *spans, 1.0)
            assert (out < -4e8).all()
            bench.one.synchronize()
            assert (out == value + 1).all()
        mapped.base.free()
        out.base.free()
        bench.finish()
        cuda.assert_clean()


def test_results_pass_through_mapped_memory_without_the_host(cuda: FakeCuda) -> None:
    bench = Bench(cuda)
    cuda.register_kernel("add", add, four)
    function = bench.driver.module_from_buffer(b"cubin").get_function("add").prepare("PPf")
    first, middle, last = (bench.pinned(bench.driver.host_alloc_flags.DEVICEMAP) for _ in range(3))
    first[:] = 1
    for source, out in ((first, middle), (middle, last), (last, middle)):
        function.prepared_async_call((1, 1), (4, 1, 1), bench.one, source.ctypes.data, out.ctypes.data, 1.0)
    bench.one.synchronize()
    assert (middle[0], last[0]) == (4, 3)
    for array in (first, middle, last):
        array.base.free()
    bench.finish()
    cuda.assert_clean()


def test_registered_memory_is_page_locked_until_it_is_unregistered(bench: Bench, cuda: FakeCuda) -> None:
    ordinary = np.ones(4, np.float32)
    address = ordinary.ctypes.data
    cuda.libcuda.register_host(address, ordinary.nbytes)
    with pytest.raises(CudaCallError, match="already mapped"):
        cuda.libcuda.register_host(address, ordinary.nbytes)
    assert cuda.libcuda.host_device_pointer(address) == address
    bench.driver.memcpy_htod_async(bench.device, ordinary, bench.one)
    bench.one.synchronize()
    cuda.libcuda.unregister_host(address)
    with pytest.raises(CudaCallError) as failed:
        cuda.libcuda.unregister_host(address)
    assert failed.value.name == "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"
    bench.finish()
    cuda.assert_clean()


def test_priorities_stay_within_what_the_device_has(bench: Bench, cuda: FakeCuda) -> None:
    cuda.libcuda.set_priority(bench.one.handle, -99)
    assert cuda.libcuda.priority(bench.one.handle) == -5
    with pytest.raises(CudaCallError, match="invalid resource handle"):
        cuda.libcuda.priority(1)


# Captures


def test_a_captured_graph_replays_what_was_recorded(bench: Bench, cuda: FakeCuda) -> None:
    library, handle = cuda.libcuda, bench.one.handle
    library.begin_capture(handle)
    bench.copy_in()
    bench.copy_out()
    graph = library.end_capture(handle)
    executable = library.instantiate(graph)
    library.destroy_graph(graph)
    assert not cuda.trace
    for value in (5, 6, 7):
        bench.host[:] = value
        library.launch(executable, handle)
        bench.one.synchronize()
        assert (bench.back == value).all()
    library.launch(executable, bench.two.handle)
    library.launch(executable, handle)
    library.destroy_executable(executable)
    bench.finish()
    assert any("a graph's executable: copy in on stream 2" in text for text in cuda.violations)
    assert any("a graph's executable was freed while" in text for text in cuda.violations)


def spoilt(bench: Bench, act: Callable[[], Any]) -> tuple[str, str]:
    """Errors of an act during a capture, and of the end of that capture."""
    names = []
    bench.cuda.libcuda.begin_capture(bench.one.handle)
    for call in (act, lambda: bench.cuda.libcuda.end_capture(bench.one.handle)):
        with pytest.raises((errors.Error, CudaCallError)) as failed:
            call()
        error: Any = failed.value
        names.append(getattr(error, "name", "") or error.result.name)
    return names[0], names[1]


@pytest.mark.parametrize(
    "act, name",
    [
        (lambda b: b.one.synchronize(), "STREAM_CAPTURE_UNSUPPORTED"),
        (lambda b: b.one.is_done(), "STREAM_CAPTURE_UNSUPPORTED"),
        (lambda b: b.driver.mem_alloc(4), "STREAM_CAPTURE_UNSUPPORTED"),
        (lambda b: b.pinned(), "STREAM_CAPTURE_UNSUPPORTED"),
        (lambda b: b.event.record(b.one).query(), "CAPTURED_EVENT"),
        (lambda b: b.one.wait_for_event(b.event.record(b.two)), "STREAM_CAPTURE_ISOLATION"),
    ],
)
def test_what_cannot_be_captured_spoils_the_capture(
    bench: Bench, act: Callable[[Bench], Any], name: str
) -> None:
    assert spoilt(bench, lambda: act(bench)) == (
        f"CUDA_ERROR_{name}",
        "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
    )


def test_a_stream_joins_a_capture_by_its_event_and_has_to_come_back(bench: Bench, cuda: FakeCuda) -> None:
    library, fork, join = cuda.libcuda, bench.event, bench.driver.Event()

    def capture(joined: bool) -> int:
        library.begin_capture(bench.one.handle)
        bench.copy_in(bench.one)
        bench.two.wait_for_event(fork.record(bench.one))
        bench.copy_out(bench.two)
        if joined:
            bench.one.wait_for_event(join.record(bench.two))
        return library.end_capture(bench.one.handle)

    executable = library.instantiate(graph := capture(joined=True))
    library.launch(executable, bench.one.handle)
    bench.one.synchronize()
    assert bench.back.tolist() == [1, 2, 3, 4]
    with pytest.raises(CudaCallError, match="capturing stream has unjoined work"):
        capture(joined=False)
    library.destroy_graph(graph)
    library.destroy_executable(executable)
    bench.finish()
    cuda.assert_clean()


def test_a_race_inside_a_captured_graph_is_told(bench: Bench, cuda: FakeCuda) -> None:
    cuda.libcuda.begin_capture(bench.one.handle)
    bench.two.wait_for_event(bench.event.record(bench.one))
    bench.copy_in(bench.one)
    bench.copy_out(bench.two)
    bench.one.wait_for_event(bench.driver.Event().record(bench.two))
    cuda.libcuda.end_capture(bench.one.handle)
    assert told(cuda, "in a captured graph, copy out and copy in have no order")


def test_a_capture_that_is_not_ended_is_listed(bench: Bench, cuda: FakeCuda) -> None:
    cuda.libcuda.begin_capture(bench.one.handle)
    assert "a capture on stream 1 was not ended" in cuda.leaks()


# The project on top of it


def test_the_project_finds_it_where_a_real_driver_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.cuda.device import open_device

    with FakeCuda(capability=(8, 7), integrated=True) as cuda:
        cuda.install(monkeypatch)
        device = open_device()
        assert (device.compute_capability, device.integrated) == ((8, 7), True)
        device.close()
        cuda.assert_clean()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"present": False}, "no NVIDIA driver on this machine"),
        ({"driver_version": 12020}, "the NVIDIA driver supports CUDA 12.2"),
    ],
)
def test_a_driver_that_is_absent_or_old_is_told_by_the_project(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
) -> None:
    from edge.cuda.device import open_device
    from edge.errors import RuntimeFault

    with FakeCuda(**settings) as cuda:
        cuda.install(monkeypatch)
        with pytest.raises(RuntimeFault, match=words):
            open_device()
        cuda.assert_clean()


def test_a_busy_device_is_told_by_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.cuda.device import open_device
    from edge.errors import RuntimeFault

    with FakeCuda() as cuda:
        cuda.install(monkeypatch)
        cuda.fail_next("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICE_UNAVAILABLE")
        with pytest.raises(RuntimeFault) as failed:
            open_device()
        assert "another process holds the GPU" in failed.value.why
        cuda.assert_clean()


def test_nothing_of_it_is_left_when_the_test_is_over() -> None:
    from edge.cuda import driver

    before = driver.bindings
    with pytest.MonkeyPatch.context() as patch, FakeCuda() as cuda:
        cuda.install(patch)
        assert driver.bindings().driver is cuda.driver
    assert driver.bindings is before
