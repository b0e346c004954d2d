"""Channels of a like range: the function stays, the error of quantized products falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import Net

from edge.errors import RuntimeFault
from edge.graph import Graph
from edge.precision import equalize as module
from edge.precision.calibrate import calibrate
from edge.precision.equalize import HEADROOM, Equalized, equalize, load, save, unchanged
from edge.precision.local import TARGET
from edge.precision.placement import observed_tensors
from edge.precision.plan import Plan, Step
from edge.precision.rewrite import rewrite
from edge.precision.sessions import observer

SPREAD = np.exp2(np.linspace(-7, 0, 32))


def scaled(net: Net, factors: dict[str, tuple[int, Any]]) -> None:
    """Multiply constants along an axis."""
    for tensor in net.constants:
        if tensor.name in factors:
            axis, factor = factors[tensor.name]
            values = graphs.numpy_helper.to_array(tensor).astype(np.float64)
            shape = [-1 if a == axis else 1 for a in range(values.ndim)]
            values = (values * np.reshape(factor, shape)).astype(np.float32)
            tensor.CopyFrom(graphs.numpy_helper.from_array(values, tensor.name))


def convolutions(relu6: bool = False, limit: float = 6.0) -> Graph:
    """Channels of very different range between a convolution and a depthwise one, and behind that."""
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    x = net.conv(x, "first", (32, 32), kernel=1)
    low, high = net.constant("zero", 0.0), net.constant("limit", limit)

    def activation(x: str, name: str) -> str:
        return net.op("Clip", x, low, high, name=name) if relu6 else net.op("Relu", x, name=name)

    x = net.conv(activation(x, "first_act"), "depthwise", (32, 32), group=32)
    x = net.conv(activation(x, "depthwise_act"), "last", (32, 32), kernel=1)
    scaled(
        net,
        {
            "first.weight": (0, SPREAD),
            "first.bias": (0, SPREAD),
            "depthwise.bias": (0, SPREAD),
            "last.weight": (1, 1 / SPREAD),
        },
    )
    return graphs.graph(net.model(x))


def matrices() -> Graph:
    """A normalization whose channels differ in range, as in transformers, before a matrix."""
    net = Net(shape=(1, 3, 32, 32))
    outliers = np.ones(32)
    outliers[[3, 17]] = 40.0
    scale, bias = net.constant("norm.scale", outliers), net.constant("norm.bias", np.zeros(32))
    x = net.op("LayerNormalization", "image", scale, bias, name="norm", axis=-1)
    w = net.weights("matrix.weight", 32, 48)
    x = net.op("MatMul", x, w, name="matrix")
    scaled(net, {"matrix.weight": (0, 1 / outliers)})
    return graphs.graph(net.model(x))


def feeds(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Samples that reach 1, all of them: no other one is clipped."""
    return [{"image": f["image"] / f["image"].max()} for f in graphs.feeds(count, seed)]


def equalized(index: Graph) -> Equalized:
    samples, unseen = feeds(6), feeds(3, seed=100)
    return equalize(index, samples, samples[:3], unseen)


def results(index: Graph, samples: Sequence[Any]) -> Any:
    run = observer(index.model, index.outputs)
    return np.concatenate([run(feeds)[index.outputs[0]] for feeds in samples])


def int8_error(index: Graph, samples: Sequence[Any]) -> float:
    """Of the whole network in int8, weights rounded one by one, once a bias has restored the means: squared
    over squared."""
    ranges = calibrate(index.model, observed_tensors(index), feeds(6), 6, "").ranges
    steps = tuple(
        Step(n.name, n.op_type, "int8" if n.op_type in ("Conv", "MatMul", "Gemm") else "fp32", "", 0)
        for n in index.nodes
    )
    model = rewrite(index, Plan("fp32", "s8", steps), ranges, TARGET)
    run = observer(model, index.outputs, plain=True)
    expected = results(index, samples)
    found = np.concatenate([run(feeds)[index.outputs[0]] for feeds in samples])
    error = found - expected
    axes = (0, 2, 3) if index.nodes[-1].op_type == "Conv" else (0, 1, 2)
    return float(np.square(error - error.mean(axes, keepdims=True)).sum() / np.square(expected).sum())


