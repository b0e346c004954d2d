"""Which channels can be scaled together: random factors on every free class change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from graphs import Net

from edge.graph import Graph
from edge.precision.channels import channels
from edge.precision.equalize import rescaled
from edge.precision.sessions import observer


def free(index: Graph, tensor: str) -> bool:
    """Whether every channel of a tensor can be scaled."""
    known = channels(index)
    return tensor in known.layout and not known.frozen[known.layout[tensor].ids].any()


def stem(net: Net) -> str:
    return net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")


def head(net: Net, x: str, count: int = 32) -> onnx.ModelProto:
    return net.model(net.op("Sigmoid", net.conv(x, "head", (count, 1), kernel=1), name="sigmoid"))


def between(write: Callable[[Net, str], str], count: int = 32) -> Graph:
    """A convolution with Relu, something, a convolution."""
    net = Net()
    return graphs.graph(head(net, write(net, stem(net)), count))


def constant(net: Net, name: str, value: Any, dtype: Any = np.float32) -> str:
    return net.constant(name, value, dtype)


def clip(low: float, high: float) -> Callable[[Net, str], str]:
    return lambda net, x: net.op("Clip", x, constant(net, "low", low), constant(net, "high", high), name="m")


COMMUTING: dict[str, Callable[[Net, str], str]] = {
    "nothing": lambda net, x: x,
    "LeakyRelu": lambda net, x: net.op("LeakyRelu", x, name="m", alpha=0.1),
    "PRelu": lambda net, x: net.op("PRelu", x, net.constant("slope", np.full((32, 1, 1), 0.2)), name="m"),
    "MaxPool": lambda net, x: net.op("MaxPool", x, name="m", kernel_shape=[3, 3], pads=[1] * 4),
    "AveragePool": lambda net, x: net.op(
        "AveragePool", x, name="m", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "GlobalAveragePool": lambda net, x: net.op("GlobalAveragePool", x, name="m"),
    "ReduceMean": lambda net, x: net.op("ReduceMean", x, name="m", axes=[2, 3], keepdims=1),
    "Resize": lambda net, x: net.op(
        "Resize", x, "", constant(net, "twice", [1, 1, 2, 2]), name="m", mode="linear"
    ),
    "Pad": lambda net, x: net.op("Pad", x, constant(net, "by", [0, 0, 1, 1, 0, 0, 1, 1], np.int64), name="m"),
    "depthwise": lambda net, x: net.conv(x, "m", (32, 32), group=32),
    "Mul by a number": lambda net, x: net.op("Mul", x, constant(net, "half", -0.5), name="m"),
    "Mul by a gate": lambda net, x: net.op(
        "Mul", x, net.op("Sigmoid", net.conv("image", "gate", (3, 1)), name="gated"), name="m"
    ),
    "Transpose twice": lambda net, x: net.op(
        "Transpose", net.op("Transpose", x, name="t", perm=[0, 2, 3, 1]), name="m", perm=[0, 3, 1, 2]
    ),
    "Add of itself": lambda net, x: net.op("Add", x, net.op("LeakyRelu", x, name="leaky"), name="m"),
    "Concat with the same": lambda net, x: net.op(
        "Concat", x, net.op("MaxPool", x, name="p", kernel_shape=[1, 1]), name="m", axis=2
    ),
    "Relu6": clip(0.0, 6.0),
}
FREEZING: dict[str, Callable[[Net, str], str]] = {
    "Sigmoid": lambda net, x: net.op("Sigmoid", x, name="m"),
    "HardSwish": lambda net, x: net.op("HardSwish", x, name="m"),
    "swish": lambda net, x: net.op("Mul", x, net.op("Sigmoid", x, name="s"), name="m"),
    "square": lambda net, x: net.op("Mul", x, net.op("LeakyRelu", x, name="s"), name="m"),
    "Add of a number": lambda net, x: net.op("Add", x, constant(net, "one", 1.0), name="m"),
    "Softmax over channels": lambda net, x: net.op("Softmax", x, name="m", axis=1),
    "Clip from below 0": clip(-1.0, 6.0),
    "Clip from above 0": clip(0.5, 6.0),
    "Pad with ones": lambda net, x: net.op(
        "Pad", x, constant(net, "by", [0, 0, 1, 1, 0, 0, 1, 1], np.int64), constant(net, "one", 1.0), name="m"
    ),
    "ReduceMean over channels": lambda net, x: net.op(
        "Add", x, net.op("ReduceMean", x, name="r", axes=[1], keepdims=1), name="m"
    ),
    "Cast to integers and back": lambda net, x: net.op(
        "Cast", net.op("Cast", x, name="i", to=onnx.TensorProto.INT32), name="m", to=onnx.TensorProto.FLOAT
    ),
    "channels added to another order": lambda net, x: net.op(
        "Add", x, net.op("Transpose", x, name="t", perm=[0, 2, 1, 3]), name="m"
    ),
}


@pytest.mark.parametrize("name", COMMUTING)
def test_what_commutes_with_factors_lets_channels_free(name: str) -> None:
    index = between(COMMUTING[name])
    assert name == "Relu6" or free(index, "stem_relu.out")  # Relu6 swallows the Relu before it
    assert free(index, next(node.input[0] for node in index.nodes if node.name == "head"))


@pytest.mark.parametrize("name", FREEZING)
def test_what_does_not_commute_freezes_them(name: str) -> None:
    assert not free(between(FREEZING[name]), "stem_relu.out")


@pytest.mark.parametrize("name", ["image", "out"])
def test_inputs_and_outputs_keep_their_scale(name: str) -> None:
    assert not free(graphs.good("residual"), name)


def factors(index: Graph, seed: int = 0) -> Any:
    """Random ones for all that is free; at least 1 where a Clip limits."""
    known = channels(index)
    found = np.exp2(np.random.default_rng(seed).uniform(-3, 3, known.count))
    for tensor in known.clipped:
        found[known.layout[tensor].ids] = 1.0
    roots: dict[int, float] = {}
    for layout in known.layout.values():
        for i in layout.ids:
            roots.setdefault(int(i), float(found[i]))
    found[known.frozen] = 1.0
    return found


def moved(index: Graph, seed: int = 0) -> tuple[float, int]:
    """How far results move under random factors, and how many classes these were written to."""
    known = channels(index)
    given = factors(index, seed)
    other = rescaled(index, known, given)
    (feeds,) = graphs.feeds(1)
    (name,) = index.outputs
    before, after = (observer(g.model, [name])(feeds)[name] for g in (index, other))
    written = {int(i) for found in known.scaled.values() for s in found if s.written for i in s.ids}
    return float(np.abs(before - after).max()), len({i for i in written if given[i] != 1})


@pytest.mark.parametrize("name", COMMUTING)
def test_random_factors_change_no_result(name: str) -> None:
    difference, count = moved(between(COMMUTING[name]))
    assert difference < 1e-5
    assert count >= (0 if name == "Relu6" else 32)


@pytest.mark.parametrize("name", [*graphs.GOOD, "loop"])
@pytest.mark.parametrize("seed", range(3))
def test_random_factors_change_no_result_of_a_network(name: str, seed: int) -> None:
    index = graphs.good(name)
    (feeds,) = graphs.feeds(1)
    scale = float(np.abs(observer(index.model, index.outputs)(feeds)[index.outputs[0]]).max())
    difference, _ = moved(index, seed)
    assert difference < 1e-5 * max(scale, 1)


def test_what_is_added_and_joined_is_one_class() -> None:
    index = graphs.good("residual")
    known = channels(index)
    right, skip = known.layout["right.out"].ids, known.layout["stem_relu.out"].ids
    roots = {tuple(known.layout[name].ids) for name in ("right.out", "stem_relu.out", "add.out")}
    assert len(roots) == 1 or (right != skip).any()
    joined = known.layout["concat.out"].ids
    assert len(joined) == 64 and len(set(joined.tolist())) == 64


@pytest.mark.parametrize("shared", ["weight", "bias"])
def test_a_constant_of_two_readers_takes_no_factor(shared: str) -> None:
    net = Net()
    x = stem(net)
    w, b = net.weights("w", 32, 32, 3, 3), net.constant("b", np.ones(32))
    own_w, own_b = net.weights("w2", 32, 32, 3, 3), net.constant("b2", np.zeros(32))
    x = net.op("Relu", net.op("Conv", x, w, b, name="one", pads=[1] * 4), name="one_relu")
    second = (w, own_b) if shared == "weight" else (own_w, b)
    x = net.op("Relu", net.op("Conv", x, *second, name="two", pads=[1] * 4), name="two_relu")
    index = graphs.graph(head(net, x))
    assert not free(index, "one_relu.out")
    assert moved(index)[0] < 1e-5


def test_a_grouped_convolution_that_is_not_depthwise_freezes_what_it_reads() -> None:
    net = Net()
    x = net.op("Relu", net.conv(stem(net), "grouped", (32, 32), group=4), name="grouped_relu")
    index = graphs.graph(head(net, x))
    assert not free(index, "stem_relu.out") and free(index, "grouped_relu.out")
    assert moved(index)[0] < 1e-5


def test_flattened_channels_are_followed_into_a_matrix() -> None:
    net = Net()
    x = net.op("MaxPool", stem(net), name="pool", kernel_shape=[16, 16], strides=[16, 16])
    x = net.op("Gemm", net.op("Flatten", x, name="flat"), net.weights("w", 128, 16), name="matrix")
    index = graphs.graph(net.model(x))
    assert free(index, "pool.out") and free(index, "flat.out")
    assert moved(index)[0] < 1e-4


def test_a_transposed_convolution_takes_factors_on_both_sides() -> None:
    net = Net()
    w = net.weights("up.weight", 32, 16, 2, 2)
    x = net.op("ConvTranspose", stem(net), w, net.constant("up.bias", np.ones(16)), name="up", strides=[2, 2])
    index = graphs.graph(head(net, net.op("Relu", x, name="up_relu"), 16))
    assert free(index, "stem_relu.out") and free(index, "up_relu.out")
    assert moved(index)[0] < 1e-5


def test_a_normalization_writes_its_channels_and_freezes_what_it_reads() -> None:
    index = graphs.good("transformer")
    assert free(index, "norm.out")
    assert not free(index, "rows.out")


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_channels_on_another_axis_are_not_those_of_a_convolution(op: str) -> None:
    """A picture as wide as it has channels, normalized along its rows."""
    net = Net()
    own = (net.constant("norm.scale", np.ones(32)), net.constant("norm.bias", np.ones(32)))
    x = net.op("LayerNormalization", stem(net), *own, name="norm", axis=-1)
    x = net.op("Relu", net.op(op, x, net.weights("w", 32, 32, 1, 1), name="next"), name="next_relu")
    index = graphs.graph(head(net, x))
    assert not free(index, "norm.out")
    assert moved(index)[0] < 1e-5
