"""A plan written into the graph: types, scales, names, and the same numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.graph import OPSET, Graph, attribute, captured, serialize
from edge.precision import numerics, plan
from edge.precision.placement import points
from edge.precision.plan import Plan, Variant
from edge.precision.ranges import Range
from edge.precision.rewrite import rewrite
from edge.targets import TARGETS, Activation

KINDS = ["cpu", "t4", "orin", "ada"]
"""One target of each kind; that others of a kind share its graph is tested below."""
GPUS = KINDS[1:]
CARRIER = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}
Values = NDArray[Any]


def typed(
    index: Graph, target: str, variant: Variant = "fast", activations: Activation = "s8"
) -> tuple[onnx.ModelProto, Plan]:
    seen = graphs.ranges(index)
    made = plan.make(index, TARGETS[target], variant, seen, activations)
    return rewrite(index, made, seen, TARGETS[target]), made


def run(model: onnx.ModelProto, feeds: dict[str, Values], optimized: Path | None = None) -> list[Values]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if optimized:
        options.optimized_model_filepath = str(optimized)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Values] = session.run(None, feeds)
    return found


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in model.graph.initializer}


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    return {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}


def writer(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if tensor in node.output)


def named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


@pytest.fixture(scope="module")
def residual() -> Graph:
    return graphs.good("residual")


class TestWeights:
    @pytest.mark.parametrize("target", ["orin", "ada"])
    def test_they_are_stored_quantized_behind_a_lone_dq(self, residual: Graph, target: str) -> None:
        model, made = typed(residual, target)
        held = constants(model)
        assert set(made.mac_shares) == ({"int8"} if target == "orin" else {"fp8", "int8"})
        for name in made.quantized:
            code = numerics.ONNX[made.precisions[name]]
            dequantize = writer(model, named(model, name).input[1])
            stored, scale, zero = (held[i] for i in dequantize.input)
            assert dequantize.op_type == "DequantizeLinear"
            assert stored.data_type == zero.data_type == code
            assert attribute(dequantize, "axis", None) == 0
            assert list(scale.dims) == list(zero.dims) == [stored.dims[0]]
            assert not any(zero.raw_data)
            assert f"{name}.weight" not in held  # the float32 weights are gone

    def test_each_channel_is_its_weight_to_half_a_step(self, residual: Graph) -> None:
        model, _ = typed(residual, "orin")
        held = constants(model)
        original = residual.constant("right.weight")
        assert original is not None
        stored = numpy_helper.to_array(held["right.weight/int8"]).astype(np.float32)
        scale = numpy_helper.to_array(held["right.weight/scale"]).astype(np.float32).reshape(-1, 1, 1, 1)
        assert (np.abs(stored).max(axis=(1, 2, 3)) >= 126).all()  # 127, but for the rounding of the scale
        assert (np.abs(stored * scale - original) <= scale * 0.51 + 127 * scale * 2**-8).all()

    @pytest.mark.parametrize("node", ["query", "hidden"])
    def test_the_axis_is_the_output_channels_one(self, node: str) -> None:
        model, _ = typed(
            graphs.graph(graphs.transformer() if node == "query" else graphs.classifier()), "orin"
        )
        axis = 1 if node == "query" else 0  # MatMul: K × N; Gemm with transB: N × K
        assert attribute(writer(model, named(model, node).input[1]), "axis", None) == axis

    def test_shared_weights_are_stored_once_for_each_axis(self) -> None:
        net = graphs.Net(shape=(1, 3, 32, 32))
        w = net.weights("shared", 32, 32)
        x = net.op("MatMul", "image", w, name="first")
        x = net.op("MatMul", net.op("Relu", x, name="relu"), w, name="second")
        rows = net.op("Reshape", x, net.constant("flat", [96, 32], np.int64), name="rows")
        x = net.op("Gemm", rows, w, name="turned", transB=1)
        index = graphs.graph(net.model(net.op("Gemm", x, net.weights("last", 32, 512), name="end")))
        model, made = typed(index, "orin")
        assert {"first", "second", "turned"} <= made.quantized
        assert named(model, "first").input[1] == named(model, "second").input[1]
        stored = [
            t.name for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2
        ]
        assert sorted(n for n in stored if n.startswith("shared")) == ["shared/axis1/int8", "shared/int8"]

    def test_the_file_shrinks_with_them(self, residual: Graph) -> None:
        small, _ = typed(residual, "orin")
        assert len(serialize(small)) < 0.4 * len(serialize(residual.model))


class TestScales:
    @pytest.mark.parametrize("target", GPUS)
    def test_their_type_is_the_targets_and_their_values_are_bf16s(self, residual: Graph, target: str) -> None:
        model, _ = typed(residual, target)
        scales = [t for t in model.graph.initializer if t.name.endswith("/scale")]
        allowed = {CARRIER[TARGETS[target].scale_type]}
        if target == "t4":
            allowed.add(TensorProto.FLOAT)  # where float16 would lose the value
        assert scales and {t.data_type for t in scales} <= allowed
        for t in scales:
            values = numpy_helper.to_array(t).astype(np.float32)
            assert np.array_equal(values.astype(ml_dtypes.bfloat16).astype(np.float32), values)
            assert (values > 0).all()

    def test_t4_carries_a_scale_in_fp32_where_fp16_would_lose_it(self, residual: Graph) -> None:
        seen = dict(graphs.ranges(residual))
        source = named(residual.model, "right").input[0]
        tiny = 127 * 2.0**-20 * 1.0078125  # bf16-exact, below float16's normal numbers
        seen[source] = Range(0, tiny, tiny, tiny, (0, tiny))
        made = plan.make(residual, TARGETS["t4"], "fast", seen)
        model = rewrite(residual, made, seen, TARGETS["t4"])
        scale = constants(model)[f"{source}/scale"]
        assert scale.data_type == TensorProto.FLOAT
        assert numpy_helper.to_array(scale) == np.float32(2.0**-20 * 1.0078125)
        last = writer(model, named(model, "right").input[0])
        assert (last.op_type, attribute(last, "to", 0)) == ("Cast", TensorProto.FLOAT16)
        assert value_types(model)[writer(model, last.input[0]).output[0]] == TensorProto.FLOAT

    def test_activations_have_one_scale_and_a_zero_point_of_zero(self, residual: Graph) -> None:
        model, _ = typed(residual, "ada")
        held = constants(model)
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                assert list(held[node.input[1]].dims) == []
                assert numpy_helper.to_array(held[node.input[2]]).astype(np.float32) == 0


class TestCarrier:
    @pytest.mark.parametrize("name", [*graphs.GOOD, "loop"])
    @pytest.mark.parametrize(
        ("target", "variant"), [("cpu", "fast"), ("t4", "fast"), ("orin", "exact"), ("ada", "fast")]
    )
    def test_inputs_and_outputs_stay_fp32_under_their_names(
        self, name: str, variant: Variant, target: str
    ) -> None:
        index = graphs.good(name)
        model, _ = typed(index, target, variant)
        for inside, outside in ((model.graph.input, index.inputs), (model.graph.output, index.outputs)):
            assert [v.name for v in inside] == outside
            assert {v.type.tensor_type.elem_type for v in inside} == {TensorProto.FLOAT}
        model.opset_import[0].version = 22  # the first in which the checker knows bf16 convolutions
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        made = [o for node in model.graph.node for o in node.output]
        assert len(made) == len(set(made))

    @pytest.mark.parametrize("target", GPUS)
    def test_everything_between_is_in_the_carrier(self, residual: Graph, target: str) -> None:
        model, _ = typed(residual, target, "exact")
        types, outside = value_types(model), {*residual.inputs, *residual.outputs}
        inner = {o for node in model.graph.node for o in node.output} - outside
        assert {types[name] for name in inner} == {CARRIER[TARGETS[target].carrier]}
        assert {t.data_type for t in model.graph.initializer} == {CARRIER[TARGETS[target].carrier]}

    def test_the_scales_of_resize_stay_fp32(self) -> None:
        model, _ = typed(graphs.graph(graphs.resize()), "ada")
        node = named(model, "enlarge")
        assert constants(model)[node.input[2]].data_type == TensorProto.FLOAT
        assert value_types(model)[node.output[0]] == TensorProto.BFLOAT16

    @pytest.mark.parametrize("first", ["data", "scales"])
    def test_a_constant_that_is_data_and_scales_exists_in_both_types(self, first: str) -> None:
        net = graphs.Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        four = net.constant("four", [1, 1, 2, 2])
        image = net.op("MatMul", "image", net.weights("w", 32, 4), name="narrow")
        nodes = {
            "data": lambda: net.op("Mul", image, four, name="mul"),
            "scales": lambda: net.op("Resize", x, "", four, name="enlarge", mode="nearest"),
        }
        made = {name: nodes[name]() for name in sorted(nodes, key=lambda name: name != first)}
        index = graphs.graph(net.model(made["data"], made["scales"], names=("product", "enlarged")))
        model, _ = typed(index, "ada", "exact")
        held = constants(model)
        assert held[named(model, "enlarge").input[2]].data_type == TensorProto.FLOAT
        assert held[named(model, "mul").input[1]].data_type == TensorProto.BFLOAT16

    def test_casts_and_made_up_tensors_follow_the_carrier(self) -> None:
        net = graphs.Net()
        x = net.conv("image", "stem", (3, 32))
        shape = net.op("Shape", net.op("NonZero", x, name="found"), name="count")
        filled = net.op(
            "ConstantOfShape", shape, name="fill", value=numpy_helper.from_array(np.float32([0.5]))
        )
        whole = net.op("Cast", shape, name="whole", to=TensorProto.FLOAT)
        sums = [net.op("ReduceSum", t, name=f"sum{i}", keepdims=0) for i, t in enumerate((filled, whole))]
        x = net.op("Add", net.op("Add", x, sums[0], name="a"), sums[1], name="b")
        model, _ = typed(graphs.graph(net.model(x)), "ada", "exact")
        assert attribute(named(model, "whole"), "to", 0) == TensorProto.BFLOAT16
        assert attribute(named(model, "fill"), "value", None).data_type == TensorProto.BFLOAT16

    @pytest.mark.parametrize("name", ["branch", "loop"])
    def test_control_flow_is_an_island_of_fp32(self, name: str) -> None:
        index = graphs.graph(graphs.branch() if name == "branch" else graphs.loop())
        model, _ = typed(index, "ada")
        island = next(node for node in model.graph.node if node.op_type in ("If", "Loop"))
        assert value_types(model)[island.output[0]] == TensorProto.FLOAT
        (behind,) = [node for node in model.graph.node if island.output[0] in node.input]
        assert (behind.op_type, attribute(behind, "to", 0)) == ("Cast", TensorProto.BFLOAT16)
        for tensor in island.input:
            if tensor and tensor in value_types(model):
                assert value_types(model)[tensor] in (TensorProto.FLOAT, TensorProto.BOOL)

    def test_what_control_flow_reads_from_around_itself_is_fp32(self) -> None:
        model, _ = typed(graphs.graph(graphs.branch(captures=True)), "ada")
        island = next(node for node in model.graph.node if node.op_type == "If")
        constants = {t.name: t.data_type for t in model.graph.initializer}
        read = set(captured(island))
        assert read == {"stem_relu.out/as_fp32", "gain"}
        assert all((value_types(model) | constants)[name] == TensorProto.FLOAT for name in read)

    def test_on_a_processor_it_reads_what_it_likes(self) -> None:
        index = graphs.graph(graphs.branch(captures=True))
        model, _ = typed(index, "cpu", "exact")
        (feeds,) = graphs.feeds(1)
        assert np.array_equal(run(model, feeds)[0], run(index.model, feeds)[0])


class TestBytes:
    @pytest.mark.parametrize("name", graphs.GOOD)
    @pytest.mark.parametrize("target", ["cpu", "ada"])
    def test_two_rewrites_are_the_same_bytes(self, name: str, target: str) -> None:
        written = []
        for _ in range(2):
            index = graphs.graph(graphs.GOOD[name]())
            written.append(serialize(typed(index, target)[0]))
        assert written[0] == written[1]

    def test_targets_that_can_do_the_same_share_one_graph(self, residual: Graph) -> None:
        assert len({serialize(typed(residual, t)[0]) for t in ("a100", "a10", "orin")}) == 1
        assert len({serialize(typed(residual, t)[0]) for t in ("ada", "hopper", "thor", "blackwell")}) == 1

    @pytest.mark.parametrize("name", graphs.GOOD)
    def test_an_empty_plan_in_fp32_changes_no_number(self, name: str) -> None:
        original = graphs.GOOD[name]()
        index = graphs.graph(original)
        model, made = typed(index, "cpu", "exact")
        onnx.checker.check_model(model, full_check=True)
        assert not made.quantized
        for feeds in graphs.feeds(2):
            assert np.array_equal(run(model, feeds)[0], run(index.model, feeds)[0])
            for node in original.graph.node:
                node.name = ""  # the runtime refuses a graph in which two have the same
            assert np.allclose(run(model, feeds)[0], run(original, feeds)[0], rtol=1e-4, atol=1e-5)

    def test_it_is_an_opset_with_fp8(self, residual: Graph) -> None:
        model, _ = typed(residual, "ada")
        assert model.ir_version >= 9
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]

    def test_a_graph_with_channels_last_reads_pictures_with_channels_first(self) -> None:
        original = graphs.channels_last()
        model, _ = typed(graphs.graph(original), "cpu", "exact")
        (feeds,) = graphs.feeds(1)
        last = {"image": np.ascontiguousarray(feeds["image"].transpose(0, 2, 3, 1))}
        assert np.allclose(run(model, feeds)[0], run(original, last)[0], atol=1e-6)


class TestProcessor:
    def test_the_fused_integer_operators_really_appear(self, residual: Graph, tmp_path: Path) -> None:
        model, _ = typed(residual, "cpu", activations="u8")
        run(model, graphs.feeds(1)[0], tmp_path / "optimized.onnx")
        found = Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node)
        assert found["QLinearConv"] == 6
        assert found["QLinearAdd"] == 1
        assert found["QLinearConcat"] == 1
        assert not found["Conv"]
        assert found["MaxPool"] + found["NhwcMaxPool"] == 1

    @pytest.mark.parametrize("name", graphs.GOOD)
    @pytest.mark.parametrize("activations", ["u8", "s8"])
    def test_its_numbers_stay_close_to_fp32(self, name: str, activations: Activation) -> None:
        index = graphs.good(name)
        model, made = typed(index, "cpu", activations=activations)
        assert made.quantized
        for feeds in graphs.feeds(2):
            (expected,), (found,) = run(index.model, feeds), run(model, feeds)
            assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)

    def test_a_bias_is_int32_in_units_of_both_scales(self, residual: Graph) -> None:
        seen = graphs.ranges(residual)
        made = plan.make(residual, TARGETS["cpu"], "fast", seen, "u8")
        model = rewrite(residual, made, seen, TARGETS["cpu"])
        held, node = constants(model), named(model, "right")
        dequantize = writer(model, node.input[2])
        stored, scale = (numpy_helper.to_array(held[i]) for i in dequantize.input[:2])
        pair = points(residual, made, seen, TARGETS["cpu"])[named(residual.model, "right").input[0], "int8"]
        weight_scale = numpy_helper.to_array(held["right.weight/scale"])
        assert stored.dtype == np.int32
        assert np.array_equal(scale, pair.scale * weight_scale)
        bias = residual.constant("right.bias")
        assert bias is not None
        assert (np.abs(stored * scale - bias) <= scale * 0.51).all()

    @pytest.mark.parametrize("shape", [(64,), (1, 64), (1,), (16, 64)])
    def test_a_gemm_bias_of_any_shape_keeps_its_value(self, shape: tuple[int, ...]) -> None:
        index = graphs.graph(graphs.classifier(shape))
        model, made = typed(index, "cpu", activations="u8")
        assert "hidden" in made.quantized
        (feeds,) = graphs.feeds(1)
        (expected,), (found,) = run(index.model, feeds), run(model, feeds)
        assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)

    def test_a_bias_too_large_for_int32_units_keeps_its_value(self) -> None:
        """A pruned channel has weights near zero, so its units are tiny; its bias is what it writes."""
        model = graphs.residual()
        for t in model.graph.initializer:
            if t.name == "right.weight":
                values = numpy_helper.to_array(t).copy()
                values[3] *= 1e-12
                t.CopyFrom(numpy_helper.from_array(values, t.name))
            elif t.name == "right.bias":
                values = numpy_helper.to_array(t).copy()
                values[3] = 2.5
                t.CopyFrom(numpy_helper.from_array(values, t.name))
        index = graphs.graph(model)
        quantized, made = typed(index, "cpu", activations="u8")
        assert "right" in made.quantized
        probe = "add.out"
        for m in (quantized, index.model):
            m.graph.output.append(helper.make_tensor_value_info(probe, TensorProto.FLOAT, None))
        (feeds,) = graphs.feeds(1)
        expected, found = run(index.model, feeds)[1], run(quantized, feeds)[1]
        assert np.allclose(found[:, 3], expected[:, 3], atol=0.1)

    def test_tensors_that_only_move_values_keep_their_scale(self) -> None:
        net = graphs.Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        x = net.op("MaxPool", x, name="pool", kernel_shape=[2, 2], strides=[2, 2])
        index = graphs.graph(net.model(net.conv(x, "body", (32, 32))))
        seen = graphs.ranges(index)
        made = plan.make(index, TARGETS["cpu"], "fast", seen, "u8")
        found = points(index, made, seen, TARGETS["cpu"])
        before, after = found["relu.out", "int8"], found["pool.out", "int8"]
        assert (before.scale, before.zero_point) == (after.scale, after.zero_point)

    def test_gpus_take_a_pair_only_in_front_of_quantized_products(self, residual: Graph) -> None:
        seen = graphs.ranges(residual)
        made = plan.make(residual, TARGETS["orin"], "fast", seen)
        found = points(residual, made, seen, TARGETS["orin"])
        assert {r for p in found.values() for r in p.readers} == made.quantized
        assert {p.zero_point for p in found.values()} == {0}
        assert numerics.round_bf16(found["image", "int8"].scale) == found["image", "int8"].scale