EXAMPLES = {"Relu": convolutions, "Relu6": lambda: convolutions(relu6=True), "LayerNorm": matrices}


class TestFunction:
    @pytest.mark.parametrize("name", EXAMPLES)
    def test_the_graph_computes_what_it_did(self, name: str) -> None:
        index = EXAMPLES[name]()
        found = equalized(index)
        assert found.strengths
        others = feeds(5, seed=777)
        before, after = results(index, others), results(found.graph, others)
        assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_the_error_in_int8_falls(self, name: str) -> None:
        index = EXAMPLES[name]()
        others = feeds(5, seed=778)
        assert int8_error(equalized(index).graph, others) < 0.1 * int8_error(index, others)

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_the_graph_that_was_given_is_left_as_it_is(self, name: str) -> None:
        index = EXAMPLES[name]()
        before = index.model.SerializeToString(deterministic=True)
        equalized(index)
        assert index.model.SerializeToString(deterministic=True) == before

    def test_the_same_samples_give_the_same_graph(self) -> None:
        first, second = (equalized(convolutions()) for _ in range(2))
        assert np.array_equal(first.factors, second.factors) and first.strengths == second.strengths
        assert first.graph.model == second.graph.model

    @pytest.mark.parametrize("name", graphs.GOOD)
    def test_any_network_keeps_its_results(self, name: str) -> None:
        index = graphs.good(name)
        found = equalized(index)
        others = feeds(3, seed=779)
        before, after = results(index, others), results(found.graph, others)
        assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()

    @pytest.mark.parametrize("last", ["ArgMax", "Greater"])
    def test_results_that_are_no_floats_are_counted_where_they_differ(self, last: str) -> None:
        """Labels and masks: a label has no size, and one pixel on the edge may change sides by rounding."""
        index = convolutions()
        model = onnx.ModelProto.FromString(index.model.SerializeToString())
        (output,) = index.outputs
        zero = graphs.numpy_helper.from_array(np.float32(0), "nothing")
        inputs, more = ([output], {"axis": 1}) if last == "ArgMax" else ([output, "nothing"], {})
        model.graph.initializer.append(zero)
        model.graph.node.append(onnx.helper.make_node(last, inputs, ["label"], name="label", **more))
        kind = onnx.TensorProto.INT64 if last == "ArgMax" else onnx.TensorProto.BOOL
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("label", kind, None))
        labelled = Graph(model)
        found = equalized(labelled)
        assert found.strengths
        others = feeds(3, seed=780)
        assert np.mean(results(labelled, others) == results(found.graph, others)) > 0.999


class TestWhereNothingIsChanged:
    def test_channels_of_like_range_are_left_alone(self) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        index = graphs.graph(net.model(net.conv(x, "last", (32, 32))))
        run = observer(index.model, ["relu.out"])
        peaks = np.max([run(f)["relu.out"].max((0, 2, 3)) for f in feeds(6)], 0)
        even = Net()
        even.nodes, even.constants = net.nodes, net.constants
        scaled(even, {"stem.weight": (0, 1 / peaks), "stem.bias": (0, 1 / peaks)})
        found = equalized(graphs.graph(even.model("last.out")))
        assert found.strengths == {} and np.array_equal(found.factors, np.ones(0))

    @pytest.mark.parametrize("samples", [[], feeds(2)])
    def test_without_samples_to_try_it_on(self, samples: list[Any]) -> None:
        index = convolutions()
        assert equalize(index, samples, [], []).graph is index

    def test_where_samples_are_not_finite(self) -> None:
        """Calibration says which tensor it is."""
        index = convolutions()
        bad = {"image": np.full((1, *graphs.SHAPE), np.inf, np.float32)}
        with np.errstate(invalid="ignore"):
            assert equalize(index, [bad], [bad], []).graph is index

    def test_dead_channels_get_no_factor(self) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        x = net.conv(x, "last", (32, 32), kernel=1)
        dead = SPREAD.copy()
        dead[5] = 0
        scaled(net, {"stem.weight": (0, dead), "stem.bias": (0, dead), "last.weight": (1, 1 / SPREAD)})
        index = graphs.graph(net.model(x))
        found = equalized(index)
        assert found.strengths and np.isfinite(found.factors).all() and (found.factors > 0).all()
        others = feeds(3, seed=780)
        assert np.allclose(results(index, others), results(found.graph, others), rtol=1e-4, atol=1e-5)


