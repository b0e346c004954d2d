"""What can go wrong with a GPU and its driver: a clear error, nothing lost beside what failed."""

from __future__ import annotations

import builtins
import gc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.cuda import FakeCuda
from gpus import gpu_network, install, plan
from streaming import SIZE, Collect, Script, feed, heatmap_graph, log_graph, pictures

from edge.backends import EngineOptions, Expectation, backend
from edge.cuda import driver
from edge.errors import (
    DeviceLost,
    EdgeError,
    InputError,
    MissingPackage,
    OutOfDeviceMemory,
    RuntimeFault,
    StoreError,
)
from edge.manifest import sha256
from edge.sources import Picture
from edge.stream.run import Run


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with FakeCuda(seed=1) as device:
        yield device


def load(path: Path, **options: Any) -> Any:
    return backend("tensorrt").load(path, EngineOptions(**options))


def refused(path: Path, kind: type[EdgeError], match: str, **options: Any) -> EdgeError:
    """The error that loading ends in; it says what to do."""
    with pytest.raises(kind, match=match) as caught:
        load(path, **options)
    assert caught.value.fix
    return caught.value


# ---------------------------------------------------------------------- the machine


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeCuda(present=False) as cuda:
        install(monkeypatch, cuda, tmp_path)
        refused(plan(tmp_path), RuntimeFault, "no NVIDIA driver")


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> None:
    install(monkeypatch, cuda, tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "pycuda.driver")
    monkeypatch.delitem(__import__("sys").modules, "pycuda")
    real = builtins.__import__

    error: ImportError = ModuleNotFoundError("No module named 'pycuda'", name="pycuda")

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pycuda"):
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install" in refused(plan(tmp_path), MissingPackage, "pycuda").fix
    error = ImportError("libcurand.so.10: cannot open shared object file")  # it is there, and broken
    assert "libcurand" in refused(plan(tmp_path), RuntimeFault, "installed and cannot be imported").why


def test_a_driver_older_than_tensorrt_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeCuda(driver_version=12010) as cuda:
        install(monkeypatch, cuda, tmp_path, version="11.0.0")
        monkeypatch.setattr(cuda.driver, "get_version", lambda: (12, 0, 0))
        refused(plan(tmp_path, version="11.0.0"), RuntimeFault, r"too old for TensorRT 11.0.0.*12\.1")
        cuda.assert_clean()


def test_a_runtime_that_does_not_start_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    trt = install(monkeypatch, cuda, tmp_path)
    trt.built_for = 14
    error = refused(plan(tmp_path), RuntimeFault, "TensorRT 10.3.0 does not start")
    assert "CUDA initialization failure with error: 35" in error.why and "driver" in error.fix
    cuda.assert_clean()


def test_a_driver_older_than_pycuda_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeCuda(driver_version=11040) as cuda:
        install(monkeypatch, cuda, tmp_path)
        monkeypatch.setattr(cuda.driver, "get_version", lambda: (12, 4, 0))
        refused(plan(tmp_path), RuntimeFault, "supports CUDA 11.4: PyCUDA was built for CUDA 12.4")


def test_another_process_holds_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    cuda.fail_next("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICE_UNAVAILABLE")
    error = refused(plan(tmp_path), RuntimeFault, "cannot use GPU 0")
    assert "CUDA_ERROR_DEVICE_UNAVAILABLE" in error.why and "another process" in error.why


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> None:
    install(monkeypatch, cuda, tmp_path)
    refused(plan(tmp_path), RuntimeFault, "no GPU 3: the driver sees 1", gpu=3)


