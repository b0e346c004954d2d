"""Compiling: what is asked of TensorRT, what it says, and what is refused before it is asked.

The simulated module stands for a TensorRT with its GPU; what the real TensorRT-RTX compiles is in
`contract/test_compile_matrix.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest
from fakes.cuda import FakeCuda
from fakes.tensorrt import FakeTensorRT
from onnx import TensorProto, helper, numpy_helper

from edge.backends.trt_log import Notes
from edge.build import resources
from edge.build.layers import compare_engine, compare_network, origins
from edge.build.memory import MIB, least_memory
from edge.build.opening import open_dimensions
from edge.build.resources import Abandoned, in_child
from edge.build.tensorrt import CompileRequest, Profile, compile_engine
from edge.errors import ModelError, RuntimeFault
from edge.graph import Graph, serialize
from edge.precision import plan
from edge.precision.plan import Plan, Variant
from edge.precision.rewrite import planned_precisions, rewrite
from edge.targets import TARGETS


def typed(name: str, target: str = "ada", variant: Variant = "fast") -> tuple[onnx.ModelProto, Plan]:
    index, row = graphs.good(name), TARGETS[target]
    made = plan.make(index, row, variant, graphs.ranges(index))
    return rewrite(index, made, graphs.ranges(index), row), made


def request(name: str = "residual", runtime: str = "tensorrt", **more: Any) -> CompileRequest:
    model, made = typed(name)
    return CompileRequest(
        serialize(model), runtime, plan=planned_precisions(made.steps, made.carrier), **more
    )


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with FakeCuda() as found:
        yield found


@pytest.fixture
def trt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10.3 with a GPU."""
    module = FakeTensorRT(cuda)
    module.install(monkeypatch)
    return module


