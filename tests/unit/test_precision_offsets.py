"""Weights that hold the means which biases in the carrier cannot."""

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper

from edge.precision.compensation import NO_COMPENSATION, Compensation, StoredWeight
from edge.precision.moments import Moments
from edge.precision.numerics import NUMPY, narrow
from edge.precision.offsets import Offsets, neighbours
from edge.precision.plan import make
from edge.precision.rewrite import rewrite
from edge.targets import TARGETS
from tests import graphs

BF16 = TARGETS["a10"]


def moments(count=4096, mean=40.0, seed=0):
    """Of inputs that lie far from zero, and vary together a little."""
    random = np.random.default_rng(seed)
    x = mean + random.normal(0, 1, (16 * 9, count)) + random.normal(0, 0.5, count)
    return Moments(count, x.mean(1)[None], (x @ x.T / count)[None])


@pytest.fixture
def net():
    """A convolution whose bias takes most of the product away again."""
    net = graphs.Net()
    wide = net.conv("image", "first", (3, 16))
    return graphs.graph(net.model(net.conv(wide, "second", (16, 16))))


def with_large_bias(index, seen):
    """`second.bias` as training would have left it, given such inputs."""
    weight = index.constant("second.weight").reshape(16, -1)
    bias = -(weight @ seen.mean[0]) + np.linspace(-1, 1, 16)
    model = index.model
    tensor = next(t for t in model.graph.initializer if t.name == "second.bias")
    tensor.raw_data = bias.astype(np.float32).tobytes()
    return graphs.graph(model)


class Case:
    """The network with such a bias, and what its second convolution reads."""

    def __init__(self, net):
        self.seen = {"second": moments()}
        self.graph = with_large_bias(net, self.seen["second"])
        self.asked = 0
        self.offsets = Offsets(self.graph, self.measure)
        self.plan = make(self.graph, BF16, "exact", {})

    def measure(self, nodes):
        self.asked += 1
        yield {node.name: self.seen[node.name] for node in nodes if node.name in self.seen}

    def mean_error(self, compensation):
        """Of the outputs of `second` as the written graph has its weights and bias."""
        model = rewrite(self.graph, self.plan, {}, BF16, compensation)
        written = {t.name: t for t in model.graph.initializer}

        def of(name):
            return numpy_helper.to_array(written[name]).astype(np.float64)

        weight, mean = of("second.weight").reshape(16, -1), self.seen["second"].mean[0]
        right = self.graph.constant("second.weight").reshape(16, -1) @ mean + self.graph.constant(
            "second.bias"
        )
        return np.abs(weight @ mean + of("second.bias") - right)


def test_means_are_held_where_the_bias_cannot_hold_them(net):
    case = Case(net)
    before = case.mean_error(NO_COMPENSATION)
    after = case.mean_error(case.offsets.held(case.plan, NO_COMPENSATION, BF16))
    assert before.max() > 0.2
    assert after.max() < 0.1 * before.max()


def test_every_weight_stays_within_one_step(net):
    case = Case(net)
    value = case.graph.constant("second.weight")
    held = case.offsets.held(case.plan, NO_COMPENSATION, BF16)
    moved = held.weights["second.weight", 0, "bf16"]
    assert moved.values.dtype == NUMPY["bf16"]
    rounded = value.astype(ml_dtypes.bfloat16)
    steps = np.abs(moved.values.view(np.int16).astype(int) - rounded.view(np.int16).astype(int))
    assert steps.max() == 1
    assert (steps != 0).mean() < 0.2


def test_what_was_measured_is_asked_for_once(net):
    case = Case(net)
    first = case.offsets.held(case.plan, NO_COMPENSATION, BF16)
    second = case.offsets.held(case.plan, NO_COMPENSATION, BF16)
    assert case.asked == 1
    assert first.weights["second.weight", 0, "bf16"] is second.weights["second.weight", 0, "bf16"]


def test_a_carrier_of_fp32_holds_every_mean(net):
    case = Case(net)
    plan = make(case.graph, TARGETS["cpu"], "exact", {})
    assert case.offsets.held(plan, NO_COMPENSATION, TARGETS["cpu"]) is NO_COMPENSATION
    assert case.asked == 0


def test_weights_that_two_nodes_read_are_left_alone():
    net = graphs.Net()
    wide = net.conv("image", "first", (3, 16))
    once = net.op("Conv", wide, net.weights("shared", 16, 16, 3, 3), name="a", pads=[1] * 4)
    again = net.op("Conv", once, "shared", name="b", pads=[1] * 4)
    index = graphs.graph(net.model(again))
    offsets = Offsets(index, lambda nodes: [{node.name: moments() for node in nodes if node.name != "first"}])
    held = offsets.held(make(index, BF16, "exact", {}), NO_COMPENSATION, BF16)
    assert not any(name == "shared" for name, *_ in held.weights)


def test_a_shift_of_the_bias_makes_up_for_the_weights_and_only_its_rounding_is_left(net):
    case = Case(net)
    case.plan = make(case.graph, BF16, "w8a16", {})
    value = case.graph.constant("second.weight")
    scales = np.full(16, 1 / 256, np.float32)
    stored = StoredWeight(np.clip(np.rint(value * 256), -127, 127).astype(np.int8), scales, 0)
    rows = (value - stored.dequantized()).reshape(16, -1)
    shift = np.asarray(rows @ case.seen["second"].mean[0], np.float32)
    given = Compensation({("second.weight", 0, "w8a16"): stored}, {("second", "w8a16"): shift})
    held = case.offsets.held(case.plan, given, BF16).weights["second.weight", 0, "w8a16"]

    def off(weight):
        used = narrow(weight.dequantized(), "bf16").astype(np.float64).reshape(16, -1)
        bias = narrow(case.graph.constant("second.bias") + shift, "bf16").astype(np.float64)
        right = value.reshape(16, -1) @ case.seen["second"].mean[0] + case.graph.constant("second.bias")
        return np.abs(used @ case.seen["second"].mean[0] + bias - right)

    assert off(held).mean() < off(stored).mean()


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8", "bf16", "fp16"])
def test_neighbours_are_one_step_away(kind):
    values = np.arange(-7, 8).astype(np.float32).astype(NUMPY[kind])
    further, nearer = (neighbours(values, away).astype(np.float32) for away in (True, False))
    magnitude = np.abs(values.astype(np.float32))
    assert np.all(np.abs(further) >= magnitude) and np.all(np.abs(nearer) <= magnitude)
    assert further[7] == nearer[7] == 0  # zero has no side to move to
    inner = (magnitude > 0) & (magnitude < 7)
    assert np.all(np.abs(further[inner]) > magnitude[inner]) and np.all(
        np.abs(nearer[inner]) < magnitude[inner]
    )


@pytest.mark.parametrize(
    ("kind", "largest"), [("int8", 127), ("int4", 7), ("fp8", 448), ("bf16", 3.3895314e38), ("fp16", 65504)]
)
def test_the_largest_value_stays(kind, largest):
    values = np.asarray([-largest, largest], np.float32).astype(NUMPY[kind])
    assert np.array_equal(neighbours(values, True).astype(np.float32), values.astype(np.float32))
