"""Biases that restore means, and where they find a place in the graph."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import Net

from edge.build.emulate import emulated
from edge.graph import Graph
from edge.precision import weights
from edge.precision.compensation import (
    BiasHome,
    Compensation,
    StoredWeight,
    bias_home,
    output_axis,
    weight_key,
)
from edge.precision.groups import is_weighted, products
from edge.precision.moments import measure
from edge.precision.plan import Plan, Planner, Step, Variant
from edge.precision.rewrite import rewrite
from edge.precision.sessions import observer
from edge.targets import TARGETS


def matrix(write: Any, rank: int = 2) -> Graph:
    """A MatMul of four rows, or of a stack of them, and what `write` puts behind it."""
    net = Net(shape=(1, 2, 4, 32))
    return Graph(graphs.prepare(net.model(write(net, "image")), None, (2, 4, 32)))


def node(index: Graph, name: str) -> onnx.NodeProto:
    return next(n for n in index.nodes if n.name == name)


class TestHome:
    def test_a_convolution_has_a_bias_or_is_given_one(self) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "with", (3, 32)), name="relu")
        x = net.op("Conv", x, net.weights("w", 32, 32, 1, 1), name="without")
        index = graphs.graph(net.model(net.op("Sigmoid", x, name="s")))
        assert bias_home(index, node(index, "with")) == BiasHome("with", 2, "with.bias")
        assert bias_home(index, node(index, "without")) == BiasHome("without", 2, "")

    @pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}])
    def test_a_gemm_that_scales_has_none(self, attributes: dict[str, float]) -> None:
        def write(net: Net, x: str) -> str:
            rows = net.op("Reshape", x, net.constant("rows", [8, 32], np.int64), name="flat")
            b = net.constant("b", np.ones(16))
            return net.op("Gemm", rows, net.weights("w", 32, 16), b, name="gemm", **attributes)

        index = matrix(write)
        assert bias_home(index, node(index, "gemm")) is None

    def test_the_add_behind_a_matmul_serves(self) -> None:
        """In a stack, so that no runtime folds them into a Gemm."""

        def write(net: Net, x: str) -> str:
            product = net.op("MatMul", x, net.weights("w", 2, 32, 16), name="product")
            return net.op("Add", net.constant("b", np.ones(16)), product, name="add")

        index = matrix(write)
        assert bias_home(index, node(index, "product")) == BiasHome("add", 0, "b")

    def test_a_matmul_that_somebody_else_reads_has_none(self) -> None:
        def write(net: Net, x: str) -> str:
            product = net.op("MatMul", x, net.weights("w", 2, 32, 16), name="product")
            added = net.op("Add", product, net.constant("b", np.ones(16)), name="add")
            return net.op("Mul", added, product, name="mul")

        index = matrix(write)
        assert bias_home(index, node(index, "product")) is None

    def test_a_matmul_behind_which_activations_are_added_has_none(self) -> None:
        index = graphs.good("transformer")
        assert bias_home(index, node(index, "project")) is None
        assert bias_home(index, node(index, "query")) is None


class TestAxes:
    def test_output_channels(self) -> None:
        def made(op: str, **attributes: Any) -> onnx.NodeProto:
            return onnx.helper.make_node(op, ["x", "w"], ["y"], **attributes)

        assert output_axis(made("Conv"), 4) == 0
        assert output_axis(made("Gemm", transB=1), 2) == 0
        assert output_axis(made("Gemm"), 2) == 1
        assert output_axis(made("MatMul"), 2) == 1
        assert output_axis(made("MatMul"), 3) == 2
        assert weight_key(made("MatMul"), 2, "w8a16") == ("w", 1, "w8a16")

    def test_dequantized(self) -> None:
        values = np.arange(-4, 4, dtype=np.int8).reshape(4, 2)
        by_channel = StoredWeight(values, np.float32([1, 10]), 1)
        assert by_channel.dequantized().tolist() == [[-4, -30], [-2, -10], [0, 10], [2, 30]]
        by_block = StoredWeight(values, np.float32([[1, 2], [10, 20]]), 0, block=2)
        assert by_block.dequantized().tolist() == [[-4, -6], [-2, -2], [0, 20], [20, 60]]


def planned(index: Graph, target: str, variant: Variant = "fast") -> Plan:
    return Planner(index, TARGETS[target], variant, graphs.ranges(index)).plan()


def run(index: Graph, plan: Plan, target: str, compensation: Compensation, *tensors: str) -> list[Any]:
    model = rewrite(index, plan, graphs.ranges(index), TARGETS[target], compensation)
    wide = emulated(model) if TARGETS[target].is_gpu else model
    values = observer(wide, tensors, plain=TARGETS[target].is_gpu)(graphs.feeds(1)[0])
    return [values[name] for name in tensors]


class TestInTheGraph:
    @pytest.mark.parametrize("target", ["orin", "t4", "cpu"])
    @pytest.mark.parametrize("with_bias", [True, False])
    def test_a_shift_moves_each_channel_by_its_value(self, with_bias: bool, target: str) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        inputs = [
            net.weights("w", 32, 32, 1, 1),
            *([net.constant("b", np.full(32, 0.5))] if with_bias else []),
        ]
        last = net.op("Conv", x, *inputs, name="last")
        index = graphs.graph(net.model(last))
        plan = planned(index, target)
        assert plan.precisions["last"] == "int8"
        shift = np.linspace(-2, 2, 32, dtype=np.float32)
        (before,), (after,) = (
            run(index, plan, target, Compensation(biases=biases), "out")
            for biases in ({}, {("last", "int8"): shift})
        )
        moved = (after.astype(np.float64) - before).mean((0, 2, 3))
        tolerance = 0.05 if target != "cpu" else 0.02  # of bf16, or of the int32 bias
        assert np.abs(moved - shift).max() < tolerance

    def test_a_shift_for_another_type_is_not_applied(self) -> None:
        index = graphs.good("residual")
        plan = planned(index, "orin")
        shift = {("left", "fp8"): np.ones(32, np.float32)}
        plain, shifted = (
            run(index, plan, "orin", c, "out")[0] for c in (Compensation(), Compensation(biases=shift))
        )
        assert np.array_equal(plain, shifted)

    def test_products_that_share_a_bias_are_shifted_each_on_its_own(self) -> None:
        net = Net()
        shared = net.constant("shared", np.full(32, 0.25))
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
        a = net.op("Conv", x, net.weights("wa", 32, 32, 1, 1), shared, name="a")
        b = net.op("Conv", x, net.weights("wb", 32, 32, 1, 1), shared, name="b")
        index = graphs.graph(net.model(a, b, names=("out_a", "out_b")))
        plan = planned(index, "orin", "w8a16")
        biases = {("a", "w8a16"): np.full(32, 8, np.float32)}
        before = run(index, plan, "orin", Compensation(), "out_a", "out_b")
        after = run(index, plan, "orin", Compensation(biases=biases), "out_a", "out_b")
        assert np.allclose(after[0] - before[0], 8, atol=0.1)
        assert np.array_equal(after[1], before[1])

    def test_a_shift_finds_an_add_that_runs_in_fp32(self) -> None:
        """A policy widens the Add that holds the bias of a MatMul."""

        def write(net: Net, x: str) -> str:
            product = net.op("MatMul", x, net.weights("w", 2, 32, 16), name="product")
            return net.op("Add", product, net.constant("b", np.ones(16)), name="add")

        index = matrix(write)
        steps = (Step("product", "MatMul", "w8a16", "", 0), Step("add", "Add", "fp32", "", 0))
        feeds = {"image": np.random.default_rng(0).normal(0, 1, (1, 2, 4, 32)).astype(np.float32)}
        found = []
        for biases in ({}, {("product", "w8a16"): np.full(16, 3, np.float32)}):
            model = rewrite(
                index, Plan("bf16", "s8", steps), {}, TARGETS["orin"], Compensation(biases=biases)
            )
            found.append(observer(emulated(model), ["out"], plain=True)(feeds)["out"])
        assert np.allclose(found[1] - found[0], 3, atol=1e-5)

    def test_weights_that_are_given_are_written(self) -> None:
        index = graphs.good("residual")
        plan = planned(index, "orin")
        value = index.constant("left.weight")
        assert value is not None
        given = StoredWeight(np.full(value.shape, 5, np.int8), np.full(32, 0.5, np.float32), 0)
        found = Compensation({("left.weight", 0, "int8"): given})
        model = rewrite(index, plan, graphs.ranges(index), TARGETS["orin"], found)
        held = {t.name: graphs.numpy_helper.to_array(t) for t in model.graph.initializer}
        assert (held["left.weight/int8"] == 5).all() and (held["left.weight/scale"] == 0.5).all()
        assert not (held["right.weight/int8"] == 5).all()

    def test_a_pruned_channel_leaves_the_weights_of_the_others_as_they_were_given(self) -> None:
        """Its bias needs a coarser scale on a processor; the others' biases are for the weights they have."""
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        pruned = np.where(np.arange(32) == 3, np.float32(1e-12), net.random.normal(0, 0.2, 32))
        w = net.constant("w", np.broadcast_to(pruned[:, None, None, None], (32, 32, 1, 1)))
        last = net.op("Conv", x, w, net.constant("b", np.ones(32)), name="last")
        index = graphs.graph(net.model(net.op("Relu", last, name="last_relu")))
        values = np.random.default_rng(1).integers(-127, 128, (32, 32, 1, 1)).astype(np.int8)
        scales = np.where(np.arange(32) == 3, 1e-14, 0.01).astype(np.float32)
        found = Compensation({("w", 0, "int8"): StoredWeight(values, scales, 0)})
        model = rewrite(index, planned(index, "cpu"), graphs.ranges(index), TARGETS["cpu"], found)
        held = {t.name: graphs.numpy_helper.to_array(t) for t in model.graph.initializer}
        written, used = held["w/of last/int8"], held["w/of last/scale"]
        kept = np.arange(32) != 3
        assert np.array_equal(written[kept], values[kept]) and (used[kept] == scales[kept]).all()
        assert used[3] > scales[3] and (written[3] == 0).all()


