"""Where Q/DQ stand: where TensorRT fuses, and apart where tensors of different range are joined.

The rules are those of TensorRT's guide to explicit quantization: Q/DQ in front of every quantized operand, on
both operands of a residual Add that is fused, and none between a convolution and its activation.
"""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import Net

from edge.graph import Graph
from edge.precision.placement import Points, points
from edge.precision.plan import Choice, Plan, Planner
from edge.precision.rewrite import rewrite
from edge.targets import TARGETS, Activation


def planned(index: Graph, target: str, choices: Any = None, activations: Activation = "s8") -> Plan:
    return Planner(index, TARGETS[target], "fast", graphs.ranges(index), activations).plan(choices)


def placed(index: Graph, target: str, choices: Any = None, activations: Activation = "s8") -> Points:
    plan = planned(index, target, choices, activations)
    return points(index, plan, graphs.ranges(index), TARGETS[target])


def written(
    index: Graph, target: str, choices: Any = None, activations: Activation = "s8"
) -> onnx.ModelProto:
    plan = planned(index, target, choices, activations)
    return rewrite(index, plan, graphs.ranges(index), TARGETS[target])


def writer(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if tensor in n.output)


def named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def origin(model: onnx.ModelProto, tensor: str) -> str:
    """The operator a tensor comes from, casts aside."""
    node = writer(model, tensor)
    while node.op_type == "Cast":
        node = writer(model, node.input[0])
    return str(node.op_type)


def boxes_and_scores(activation: str = "Relu") -> Graph:
    """Boxes in hundreds of pixels and scores below 1, joined, then read by a convolution."""
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    boxes = net.op("Mul", net.conv(x, "boxes", (32, 16)), net.constant("pixels", 400.0), name="scaled")
    scores = net.op("Sigmoid", net.conv(x, "scores", (32, 16)), name="sigmoid")
    parts = [net.conv(part, f"{name}_last", (16, 16)) for name, part in (("b", boxes), ("s", scores))]
    joined = net.op("Concat", *parts, name="joined", axis=1)
    return graphs.graph(net.model(net.conv(joined, "last", (32, 16))))


class TestConcat:
    def test_on_gpus_inputs_of_different_range_keep_scales_of_their_own(self) -> None:
        found = placed(boxes_and_scores(), "orin")
        boxes, scores = found["scaled.out", "int8"], found["sigmoid.out", "int8"]
        assert boxes.scale > 50 * scores.scale
        assert boxes.readers == {"b_last"} and scores.readers == {"s_last"}

    @pytest.mark.parametrize("activations", ["u8", "s8"])
    def test_on_processors_every_input_of_a_concat_has_its_own_scale_and_so_has_what_comes_out(
        self, activations: Activation
    ) -> None:
        index = boxes_and_scores()
        found = placed(index, "cpu", activations=activations)
        parts = [found[f"{name}_last.out", "int8"].scale for name in ("b", "s")]
        joined = found["joined.out", "int8"].scale
        assert parts[0] > 20 * parts[1]
        assert joined == pytest.approx(max(parts), rel=0.3)
        model = written(index, "cpu", activations=activations)
        concat = named(model, "joined")
        assert [origin(model, name) for name in concat.input] == ["DequantizeLinear"] * 2
        assert len({writer(model, name).input[1] for name in concat.input}) == 2

    @pytest.mark.parametrize("target", ["orin", "ada", "cpu"])
    def test_a_graph_that_ends_in_a_concat_shares_no_scale(self, target: str) -> None:
        """The box and score head of a detector."""
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
        boxes = net.op("Mul", net.conv(x, "boxes", (32, 16)), net.constant("pixels", 400.0), name="scaled")
        scores = net.conv(x, "scores", (32, 16))
        index = graphs.graph(net.model(net.op("Concat", boxes, scores, name="joined", axis=1)))
        found = placed(index, target)
        assert "out" not in {name for name, _ in found}
        heads = [
            found[name, "int8"].scale for name in ("scaled.out", "scores.out") if (name, "int8") in found
        ]
        assert len(heads) == (2 if target == "cpu" else 0)
        assert not heads or heads[0] > 50 * heads[1]