@pytest.fixture
def two_gpus(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 comes first, the GPU that engines are compiled for second."""

    class Device(cuda.driver.Device):  # type: ignore[misc,name-defined]
        def __init__(self, index: int) -> None:
            super().__init__(0)
            self.index = index

        @classmethod
        def count(cls) -> int:
            return 2

        def compute_capability(self) -> tuple[int, int]:
            return cuda.capability if self.index else (7, 5)

    monkeypatch.setattr(cuda.driver, "Device", Device)


@pytest.mark.usefixtures("two_gpus")
def test_of_several_gpus_an_engine_gets_the_one_it_was_compiled_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    path = plan(tmp_path)
    expected = Expectation(sha256(path), compute_capability=cuda.capability)
    with closing(load(path, expected=expected)) as engine:
        assert engine.device.index == 1
    refused(path, StoreError, "compiled for", expected=expected, gpu=0)  # asked for, so it stays
    absent = Expectation(sha256(path), compute_capability=(8, 9))
    assert "has 7.5" in refused(path, StoreError, "compiled for", expected=absent).why
    cuda.assert_clean()


# ---------------------------------------------------------------------- the engine


def test_a_tampered_engine_never_reaches_the_deserializer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    trt = install(monkeypatch, cuda, tmp_path)
    monkeypatch.setattr(trt, "Runtime", lambda logger: pytest.fail("a byte of it was deserialized"))
    path = plan(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    expected = Expectation(__import__("hashlib").sha256(path.read_bytes()).hexdigest())
    path.write_bytes(content)
    refused(path, StoreError, "changed after it was published", expected=expected)
    assert not cuda.calls  # the GPU was not even opened


def test_an_engine_of_another_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> None:
    install(monkeypatch, cuda, tmp_path)
    path = plan(tmp_path, capability=(8, 9))
    sha = __import__("hashlib").sha256(path.read_bytes()).hexdigest()
    refused(
        path, StoreError, r"compute capability 8\.9", expected=Expectation(sha, compute_capability=(8, 9))
    )
    error = refused(path, RuntimeFault, "refuses")  # without a manifest TensorRT itself says it
    assert "expecting compute 8.9" in error.why or "incompatible device" in error.why
    cuda.assert_clean()


def test_an_engine_of_another_tensorrt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    path = plan(tmp_path, version="10.9.0")
    sha = __import__("hashlib").sha256(path.read_bytes()).hexdigest()
    expected = Expectation(sha, ("tensorrt", "10.9.0"))
    assert "10.3.0" in refused(path, StoreError, r"compiled by TensorRT 10\.9\.0", expected=expected).why
    assert "Version tag" in refused(path, RuntimeFault, "refuses").why
    cuda.assert_clean()


def test_what_tensorrt_says_is_heard_by_the_engine_it_is_about(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    """TensorRT uses one logger for all that lives in the process."""
    trt = install(monkeypatch, cuda, tmp_path)
    path, damaged = plan(tmp_path), tmp_path / "damaged.plan"
    damaged.write_bytes(b"not a plan")
    with closing(load(path)):
        assert "Serialization" in refused(damaged, RuntimeFault, "refuses").why
    with closing(load(path)) as later:
        assert later.refused("it").why == "it gave no reason"
    del later
    gc.collect()
    assert trt.plugin_logger() is not None  # the plugin library uses it until the process ends
    cuda.assert_clean()


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt_rtx"])
def test_an_engine_that_does_not_load_leaves_nothing_behind_in_its_context(
    rtx: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    """The error's traceback holds the half-made engine, and is still there when the device is closed."""
    runtime, version = ("tensorrt_rtx", "1.7.1.116") if rtx else ("tensorrt", "10.3.0")
    trt = install(monkeypatch, cuda, tmp_path, version, rtx)
    path, damaged = plan(tmp_path, batch="n", version=version, rtx=rtx), tmp_path / "damaged.plan"
    damaged.write_bytes(b"not a plan")
    for file, options in ((damaged, EngineOptions()), (path, EngineOptions(batch=9))):
        with pytest.raises(RuntimeFault) as caught:
            backend(runtime).load(file, options)
        assert caught.tb is not None and not list(trt.objects)
    cuda.assert_clean()


@pytest.mark.parametrize("content", [b"", b"not a plan", bytes(range(256)) * 40])
def test_a_file_that_is_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda, content: bytes
) -> None:
    install(monkeypatch, cuda, tmp_path)
    (tmp_path / "engine.plan").write_bytes(content)
    refused(tmp_path / "engine.plan", RuntimeFault, "refuses")
    cuda.assert_clean()


def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> None:
    install(monkeypatch, cuda, tmp_path)
    refused(tmp_path / "none.plan", InputError, "cannot read")