class TestRequest:
    """What the builder is asked for, seen from the builder's side."""

    @pytest.fixture
    def config(self, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> Callable[[CompileRequest], Any]:
        """Compile, and return the builder's config."""
        seen: list[Any] = []
        build = trt.Builder.build_serialized_network

        def watched(self: Any, network: Any, config: Any) -> Any:
            seen.append(config)
            return build(self, network, config)

        monkeypatch.setattr(trt.Builder, "build_serialized_network", watched)

        def compiled(what: CompileRequest) -> Any:
            compile_engine(what)
            return seen[-1]

        return compiled

    def test_layers_are_to_be_told_in_detail(self, config: Callable[[CompileRequest], Any]) -> None:
        assert config(request()).profiling_verbosity.name == "DETAILED"

    @pytest.mark.parametrize(
        ("workspace", "budget", "limit"),
        [(None, None, None), (64, None, 64), (None, 512, 512), (64, 512, 64), (900, 512, 512)],
    )
    def test_workspace_is_limited_by_both_limits(
        self,
        workspace: int | None,
        budget: int | None,
        limit: int | None,
        config: Callable[[CompileRequest], Any],
    ) -> None:
        found = config(request(workspace_mb=workspace, gpu_memory_mb=budget)).limits
        assert list(found.values()) == ([] if limit is None else [limit * MIB])

    def test_profiles_are_set_for_inputs_that_are_open(self, config: Callable[[CompileRequest], Any]) -> None:
        shapes = Profile((1, 3, 32, 32), (2, 3, 32, 32), (8, 3, 32, 32))
        opened = serialize(open_dimensions(typed("residual")[0], shapes))
        found = config(replace(request(), graph=opened, profiles={"image": shapes})).profiles
        assert found[0].shapes == {"image": (shapes.minimum, shapes.optimum, shapes.maximum)}
        assert config(request()).profiles == []

    @pytest.mark.parametrize(("version", "flag"), [("10.3.0", True), ("11.4.0", False)])
    def test_strong_typing_is_asked_for_where_it_is_not_the_rule(
        self, version: str, flag: bool, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trt = FakeTensorRT(cuda, version)
        trt.install(monkeypatch)
        asked: list[int] = []
        create = trt.Builder.create_network

        def watched(self: Any, flags: int) -> Any:
            asked.append(flags)
            return create(self, flags)

        monkeypatch.setattr(trt.Builder, "create_network", watched)
        assert compile_engine(request()).version == version
        assert asked == [(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)) if flag else 0]

    def test_tensorrt_compiles_for_the_gpu_it_runs_on_only(self, trt: FakeTensorRT) -> None:
        with pytest.raises(ModelError, match=r"TensorRT 10\.3\.0 cannot compile for compute capability 8\.7"):
            compile_engine(request(capability=(8, 7)))


def test_a_builder_that_does_not_start_says_why(trt: FakeTensorRT) -> None:
    trt.built_for = 14
    with pytest.raises(RuntimeFault, match=r"TensorRT 10\.3\.0 does not start: .* error: 35") as caught:
        compile_engine(request())
    assert "driver" in caught.value.fix


def test_rtx_that_cannot_load_what_it_compiled_here_says_why(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = FakeTensorRT(cuda, rtx=True)
    rtx.install(monkeypatch)
    rtx.built_for = 14
    with pytest.raises(RuntimeFault, match=r"TensorRT-RTX 1\.7\.1\.116 does not start"):
        compile_engine(request(runtime="tensorrt_rtx"))
    assert compile_engine(request(runtime="tensorrt_rtx", capability=(8, 9))).engine  # that needs no driver


class TestMemory:
    def test_the_least_is_weights_and_the_product_that_moves_most(self) -> None:
        """8×16×8×8 floats in, 8×32×8×8 out, 32×16×3×3 weights; a Relu and a 1×1 convolution move less."""
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["y"], name="big", pads=[1] * 4),
            helper.make_node("Relu", ["y"], ["z"], name="relu"),
            helper.make_node("Conv", ["z", "v"], ["out"], name="small"),
        ]
        weights = [
            helper.make_tensor("w", TensorProto.FLOAT, (32, 16, 3, 3), bytes(4 * 32 * 16 * 9), raw=True),
            helper.make_tensor("v", TensorProto.FLOAT, (1, 32, 1, 1), bytes(4 * 32), raw=True),
        ]
        values = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", c, 8, 8])
            for n, c in (("x", 16), ("out", 1))
        ]
        model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights))
        found = least_memory(model.SerializeToString(), {"x": (8, 16, 8, 8)})
        assert found.node == "big"
        assert found.weights == 4 * (32 * 16 * 9 + 32)
        assert found.activations == 4 * 8 * 8 * 8 * (16 + 32)

    def test_quantized_tensors_count_as_they_are_stored(self) -> None:
        fast, exact = (least_memory(serialize(typed("residual", "a10", v)[0]), {}) for v in ("fast", "exact"))
        assert fast.weights < 0.7 * exact.weights
        assert fast.activations <= exact.activations // 2

    def test_what_cannot_fit_is_refused_before_the_runtime_is_even_imported(self) -> None:
        """There is no TensorRT in this test."""
        shapes = Profile((1, 3, 32, 32), (1, 3, 32, 32), (256, 3, 32, 32))
        opened = serialize(open_dimensions(typed("residual")[0], shapes))
        what = CompileRequest(opened, "tensorrt", profiles={"image": shapes}, gpu_memory_mb=8)
        with pytest.raises(ModelError, match=r"needs at least [\d.]+ MiB of GPU memory") as caught:
            compile_engine(what)
        assert "gpu_memory_mb is 8" in caught.value.what
        assert "MiB of weights" in caught.value.why and "node 'left'" in caught.value.why
        assert "largest batch" in caught.value.fix

    def test_an_engine_that_turns_out_too_large_is_refused(
        self, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trt.ICudaEngine, "device_memory_size_v2", 100 * MIB)
        with pytest.raises(ModelError, match=r"the engine needs 100\.\d MiB .* gpu_memory_mb allows 64"):
            compile_engine(request(gpu_memory_mb=64))
        assert compile_engine(request(gpu_memory_mb=128)).engine


