"""The simulated TensorRT: engines that really run, and refusals in the words of the real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fakes.cuda import FakeCuda
from fakes.tensorrt import FakeTensorRT, fake_plan
from streaming import heatmap_graph

from edge.backends.trt_api import capabilities, used
from edge.build.tensorrt import CompileRequest, Profile, compile_engine
from edge.errors import ModelError

NON_BLOCKING = 1
SHAPE, OUT = (1, 3, 32, 32), (1, 1, 8, 8)


class Bench:
    """An engine, a context, and memory for its two tensors."""

    def __init__(self, cuda: FakeCuda, graph: Path, rtx: bool = False) -> None:
        self.cuda, self.driver = cuda, cuda.driver
        self.trt = FakeTensorRT(cuda, rtx=rtx)
        self.driver.init()
        self.context = self.driver.Device(0).retain_primary_context()
        self.context.push()
        self.stream, self.other = self.driver.Stream(NON_BLOCKING), self.driver.Stream(NON_BLOCKING)
        self.logger = self.trt.Logger()
        self.engine = self.load(fake_plan(graph, rtx=rtx))
        self.host = self.driver.pagelocked_empty(SHAPE, np.float32)
        self.back = self.driver.pagelocked_empty(OUT, np.float32)
        self.host[:] = np.random.default_rng(0).random(SHAPE)
        self.input, self.output = self.driver.mem_alloc(self.host.nbytes), self.driver.mem_alloc(256)

    def load(self, plan: bytes) -> Any:
        return self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)

    def bound(self) -> Any:
        """A context that is ready to run."""
        execution = self.engine.create_execution_context()
        assert execution.set_input_shape("image", SHAPE)
        assert execution.set_tensor_address("image", int(self.input))
        assert execution.set_tensor_address("heatmap", int(self.output))
        return execution

    def run(self, execution: Any) -> None:
        self.driver.memcpy_htod_async(self.input, self.host, self.stream)
        assert execution.execute_async_v3(self.stream.handle)
        self.driver.memcpy_dtoh_async(self.back, self.output, self.stream)

    def said(self) -> str:
        return "; ".join(message for _, message in self.logger.messages)

    def finish(self) -> None:
        for stream in (self.stream, self.other):
            stream.synchronize()
        for memory in (self.host.base, self.back.base, self.input, self.output):
            memory.free()
        self.engine = self.stream = self.other = stream = None
        self.context.detach()
        self.cuda.libcuda.pop_context()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heatmap_graph(tmp_path_factory.mktemp("graph") / "tiny.onnx", batch="n")


@pytest.fixture
def bench(graph: Path) -> Iterator[Bench]:
    with FakeCuda() as cuda:
        yield Bench(cuda, graph)


def test_an_engine_computes_what_its_graph_does(bench: Bench, graph: Path) -> None:
    execution = bench.bound()
    bench.run(execution)
    assert (bench.back < -4e8).all()
    bench.stream.synchronize()
    expected = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"]).run(
        None, {"image": np.array(bench.host)}
    )
    np.testing.assert_array_equal(bench.back, expected[0])
    del execution
    bench.finish()
    bench.cuda.assert_clean()


def test_it_tells_its_tensors_and_open_sizes(bench: Bench) -> None:
    engine, trt = bench.engine, bench.trt
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    assert names == ["image", "heatmap"]
    assert [engine.get_tensor_mode(n).name for n in names] == ["INPUT", "OUTPUT"]
    assert engine.get_tensor_dtype("image") is trt.DataType.FLOAT
    assert tuple(engine.get_tensor_shape("image")) == (-1, 3, 32, 32)
    assert [shape[0] for shape in engine.get_tensor_profile_shape("image", 0)] == [1, 1, 4]
    execution = engine.create_execution_context()
    assert tuple(execution.get_tensor_shape("heatmap")) == (-1, 1, 8, 8)
    assert execution.infer_shapes() == ["image"]
    assert execution.set_input_shape("image", (3, 3, 32, 32))
    assert tuple(execution.get_tensor_shape("heatmap")) == (3, 1, 8, 8)
    assert not execution.set_input_shape("image", (5, 3, 32, 32))
    assert "do not satisfy any optimization profiles" in bench.said()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda plan, graph: plan[:-1], "Serialization assertion"),
        (lambda plan, graph: b"ftrt" + plan, "Serialization assertion"),
        (lambda plan, graph: fake_plan(graph, version="10.4.0"), "Serialized Engine Version: 10.4.0"),
        (lambda plan, graph: fake_plan(graph, capability=(8, 7)), "expecting compute 9.0 got compute 8.7"),
        (lambda plan, graph: fake_plan(graph, rtx=True), "Serialization assertion"),
    ],
    ids=["damaged", "no plan", "version", "capability", "product"],
)
def test_what_cannot_be_loaded_gives_none_and_a_reason(
    bench: Bench, graph: Path, change: Any, words: str
) -> None:
    assert bench.load(change(fake_plan(graph), graph)) is None
    assert words in bench.said()


def test_what_does_not_fit_gives_none(bench: Bench, graph: Path) -> None:
    bench.cuda.total_memory = bench.cuda.used_memory
    assert bench.load(fake_plan(graph)) is None
    assert bench.engine.create_execution_context() is None
    assert "OutOfMemory" in bench.said()


def test_executing_half_bound_gives_false(bench: Bench) -> None:
    execution = bench.engine.create_execution_context()
    assert not execution.execute_async_v3(bench.stream.handle)
    assert "the shape of tensor image is not known" in bench.said()
    execution.set_input_shape("image", SHAPE)
    assert not execution.execute_async_v3(bench.stream.handle)
    assert "Address is not set for tensor image" in bench.said()
    execution.set_tensor_address("image", int(bench.input) + 4)
    assert not execution.execute_async_v3(bench.stream.handle)
    assert "not aligned" in bench.said()
    assert not bench.bound().execute_async_v3(1)


def test_page_locked_memory_is_no_device_memory(bench: Bench) -> None:
    execution = bench.bound()
    execution.set_tensor_address("heatmap", bench.back.ctypes.data)
    assert not execution.execute_async_v3(bench.stream.handle)
    assert "which the device cannot address" in bench.said()


def test_one_context_on_two_streams_is_told(bench: Bench) -> None:
    execution = bench.bound()
    other_in, other_out = bench.driver.mem_alloc(bench.host.nbytes), bench.driver.mem_alloc(256)
    bench.run(execution)
    bench.driver.memcpy_htod_async(other_in, bench.host, bench.other)
    execution.set_tensor_address("image", int(other_in))
    execution.set_tensor_address("heatmap", int(other_out))
    execution.execute_async_v3(bench.other.handle)
    assert bench.cuda.violations == [
        "an execution context: execute on stream 1 and execute on stream 2 have no order"
    ]


def test_a_context_that_ends_in_flight_is_told(bench: Bench) -> None:
    execution = bench.bound()
    bench.run(execution)
    del execution
    assert bench.cuda.violations == [
        "an execution context was freed while execute on stream 1 may still use it"
    ]


def test_a_context_can_be_captured_once_it_has_run(bench: Bench) -> None:
    library, handle = bench.cuda.libcuda, bench.stream.handle
    execution = bench.bound()
    library.begin_capture(handle)
    assert not execution.execute_async_v3(handle)
    with pytest.raises(Exception, match="previous error during capture"):
        library.end_capture(handle)
    bench.run(execution)
    bench.stream.synchronize()
    first = bench.back.copy()
    library.begin_capture(handle)
    bench.run(execution)
    graph = library.end_capture(handle)
    executable = library.instantiate(graph)
    bench.host[:] = 0.25
    library.launch(executable, handle)
    bench.stream.synchronize()
    assert not np.array_equal(bench.back, first)
    library.destroy_executable(executable)
    library.destroy_graph(graph)
    del execution
    bench.finish()
    bench.cuda.assert_clean()


def test_an_execution_that_cuda_refuses_gives_false(bench: Bench) -> None:
    bench.cuda.fail_next("cuLaunchKernel", "CUDA_ERROR_LAUNCH_FAILED")
    assert not bench.bound().execute_async_v3(bench.stream.handle)
    assert "unspecified launch failure" in bench.said()


def test_rtx_tells_validity_and_keeps_a_runtime_cache(graph: Path) -> None:
    with FakeCuda() as cuda:
        bench = Bench(cuda, graph, rtx=True)
        runtime, validity = bench.trt.Runtime(bench.logger), bench.trt.EngineValidity
        assert runtime.get_engine_validity(fake_plan(graph, rtx=True))[0] is validity.VALID
        assert runtime.get_engine_validity(fake_plan(graph, (8, 9), rtx=True))[0] is validity.INVALID
        config = bench.engine.create_runtime_config()
        cache = config.create_runtime_cache()
        assert not cache.deserialize(b"of another version")
        assert cache.deserialize(bytes(cache.serialize()))
        assert config.set_runtime_cache(cache)
        assert bench.engine.create_execution_context(config) is not None


def test_the_project_compiles_with_it_and_the_engine_runs(
    graph: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FakeCuda() as cuda:
        bench = Bench(cuda, graph)
        bench.trt.install(monkeypatch)
        shapes = Profile(SHAPE, SHAPE, (4, *SHAPE[1:]))
        request = CompileRequest(
            graph.read_bytes(), "tensorrt", profiles={"image": shapes}, timing_cache=tmp_path, plan=PLAN
        )
        steps: list[int] = []
        compiled = compile_engine(request, lambda phase, done, total: steps.append(done))
        assert (steps[-1], compiled.version) == (100, "10.3.0")
        assert compiled.findings == ("planned int8, runs fp32: node 'conv'",)
        assert [layer["Name"] for layer in json.loads(compiled.layers)["Layers"]] == ["conv", "sigmoid"]
        assert "(new)" in compiled.timing_cache
        assert "(new)" not in compile_engine(request).timing_cache
        bench.engine = bench.load(compiled.engine)
        bench.run(execution := bench.bound())
        bench.stream.synchronize()
        assert 0 < bench.back.min() < bench.back.max() < 1
        del execution
        bench.finish()
        cuda.assert_clean()


PLAN = (("conv", "int8"), ("sigmoid", "fp32"))


def test_a_build_stops_when_its_monitor_says_so(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with FakeCuda() as cuda:
        FakeTensorRT(cuda).install(monkeypatch)
        shapes = Profile(SHAPE, SHAPE, SHAPE)
        with pytest.raises(KeyboardInterrupt):
            compile_engine(CompileRequest(graph.read_bytes(), "tensorrt", profiles={"image": shapes}), stop)


@pytest.mark.parametrize("op, words", [("Frobnicate", "no importer"), ("Sigmoid", "no optimization profile")])
def test_what_it_cannot_compile_is_refused(
    graph: Path, monkeypatch: pytest.MonkeyPatch, op: str, words: str
) -> None:
    model = onnx.load(graph)
    model.graph.node[1].op_type = op
    with FakeCuda() as cuda:
        FakeTensorRT(cuda).install(monkeypatch)
        with pytest.raises(ModelError, match=words):
            compile_engine(CompileRequest(model.SerializeToString(), "tensorrt"))


@pytest.mark.parametrize(
    "module, version", [("tensorrt", "10.3.0"), ("tensorrt_rtx", "1.1.1.26"), ("tensorrt_rtx", "1.7.1.116")]
)
def test_it_has_every_attribute_that_the_project_uses(module: str, version: str) -> None:
    with FakeCuda() as cuda:
        trt = FakeTensorRT(cuda, version, rtx=module == "tensorrt_rtx")
        missing = [name for name in used(capabilities(module, version)) if not has(trt, name)]
        assert not missing


def has(trt: FakeTensorRT, name: str) -> bool:
    found: Any = trt
    for part in name.split("."):
        if not hasattr(found, part):
            return part in getattr(found, "__annotations__", {}) or part == "name"  # of an enumeration
        found = getattr(found, part)
    return True


KINDS = (
    *("Runtime", "ICudaEngine", "IExecutionContext", "EngineInspector", "IRuntimeConfig", "IRuntimeCache"),
    *("Builder", "INetworkDefinition", "ILayer", "OnnxParser", "ParserError", "IBuilderConfig"),
    *("IOptimizationProfile", "IProgressMonitor"),
)


def test_its_classes_have_no_method_that_the_real_ones_lack() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    with FakeCuda() as cuda:
        trt = FakeTensorRT(cuda, rtx=True)
        for kind in KINDS:
            fake = getattr(trt, kind)
            methods = {name for name in dir(fake) if name[0] != "_" and callable(getattr(fake, name))}
            assert methods <= set(dir(getattr(real, kind))), kind