def test_the_first_tensorrt_rtx_has_fewer_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path, "1.1.1.26", rtx=True)
    path = plan(tmp_path, version="1.1.1.26", rtx=True)
    with closing(backend("tensorrt_rtx").load(path, EngineOptions())) as engine:
        engine.run({"image": np.zeros((1, 3, SIZE, SIZE), np.float32)})
    cuda.assert_clean()


def test_kernels_for_open_sizes_are_compiled_before_they_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    """Compiled in the background they would take over in the middle of a run, or of its timing."""
    trt = install(monkeypatch, cuda, tmp_path, "1.7.1.116", rtx=True)
    path = plan(tmp_path, batch="n", version="1.7.1.116", rtx=True)
    with closing(backend("tensorrt_rtx").load(path, EngineOptions())) as engine:
        engine.slot()
        (context,) = (found for found in trt.objects if isinstance(found, trt.IExecutionContext))
        assert context.how.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
        del context
    cuda.assert_clean()


def test_a_damaged_runtime_cache_never_reaches_tensorrt_rtx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    trt = install(monkeypatch, cuda, tmp_path, "1.7.1.116", rtx=True)
    path = plan(tmp_path, version="1.7.1.116", rtx=True)
    given: list[bytes] = []
    real = trt.IRuntimeCache.deserialize

    def watched(self: Any, blob: bytes) -> bool:
        given.append(bytes(blob))
        return bool(real(self, blob))

    monkeypatch.setattr(trt.IRuntimeCache, "deserialize", watched)

    def start() -> None:
        backend("tensorrt_rtx").load(path, EngineOptions()).close()

    start()
    (entry,) = (tmp_path / "cache" / "runtime").iterdir()
    start()
    assert len(given) == 1  # what the first left
    entry.write_bytes(entry.read_bytes()[:-1] + b"?")
    start()
    assert len(given) == 1
    start()  # it was written anew
    assert given == [given[0]] * 2
    cuda.assert_clean()


def test_shapes_outside_the_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> None:
    install(monkeypatch, cuda, tmp_path)
    graph = heatmap_graph(tmp_path / "tiny.onnx", "h", "w", "n")
    path = plan(tmp_path, graph=graph)  # batches of 1 to 4, sides of 8 to 1024
    with pytest.raises(RuntimeFault, match="batch of 9: the engine's profile goes up to 4"):
        load(path, batch=9, size=(SIZE, SIZE))
    engine = load(path, size=(4, 4))
    with pytest.raises(RuntimeFault, match=r"profile goes from \[1, 3, 8, 8\] to \[4, 3, 1024, 1024\]"):
        engine.slot()
    engine.close()
    cuda.assert_clean()


def test_no_memory_for_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeCuda(total_memory=500) as cuda:
        install(monkeypatch, cuda, tmp_path)
        refused(plan(tmp_path), OutOfDeviceMemory, "does not fit")
        cuda.assert_clean()


def test_no_memory_for_a_slot_leaves_the_others_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    engine = load(plan(tmp_path))
    slot = engine.slot()
    cuda.fail_next("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", after=1)
    with pytest.raises(OutOfDeviceMemory, match="CUDA_ERROR_OUT_OF_MEMORY"):
        engine.slot()
    before = cuda.used_memory
    with pytest.raises(OutOfDeviceMemory):
        cuda.fail_next("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
        engine.slot()
    assert cuda.used_memory == before, "half a slot kept its memory"
    slot.submit()
    assert np.isfinite(slot.wait()["heatmap"]).all()
    engine.close()
    cuda.assert_clean()


# ---------------------------------------------------------------------- in mid-run


def run(network: Any, *scripts: list[Any], serial: bool = False) -> tuple[dict[str, Any], Collect, int]:
    sink = Collect()
    feeds = [feed(f"f{i}", Script(steps)) for i, steps in enumerate(scripts)]
    done = Run(network, feeds, [("collect:", sink)], serial=serial).go()
    return done.data, sink, done.exit_code


@pytest.mark.parametrize("serial", [False, True], ids=["overlapped", "serial"])
def test_a_lost_context_is_made_anew_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda, serial: bool
) -> None:
    install(monkeypatch, cuda, tmp_path)
    network = gpu_network(plan(tmp_path))
    network.warm_up()
    cuda.fail_next("cuEventSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", after=4)
    data, sink, code = run(network, pictures(20), serial=serial)
    row = data["feeds"][0]
    assert data["rebuilds"] == 1 and data["stopped"] is None and code == RuntimeFault.exit_code
    lost = row["failures"]["infer"]
    assert 1 <= lost <= 3 and row["delivered"] == 20 - lost == len(sink.results)
    assert sink.sequence("f0") == sorted(sink.sequence("f0"))
    network.close()
    cuda.assert_clean()