class TestOnRealGraphs:
    @pytest.mark.parametrize(
        ("name", "precision"),
        [*((name, "w8a16") for name in graphs.GOOD), ("classifier", "w4a16"), ("transformer", "w4a16")],
    )
    def test_compensated_networks_are_nearer_to_fp32_on_other_samples(
        self, name: str, precision: Any
    ) -> None:
        """On a processor, whose carrier adds no noise of its own."""
        index = graphs.good(name)
        plan = planned(index, "cpu", precision)
        nodes = [n for n in products(index) if is_weighted(index, n) and plan.precisions[n.name] == precision]
        seen = measure(index, nodes, graphs.feeds(12, seed=50), 12)
        stored, biases = {}, {}
        for n in nodes:
            value = index.constant(n.input[1])
            assert value is not None
            has_bias = bias_home(index, n) is not None
            weight = weights.compensate(n, value, precision, seen[n.name], has_bias=has_bias)
            stored[weight_key(n, value.ndim, precision)] = weight
            if has_bias:
                biases[n.name, precision] = weights.mean_shift(n, value, weight, seen[n.name])
        expected = observer(index.model, index.outputs)(graphs.feeds(1)[0])[index.outputs[0]]
        errors = []
        for compensation in (Compensation(), Compensation(stored, biases)):
            (found,) = run(index, plan, "cpu", compensation, index.outputs[0])
            errors.append(float(np.square(found.astype(np.float64) - expected).sum()))
        assert nodes and errors[1] < 0.7 * errors[0]

    def test_the_mean_of_every_channel_is_restored(self) -> None:
        """Weights in int4, which move means a lot, on samples that the shifts were not measured on."""
        index = graphs.good("classifier")
        hidden = node(index, "hidden")
        value = index.constant(hidden.input[1])
        assert value is not None
        seen = measure(index, [hidden], graphs.feeds(12, seed=50), 12)["hidden"]
        weight = weights.round_weight(hidden, value, "w4a16", TARGETS["orin"])
        shift = weights.mean_shift(hidden, value, weight, seen)
        run_fp32 = observer(index.model, [hidden.input[0]])
        x = np.concatenate([run_fp32(f)[hidden.input[0]] for f in graphs.feeds(6, seed=9)]).astype(np.float64)
        error = x @ (weight.dequantized() - value).T
        assert np.abs(error.mean(0) + shift).mean() < 0.35 * np.abs(error.mean(0)).mean()