class TestConvolutionAndActivation:
    @pytest.mark.parametrize("target", ["orin", "ada", "t4"])
    def test_nothing_stands_between_a_convolution_and_its_activation(self, target: str) -> None:
        index = graphs.good("residual")
        model = written(index, target)
        for relu in ("stem_relu", "left_relu", "branch_relu", "merge_relu"):
            assert writer(model, named(model, relu).input[0]).op_type == "Conv"

    @pytest.mark.parametrize("target", ["orin", "ada", "t4"])
    def test_q_stands_directly_behind_the_activation(self, target: str) -> None:
        index = graphs.good("residual")
        model = written(index, target)
        readers = [n for n in model.graph.node if "left_relu.out" in n.input]
        assert {n.op_type for n in readers} <= {"QuantizeLinear", "Cast"}

    def test_swish_is_one_with_its_convolution(self) -> None:
        index = graphs.good("depthwise_swish")
        model = written(index, "ada")
        for name in ("gate", "swish"):
            assert all(origin(model, i) in ("Conv", "Sigmoid") for i in named(model, name).input)

    def test_every_quantized_product_reads_both_operands_through_dq(self) -> None:
        for name in graphs.GOOD:
            index = graphs.good(name)
            for target in ("orin", "ada", "t4"):
                model, plan = written(index, target), planned(index, target)
                for product in plan.quantized:
                    assert [origin(model, i) for i in named(model, product).input[:2]] == [
                        "DequantizeLinear"
                    ] * 2

    def test_a_tensor_of_several_readers_is_quantized_once(self) -> None:
        index = graphs.good("transformer")
        model = written(index, "orin")
        assert len({named(model, n).input[0] for n in ("query", "key", "value")}) == 1
        quantizers = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
        assert len(quantizers) == len(set(quantizers))

    def test_a_tensor_that_is_read_in_two_types_has_two_pairs(self) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
        outs = [net.conv(x, name, (32, 32)) for name in ("a", "b")]
        index = graphs.graph(net.model(*outs, names=("out_a", "out_b")))
        choices = {"a": Choice("fp8", ""), "b": Choice("int8", ""), "stem": Choice("int8", "")}
        found = placed(index, "ada", choices)
        assert found["stem_relu.out", "fp8"].readers == {"a"}
        assert found["stem_relu.out", "int8"].readers == {"b"}
        model = written(index, "ada", choices)
        types = {}
        for name in ("a", "b"):
            dequantize = writer(model, named(model, name).input[0])
            zero = next(t for t in model.graph.initializer if t.name == dequantize.input[2])
            types[name] = zero.data_type
        assert types == {"a": onnx.TensorProto.FLOAT8E4M3FN, "b": onnx.TensorProto.INT8}


INT8 = {name: Choice("int8", "") for name in ("stem", "left", "right", "branch", "merge", "head", "add")}


class TestResidualAdd:
    def test_the_skip_is_read_in_int8_and_the_convolution_as_it_is(self) -> None:
        """So that the convolution, the Add and the Relu behind it become one kernel."""
        index = graphs.good("residual")
        plan = planned(index, "orin", INT8)
        assert plan.precisions["add"] == "int8" and plan.skips == {"add"}
        model = written(index, "orin", INT8)
        add = named(model, "add")
        assert sorted(origin(model, name) for name in add.input) == ["Conv", "DequantizeLinear"]
        skip = next(name for name in add.input if origin(model, name) == "DequantizeLinear")
        left = named(model, "left").input[0]
        assert skip == left  # the pair that the other reader of the skip has already

    def test_by_itself_it_is_read_in_the_carrier(self) -> None:
        model = written(graphs.good("residual"), "orin")
        assert "DequantizeLinear" not in {origin(model, name) for name in named(model, "add").input}

    def test_where_its_convolution_stays_in_the_carrier_so_does_the_skip(self) -> None:
        plan = planned(graphs.good("residual"), "orin", {**INT8, "right": Choice("bf16", "")})
        assert plan.precisions["add"] == "bf16"
        assert "what it could be fused with is not in int8" in next(
            s.reason for s in plan.steps if s.node == "add"
        )

    def test_on_processors_the_add_is_an_integer_one(self) -> None:
        model = written(graphs.good("residual"), "cpu", activations="u8")
        assert {origin(model, name) for name in named(model, "add").input} == {"DequantizeLinear"}


class TestAttention:
    @pytest.mark.parametrize("target", ["orin", "ada"])
    def test_both_products_read_both_operands_through_dq(self, target: str) -> None:
        model = written(graphs.good("transformer"), target)
        for name in ("scores", "mix"):
            assert [origin(model, i) for i in named(model, name).input] == ["DequantizeLinear"] * 2

    @pytest.mark.parametrize("target", ["orin", "ada"])
    def test_nothing_stands_between_the_scores_and_their_softmax(self, target: str) -> None:
        model = written(graphs.good("transformer"), target)
        assert [origin(model, i) for i in named(model, "scaled").input if "scale" not in i] == ["MatMul"]
        assert origin(model, named(model, "softmax").input[0]) == "Mul"

    def test_softmax_has_a_scale_for_what_it_writes(self) -> None:
        found = placed(graphs.good("transformer"), "orin")
        assert found["softmax.out", "int8"].readers == {"mix"}
        assert found["softmax.out", "int8"].scale * 127 <= 1.01

    def test_a_processor_computes_it_in_fp32(self) -> None:
        """From what the products before it wrote in int8: these are fused with the pair behind them."""
        index = graphs.good("transformer")
        assert {planned(index, "cpu").precisions[name] for name in ("scores", "mix")} == {"fp32"}
        found = placed(index, "cpu")
        assert ("softmax.out", "int8") not in found and ("scores.out", "int8") not in found


def test_an_exact_plan_has_no_pairs() -> None:
    index = graphs.good("residual")
    plan = Planner(index, TARGETS["orin"], "exact", {}).plan()
    assert points(index, plan, {}, TARGETS["orin"]) == {}


def test_scales_cover_what_was_chosen() -> None:
    index = graphs.good("residual")
    ranges = graphs.ranges(index)
    for (name, kind), point in placed(index, "ada").items():
        threshold = ranges[name].int8 if kind == "int8" else ranges[name].fp8
        assert float(point.scale) * (127 if kind == "int8" else 448) == pytest.approx(threshold, rel=2**-8)
        assert np.isfinite(point.scale)