class TestTimingCache:
    def test_it_is_kept_for_each_version_and_gpu_and_named_in_the_result(
        self, trt: FakeTensorRT, tmp_path: Path
    ) -> None:
        what = request(timing_cache=tmp_path / "timings", gpu="sm87")
        first, second = compile_engine(what), compile_engine(what)
        (path,) = (tmp_path / "timings").iterdir()
        assert path.name == "tensorrt-10.3.0-sm87.timing"
        assert first.timing_cache == "tensorrt-10.3.0-sm87.timing (new)"
        assert second.timing_cache.startswith("tensorrt-10.3.0-sm87.timing (")
        assert "new" not in second.timing_cache

    def test_a_damaged_one_is_as_good_as_none(self, trt: FakeTensorRT, tmp_path: Path) -> None:
        path = tmp_path / "tensorrt-10.3.0-gpu.timing"
        path.write_bytes(b"no timings at all")
        assert compile_engine(request(timing_cache=tmp_path)).timing_cache.endswith("(new)")
        assert path.read_bytes().startswith(b"timings")

    def test_a_folder_that_cannot_be_written_costs_nothing(self, trt: FakeTensorRT, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        assert compile_engine(request(timing_cache=tmp_path / "file")).engine
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    def test_rtx_times_nothing_and_has_none(
        self, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeTensorRT(cuda, rtx=True).install(monkeypatch)
        found = compile_engine(request(runtime="tensorrt_rtx", timing_cache=tmp_path))
        assert found.timing_cache == "" and list(tmp_path.iterdir()) == []


class TestProgress:
    """Phases as TensorRT nests them."""

    def steps(self, trt: FakeTensorRT) -> list[tuple[str, int]]:
        from edge.build.tensorrt import _monitor

        heard: list[tuple[str, int]] = []
        monitor = _monitor(trt, lambda phase, done, total: heard.append((phase, done)))  # type: ignore[arg-type]
        monitor.phase_start("build", None, 2)
        monitor.step_complete("build", 0)
        monitor.phase_start("time kernels", "build", 4)
        for step in range(4):
            monitor.step_complete("time kernels", step)
        monitor.phase_finish("time kernels")
        monitor.step_complete("build", 1)
        monitor.phase_finish("build")
        return heard

    def test_an_inner_phase_fills_its_step_of_the_outer_one(self, trt: FakeTensorRT) -> None:
        assert self.steps(trt) == [
            ("build", 50),
            *(("time kernels", done) for done in (62, 75, 87, 100)),
            ("build", 100),
        ]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, Abandoned, ZeroDivisionError])
    def test_an_exception_stops_the_build_and_comes_out(
        self, error: type[BaseException], trt: FakeTensorRT
    ) -> None:
        heard: list[int] = []

        def progress(phase: str, done: int, total: int) -> None:
            heard.append(done)
            raise error

        with pytest.raises(error):
            compile_engine(request(), progress)
        assert len(heard) == 1  # it was the last step