def test_a_context_lost_twice_stops_the_run_in_good_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    network = gpu_network(plan(tmp_path))
    network.warm_up()
    cuda.fail_next("cuEventSynchronize", "CUDA_ERROR_LAUNCH_FAILED", after=3)
    cuda.fail_next("cuMemcpyHtoDAsync", "CUDA_ERROR_ILLEGAL_ADDRESS", after=20)  # warmed up again by then
    data, sink, code = run(network, pictures(30))
    row = data["feeds"][0]
    assert data["rebuilds"] == 1 and "CUDA_ERROR_ILLEGAL_ADDRESS" in data["stopped"]
    assert code == RuntimeFault.exit_code
    assert row["captured"] == row["delivered"] + row["failed"] + sum(row["dropped"].values())
    assert 0 < row["delivered"] == len(sink.results) < 30
    network.close()
    cuda.assert_clean()


def test_a_context_lost_while_a_batch_is_filled_loses_that_batch_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="n")
    options = EngineOptions(batch=3)
    network = gpu_network(plan(tmp_path, graph=graph), options, pictures=True, patience=0.05)
    if not network.engine.takes_pictures:
        pytest.skip("g++ is not installed: the kernel cannot be run here")
    network.warm_up()
    cuda.fail_next("cuMemHostAlloc", "CUDA_ERROR_ILLEGAL_ADDRESS")  # the first picture that needs more room
    small, large = pictures(12, size=(16, 16)), pictures(12, size=(90, 70))
    data, _, _ = run(network, small, large, small)
    assert data["rebuilds"] == 1 and data["stopped"] is None
    assert all(row["captured"] == 12 == row["delivered"] + row["failed"] for row in data["feeds"])
    assert 1 <= sum(row["failed"] for row in data["feeds"]) <= 6
    network.close()
    cuda.assert_clean()


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_whenever_a_context_is_lost_every_frame_has_one_fate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda, after: int
) -> None:
    install(monkeypatch, cuda, tmp_path)
    graph = heatmap_graph(tmp_path / "tiny.onnx", batch="n")
    network = gpu_network(plan(tmp_path, graph=graph), EngineOptions(batch=3), patience=0.004)
    network.warm_up()
    for call in ("cuEventSynchronize", "cuMemcpyHtoDAsync"):
        cuda.fail_next(call, "CUDA_ERROR_ILLEGAL_ADDRESS", after=after)
    sink = Collect()
    steps = [[step for p in pictures(8, seed) for step in (p, 0.001 * (seed + 1))] for seed in range(3)]
    feeds = [feed(f"f{i}", Script(step, live=i > 0)) for i, step in enumerate(steps)]
    done = Run(network, feeds, [("collect:", sink)]).go()
    for row in done.data["feeds"]:
        assert row["in_flight"] == 0
        assert row["captured"] == row["delivered"] + row["failed"] + sum(row["dropped"].values())
    assert sum(row["delivered"] for row in done.data["feeds"]) == len(sink.results)
    network.close()
    cuda.assert_clean()


def test_a_gpu_that_does_not_come_back_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    network = gpu_network(plan(tmp_path))
    network.warm_up()
    cuda.fail_next("cuEventSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", after=4)
    cuda.fail_next("cuDevicePrimaryCtxRetain", "CUDA_ERROR_DEVICE_UNAVAILABLE")
    data, _, code = run(network, pictures(10))
    assert data["rebuilds"] == 0 and "ILLEGAL_ADDRESS" in data["stopped"] and code == RuntimeFault.exit_code