class TestRelu6:
    def test_a_channel_that_reaches_the_limit_keeps_its_scale(self) -> None:
        index = convolutions(relu6=True, limit=0.2)
        found = equalized(index)
        run = observer(index.model, ["first_act.out"])
        clipped = np.max([run(f)["first_act.out"].max((0, 2, 3)) for f in feeds(6)], 0) >= 0.2
        assert clipped.any()
        ids = module.channels(index).layout["first_act.out"].ids
        if len(found.factors):
            assert (found.factors[ids[clipped]] == 1).all()

    def test_what_was_seen_keeps_its_distance_from_the_limit(self) -> None:
        index = convolutions(relu6=True)
        found = equalized(index)
        run = observer(found.graph.model, ["first_act.out"])
        peak = np.max([run(f)["first_act.out"].max((0, 2, 3)) for f in feeds(6)], 0)
        factors = found.factors[module.channels(index).layout["first_act.out"].ids]
        assert (factors > 1).any()
        assert (peak[factors > 1] <= 6.0 / HEADROOM[0] * (1 + 1e-5)).all()

    def test_samples_that_would_be_clipped_move_it_further_away(self) -> None:
        """The unseen ones are brighter than all that the factors were chosen on."""
        index = convolutions(relu6=True)
        samples = feeds(4)
        bright = [{"image": f["image"] * np.float32(3.2)} for f in feeds(2, seed=5)]
        found = equalize(index, samples, samples, bright)
        before, after = results(index, bright), results(found.graph, bright)
        assert np.abs(before - after).max() < 1e-3 * np.abs(before).max()

    def test_a_factor_that_does_not_cancel_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_moved", lambda before, after, samples: 0.5)
        with pytest.raises(RuntimeFault, match=r"moves results by 0\.5 of their largest value"):
            equalized(convolutions())


class TestCache:
    def test_what_was_saved_is_the_same_graph(self, tmp_path: Path) -> None:
        index = convolutions()
        found = equalized(index)
        save(found, tmp_path / "deep" / "channels.npz")
        again = load(tmp_path / "deep" / "channels.npz", index)
        assert again is not None and again.graph.model == found.graph.model
        assert again.strengths == found.strengths

    def test_that_nothing_was_changed_is_kept_too(self, tmp_path: Path) -> None:
        index = convolutions()
        save(unchanged(index), tmp_path / "channels.npz")
        again = load(tmp_path / "channels.npz", index)
        assert again is not None and again.graph is index and again.strengths == {}

    @pytest.mark.parametrize("size", [0, 10, 200, -1])
    def test_a_damaged_file_is_no_cache(self, size: int, tmp_path: Path) -> None:
        path = tmp_path / "channels.npz"
        save(equalized(convolutions()), path)
        path.write_bytes(path.read_bytes()[:size])
        assert load(path, convolutions()) is None
        assert load(tmp_path / "absent.npz", convolutions()) is None

    def test_factors_of_another_graph_are_not_taken(self, tmp_path: Path) -> None:
        save(equalized(convolutions()), tmp_path / "channels.npz")
        assert load(tmp_path / "channels.npz", graphs.good("residual")) is None


def test_the_difference_moves_from_the_normalization_into_the_weights() -> None:
    held = {
        t.name: graphs.numpy_helper.to_array(t) for t in equalized(matrices()).graph.model.graph.initializer
    }
    assert np.ptp(np.log2(np.abs(held["norm.scale"]))) < 2  # it was log₂ 40
    assert np.ptp(np.log2(np.abs(held["matrix.weight"]).max(1))) < 4  # it was more than 5