class TestInspector:
    def test_its_json_is_kept(self, trt: FakeTensorRT) -> None:
        found = compile_engine(request())
        names = [layer["Name"] for layer in json.loads(found.layers)["Layers"]]
        assert {"stem", "left", "head"} <= set(names)

    def test_without_a_driver_there_is_none(self, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", lambda self, engine: None)
        assert compile_engine(request()).layers == ""

    @pytest.mark.parametrize(
        "tensor",
        [
            {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},  # TensorRT 10
            {"Format": "Row major linear INT8 format (kLINEAR)", "DataType": "Int8"},  # TensorRT 11
        ],
    )
    def test_a_layer_that_reads_int8_runs_int8(self, tensor: dict[str, str]) -> None:
        layer = {"Name": "a + b", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]", "Inputs": [tensor]}
        assert compare_engine(json.dumps({"Layers": [layer]}), (("a", "int8"), ("b", "bf16"))) == []

    @pytest.mark.parametrize(
        ("tensor", "runs"),
        [
            ({"Format/Datatype": "Channel major FP16 format where C % 8 == 0"}, "fp16"),
            ({"Format/Datatype": "BFloat16"}, "bf16"),
            ({"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "Float"}, "fp32"),
        ],
    )
    def test_one_that_runs_higher_is_a_finding(self, tensor: dict[str, str], runs: str) -> None:
        layer = {"Name": "a", "Inputs": [tensor], "Weights": {"Type": runs, "Count": 3}}
        found = compare_engine(json.dumps({"Layers": [layer]}), (("a", "fp8"),))
        assert found == [f"planned fp8, runs {runs}: node 'a'"]

    @pytest.mark.parametrize(
        "information",
        [
            "",
            "not JSON",
            "{}",
            '{"Layers": ["a"]}',
            '{"Layers": [{"Name": "a"}]}',
            '{"Layers": [{"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin",'
            ' "Metadata": "[ONNX Layer: a]", "Inputs": [{"Format/Datatype": "Float"}]}]}',
        ],
    )
    def test_where_it_tells_nothing_there_is_nothing_to_find(self, information: str) -> None:
        assert compare_engine(information, (("a", "int8"),)) == []


class TestNetwork:
    """The parsed network of the real parser, against the plan."""

    @pytest.fixture
    def parsed(self) -> Iterator[Callable[[bytes], Any]]:
        rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
        alive: list[Any] = []

        def parse(graph: bytes) -> Any:
            notes = Notes(rtx)
            builder = rtx.Builder(notes.logger)
            network = builder.create_network(1)
            parser = rtx.OnnxParser(network, notes.logger)
            assert parser.parse(graph), notes.said("ERROR")
            alive.extend([builder, network, parser])
            return network

        yield parse
        alive.reverse()
        alive.clear()

    @pytest.mark.parametrize("variant", plan.VARIANTS)
    @pytest.mark.parametrize("target", ["t4", "a10", "ada"])
    @pytest.mark.parametrize("name", graphs.GOOD)
    def test_every_node_is_in_its_planned_precision(
        self, name: str, target: str, variant: Variant, parsed: Callable[[bytes], Any]
    ) -> None:
        model, made = typed(name, target, variant)
        assert compare_network(parsed(serialize(model)), planned_precisions(made.steps, made.carrier)) == []

    def test_a_graph_that_leaves_a_node_in_the_carrier_is_found(self, parsed: Callable[[bytes], Any]) -> None:
        """The plan says fp8 for `left`; its activations and weights are wired past their Q/DQ pairs."""
        model, made = typed("residual")
        index = Graph(model)
        (left,) = (n for n in model.graph.node if n.name == "left")
        quantize = index.producer[index.producer[left.input[0]].input[0]]
        left.input[0] = quantize.input[0]
        found = compare_network(parsed(serialize(model)), planned_precisions(made.steps, made.carrier))
        assert found == ["planned fp8, runs bf16: node 'left'"]

    def test_weights_that_are_not_quantized_are_found(self, parsed: Callable[[bytes], Any]) -> None:
        model, made = typed("residual", "a10")
        (left,) = (n for n in model.graph.node if n.name == "left")
        carried = graphs.good("residual").constant("left.weight")
        assert carried is not None
        bf16 = carried.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
        model.graph.initializer.append(numpy_helper.from_array(bf16, "left.weight/plain"))
        left.input[1] = "left.weight/plain"
        found = compare_network(parsed(serialize(model)), planned_precisions(made.steps, made.carrier))
        assert found == ["planned int8, runs bf16: node 'left'"]

    def test_a_plan_that_was_tampered_with_is_found(self, parsed: Callable[[bytes], Any]) -> None:
        model, made = typed("residual", "a10")
        other = dict(planned_precisions(made.steps, made.carrier)) | {
            "left": "fp8",
            "sigmoid": "fp32",
        }
        assert compare_network(parsed(serialize(model)), tuple(other.items())) == [
            "planned fp8, runs int8: node 'left'",
            "planned fp32, runs bf16: node 'sigmoid'",
        ]

    def test_a_quantized_node_that_is_gone_is_found(self, parsed: Callable[[bytes], Any]) -> None:
        model, _ = typed("residual")
        found = compare_network(parsed(serialize(model)), (("vanished", "int8"), ("folded", "bf16")))
        assert found == ["planned int8, not in the compiled network: node 'vanished'"]


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ("[ONNX Layer: a/Conv]", ["a/Conv"]),
        ("[ONNX Layer: a]\x1e[ONNX Layer: b]", ["a", "b"]),
        ("[ONNX Layer: layers[0]/Conv]", ["layers[0]/Conv"]),
        ("", ["layer"]),
    ],
)
def test_a_layer_names_the_nodes_it_comes_from(metadata: str, names: list[str]) -> None:
    assert origins(metadata, "layer") == names


def parse_errors_of(*nodes: tuple[str, str]) -> bytes:
    model = onnx.ModelProto.FromString(serialize(typed("residual")[0]))
    for node in model.graph.node:
        for name, op in nodes:
            if node.name == name:
                node.op_type = op
    return serialize(model)


def test_every_node_that_the_parser_cannot_read_is_named(trt: FakeTensorRT) -> None:
    graph = parse_errors_of(("left_relu", "Warp"), ("head", "Weft"))
    with pytest.raises(ModelError, match=r"TensorRT 10\.3\.0 cannot read the graph") as caught:
        compile_engine(CompileRequest(graph, "tensorrt"))
    assert "node 'left_relu' (Warp): no importer" in caught.value.why
    assert "node 'head' (Weft): no importer" in caught.value.why
    assert "[UNSUPPORTED_NODE, ModelImporter.cpp:1]" in caught.value.why


def counts(up_to: int, progress: Any) -> int:
    """Work that tells its progress."""
    for done in range(up_to):
        progress("count", done, up_to)
    return up_to


def runs_until_nobody_listens(mark: Path, progress: Any) -> None:
    while True:
        try:
            progress("run", 0, 0)
        except Abandoned:
            mark.write_text("stopped cleanly")
            raise


class TestChild:
    def test_its_progress_arrives_here(self) -> None:
        heard: list[Any] = []
        result, peak = in_child(counts, 3, progress=lambda *step: heard.append(step))
        assert (result, heard) == (3, [("count", 0, 3), ("count", 1, 3), ("count", 2, 3)])
        assert peak > 0

    def test_an_interruption_here_lets_it_stop_cleanly(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Well before it would be ended, and without a word."""
        monkeypatch.setattr(resources, "STOP_SECONDS", 60.0)

        def interrupted(*step: Any) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            in_child(runs_until_nobody_listens, tmp_path / "mark", progress=interrupted)
        assert (tmp_path / "mark").read_text() == "stopped cleanly"
        assert capfd.readouterr().err == ""