@pytest.mark.parametrize("serial", [False, True], ids=["overlapped", "serial"])
def test_a_gpu_that_nothing_revives_stops_the_run_in_good_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serial: bool
) -> None:
    """All that CUDA promises after a fault: every call fails until the process ends."""
    with FakeCuda(seed=1, revives=False) as cuda:
        install(monkeypatch, cuda, tmp_path)
        network = gpu_network(plan(tmp_path))
        network.warm_up()
        cuda.fail_next("cuEventSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", after=6)
        data, sink, code = run(network, pictures(20), pictures(20), serial=serial)
        assert data["rebuilds"] == 0 and "CUDA_ERROR_ILLEGAL_ADDRESS" in data["stopped"]
        assert code == RuntimeFault.exit_code
        for row in data["feeds"]:
            assert row["captured"] == row["delivered"] + row["failed"] + sum(row["dropped"].values())
            assert row["in_flight"] == 0
        assert 0 < len(sink.results) == sum(row["delivered"] for row in data["feeds"]) < 40
        network.close()
        cuda.assert_clean()  # PyCUDA would abort the process otherwise, whatever its exit code was


def test_a_failed_batch_is_counted_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    install(monkeypatch, cuda, tmp_path)
    network = gpu_network(plan(tmp_path))
    network.warm_up()
    cuda.fail_next("cuMemcpyDtoHAsync", "CUDA_ERROR_INVALID_VALUE", after=5)
    data, sink, _ = run(network, pictures(12))
    assert data["feeds"][0]["failures"] == {"infer": 1} and data["rebuilds"] == 0
    assert len(sink.results) == 11
    network.close()
    cuda.assert_clean()


@pytest.mark.parametrize("integrated", [False, True], ids=["discrete", "integrated"])
def test_a_picture_too_large_for_the_memory_fails_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, integrated: bool
) -> None:
    with FakeCuda(seed=2, integrated=integrated) as cuda:
        install(monkeypatch, cuda, tmp_path)
        network = gpu_network(plan(tmp_path), pictures=True)
        if not network.engine.takes_pictures:
            pytest.skip("g++ is not installed: the kernel cannot be run here")
        network.warm_up()
        cuda.fail_next("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY")
        large = [Picture(np.zeros((400, 640, 3), np.uint8))] * 1
        data, _, _ = run(network, pictures(6, size=(32, 32)), large, pictures(6, 1, (32, 32)))
        assert [row["delivered"] for row in data["feeds"]] == [6, 0, 6]
        assert data["feeds"][1]["failures"] == {"preprocess": 1}
        network.close()
        cuda.assert_clean()


def test_nan_is_flagged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda) -> None:
    install(monkeypatch, cuda, tmp_path)
    graph = log_graph(tmp_path / "tiny.onnx")
    network = gpu_network(plan(tmp_path, graph=graph))
    white = [Picture(np.full((SIZE, SIZE, 3), 255, np.uint8))] * 2
    black = [Picture(np.zeros((SIZE, SIZE, 3), np.uint8))]
    data, sink, code = run(network, [*white, *black, *white])
    assert [bool(result.flags) for result in sink.results] == [False, False, True, False, False]
    assert data["feeds"][0]["flags"] == {"nan": 1} and code == RuntimeFault.exit_code
    network.close()
    cuda.assert_clean()


def test_calls_from_a_second_thread_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    import threading

    install(monkeypatch, cuda, tmp_path)
    engine = load(plan(tmp_path))
    found: list[BaseException] = []

    def other() -> None:
        try:
            engine.slot()
        except RuntimeFault as e:
            found.append(e)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "second thread" in str(found[0])
    engine.close()
    cuda.assert_clean()


def test_sticky_errors_are_told_from_others(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
    cuda.install(monkeypatch)
    bindings = driver.bindings()
    lost = driver.fault(
        "x", cuda.driver.LaunchError("cuStreamSynchronize failed: unspecified launch failure"), bindings
    )
    assert isinstance(lost, DeviceLost) and "CUDA_ERROR_LAUNCH_FAILED" in lost.why
    full = driver.fault("x", cuda.driver.MemoryError("cuMemAlloc failed: out of memory"), bindings)
    assert isinstance(full, OutOfDeviceMemory) and isinstance(full, MemoryError)
    odd = driver.fault("x", cuda.driver.LogicError("cuX failed: something new"), bindings)
    assert type(odd) is RuntimeFault and "something new" in odd.why
