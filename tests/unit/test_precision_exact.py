"""What a plan writes, bit for bit: against references in float64, written from the definitions.

Types and roundings are those of ONNX QuantizeLinear (21), the OFP8 specification (E4M3) and bfloat16. The
reference knows nothing of `edge`; the graph is run by ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge.build.emulate import emulated
from edge.graph import Graph, attribute
from edge.precision.plan import Plan, Step
from edge.precision.ranges import Range
from edge.precision.rewrite import rewrite
from edge.precision.sessions import observer
from edge.targets import TARGETS

Doubles = NDArray[np.float64]

# ---------------------------------------------------------------------- the reference


def fp32(x: Any) -> Doubles:
    """The nearest float32, as float64. Of a quotient in float64 it is the quotient in float32."""
    return np.asarray(x, np.float64).astype(np.float32).astype(np.float64)


def rounded(x: Any, bits: int, least: int) -> Doubles:
    """The nearest number of so many significant bits, of two equally near the even one; below 2^`least` the
    spacing no longer shrinks."""
    x = np.asarray(x, np.float64)
    exponent = np.maximum(np.frexp(x)[1] - 1, least)
    step = np.ldexp(1.0, exponent - bits + 1)
    return np.asarray(np.rint(x / step) * step)


def bf16(x: Any) -> Doubles:
    return rounded(fp32(x), 8, -126)


def fp16(x: Any) -> Doubles:
    return rounded(fp32(x), 11, -14)


def e4m3(x: Any) -> Doubles:
    return rounded(np.clip(x, -448, 448), 4, -6)


def int8(x: Any, low: int = -128) -> Doubles:
    return np.clip(np.rint(x), low, 127)


def int4(x: Any) -> Doubles:
    return np.clip(np.rint(x), -8, 7)


CARRIER = {"bf16": bf16, "fp16": fp16, "fp32": fp32}
LARGEST = {"int8": 127, "fp8": 448, "w8a16": 127, "w4a16": 7}
CODE = {
    "int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN, "w8a16": TensorProto.INT8,
    "w4a16": TensorProto.INT4,
    "bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT,
}  # fmt: skip


def levels(x: Any, precision: str, weights: bool = False) -> Doubles:
    """x / scale in the type's own values; signed, and symmetric for int8 weights."""
    if precision == "fp8":
        return e4m3(x)
    return int4(x) if precision == "w4a16" else int8(x, low=-127 if weights else -128)


def scale_of(peak: Any, precision: str, target: str) -> Doubles:
    """The largest magnitude lands on the type's largest value; GPUs get scales that bf16 holds."""
    exact = fp32(np.asarray(peak, np.float64) / LARGEST[precision])
    return bf16(exact) if TARGETS[target].is_gpu else exact


# ---------------------------------------------------------------------- one product, written and run

KINDS = ("conv", "depthwise", "matmul", "gemm")
CASES = [
    (target, precision)
    for target, precisions in {
        "ada": ("fp8", "int8", "w8a16", "w4a16"),
        "orin": ("int8", "w8a16", "w4a16"),
        "t4": ("int8", "w8a16"),
        "cpu": ("w8a16", "w4a16"),
    }.items()
    for precision in precisions
]


def net(kind: str, weights: Any, bias: Any) -> Graph:
    """One product of the input: 1×16×6×6 for a convolution, 1×1×5×64 for a matrix."""
    made = graphs.Net(shape=(1, 16, 6, 6) if kind in ("conv", "depthwise") else (1, 1, 5, 64))
    w = made.constant("w", weights)
    b = made.constant("b", bias) if kind != "matmul" else ""
    if kind in ("conv", "depthwise"):
        group = 16 if kind == "depthwise" else 1
        out = made.op("Conv", "image", w, b, name="product", group=group, pads=[1] * 4)
        return Graph(graphs.prepare(made.model(out), None, (16, 6, 6)))
    if kind == "matmul":
        out = made.op("MatMul", "image", w, name="product")  # with an Add behind it it would become a Gemm
    else:
        rows = made.op("Reshape", "image", made.constant("rows", [5, 64], np.int64), name="flat")
        out = made.op("Gemm", rows, w, b, name="product", transB=1)
    return Graph(graphs.prepare(made.model(out), None, (1, 5, 64)))


SHAPES = {"conv": (32, 16, 3, 3), "depthwise": (16, 1, 3, 3), "matmul": (64, 32), "gemm": (32, 64)}
AXIS = {"conv": 0, "depthwise": 0, "matmul": 1, "gemm": 0}


@dataclass
class Written:
    """A graph with one product in it, in one precision."""

    index: Graph
    model: onnx.ModelProto

    @property
    def product(self) -> onnx.NodeProto:
        return next(node for node in self.model.graph.node if node.name == "product")

    def constant(self, name: str) -> onnx.TensorProto:
        return next(t for t in self.model.graph.initializer if t.name == name)

    @property
    def dequantize(self) -> onnx.NodeProto:
        """Of the weights; a cast may stand behind it."""
        node = self.writer(self.product.input[1])
        return self.writer(node.input[0]) if node.op_type == "Cast" else node

    def writer(self, tensor: str) -> onnx.NodeProto:
        return next(node for node in self.model.graph.node if tensor in node.output)

    def run(self, x: Any, *tensors: str) -> list[Any]:
        values = observer(emulated(self.model), tensors, plain=True)({"image": np.float32(x)})
        return [values[name] for name in tensors]


def written(index: Graph, precision: str, target: str, threshold: float = 1.0) -> Written:
    row = TARGETS[target]
    steps = tuple(
        Step(n.name, n.op_type, precision if n.name == "product" else row.carrier, "", 0) for n in index.nodes
    )
    seen = Range(-threshold, threshold, threshold, threshold, (-threshold, threshold))
    names = [n.input[0] for n in index.nodes if n.name == "product"]
    plan = Plan(row.carrier, "s8", steps)
    return Written(index, rewrite(index, plan, dict.fromkeys([*names, "image"], seen), row))


def random_weights(kind: str, seed: int = 0) -> NDArray[np.float32]:
    """Channels of very different range, one of zeros, and ties."""
    random = np.random.default_rng(seed)
    w = random.normal(0, 1, SHAPES[kind]) * np.exp2(random.integers(-6, 3, SHAPES[kind]))
    moved = np.moveaxis(w, AXIS[kind], 0)
    moved[3] = 0
    moved[5] = np.resize(np.array([127.0, 0.5, 1.5, -2.5, -126.5]), moved[5].shape)  # scale 1
    return np.asarray(w, np.float32)


def blocks(w: Any, axis: int, block: int) -> Doubles:
    """Along `axis` each weight's block's largest magnitude."""
    parts = np.moveaxis(w, axis, -1)
    peak = np.abs(parts).reshape(*parts.shape[:-1], -1, block).max(-1)
    return np.moveaxis(np.repeat(peak, block, -1), -1, axis)


def weights_reference(w: Any, kind: str, precision: str, target: str) -> tuple[Doubles, Doubles]:
    """Stored values, and the scale of each, of the weights' shape."""
    w = np.asarray(w, np.float64)
    if precision == "w4a16":
        peak = blocks(w, 1 - AXIS[kind], 64)  # 64 weights to a row: one block
    else:
        others = tuple(a for a in range(w.ndim) if a != AXIS[kind])
        peak = np.broadcast_to(np.abs(w).max(others, keepdims=True), w.shape)
    scale = np.where(peak > 0, scale_of(np.where(peak > 0, peak, 1), precision, target), 1.0)
    return levels(fp32(w / scale), precision, weights=True), scale


def allowed(kind: str, target: str, precision: str) -> bool:
    return precision != "w4a16" or kind in ("matmul", "gemm")


EVERY = [(kind, *case) for kind in KINDS for case in CASES if allowed(kind, *case)]


class TestWeights:
    @pytest.mark.parametrize(("kind", "target", "precision"), EVERY)
    def test_stored_values_and_scales(self, kind: str, target: str, precision: str) -> None:
        w = random_weights(kind)
        found = written(net(kind, w, np.zeros(SHAPES[kind][AXIS[kind]])), precision, target)
        stored, scale, zero = (found.constant(name) for name in found.dequantize.input)
        expected, scales = weights_reference(w, kind, precision, target)
        assert stored.data_type == zero.data_type == CODE[precision]
        assert np.array_equal(numpy_helper.to_array(stored).astype(np.float64), expected)
        assert not np.any(numpy_helper.to_array(zero).astype(np.float64))
        spread = numpy_helper.to_array(scale).astype(np.float64)
        if precision == "w4a16":
            spread = np.repeat(spread, 64, 1 - AXIS[kind])
        else:
            spread = np.broadcast_to(
                spread.reshape([-1 if a == AXIS[kind] else 1 for a in range(w.ndim)]), w.shape
            )
        assert np.array_equal(spread, scales)

    @pytest.mark.parametrize(("kind", "target", "precision"), EVERY)
    def test_what_the_product_reads(self, kind: str, target: str, precision: str) -> None:
        w = random_weights(kind, seed=1)
        found = written(net(kind, w, np.zeros(SHAPES[kind][AXIS[kind]])), precision, target)
        shape = (1, 16, 6, 6) if kind in ("conv", "depthwise") else (1, 1, 5, 64)
        (value,) = found.run(np.zeros(shape), found.product.input[1])
        stored, scales = weights_reference(w, kind, precision, target)
        carrier = CARRIER[TARGETS[target].carrier]
        assert np.array_equal(value.astype(np.float64), carrier(stored * scales))

    @pytest.mark.parametrize(("target", "code"), [("orin", "bf16"), ("t4", "fp16"), ("cpu", "fp32")])
    @pytest.mark.parametrize("precision", ["int8", "w8a16"])
    def test_scales_have_the_type_that_the_target_carries(
        self, precision: str, target: str, code: str
    ) -> None:
        w = np.random.default_rng(0).normal(0, 1, SHAPES["conv"])
        found = written(net("conv", w, np.zeros(32)), precision, target)
        assert found.constant(found.dequantize.input[1]).data_type == CODE[code]

    def test_t4_carries_a_scale_as_fp32_where_fp16_would_lose_it(self) -> None:
        w = np.random.default_rng(0).normal(0, 1, SHAPES["conv"])
        w[4] *= 1e-9
        found = written(net("conv", w, np.zeros(32)), "w8a16", "t4")
        scale = found.constant(found.dequantize.input[1])
        assert scale.data_type == TensorProto.FLOAT
        assert np.array_equal(numpy_helper.to_array(scale), bf16(numpy_helper.to_array(scale)))
        assert found.writer(found.product.input[1]).op_type == "Cast"

    @pytest.mark.parametrize("kind", ["matmul", "gemm"])
    @pytest.mark.parametrize(("depth", "block"), [(256, 128), (192, 64), (96, 32)])
    def test_int4_blocks_lie_along_the_dot_product(self, kind: str, depth: int, block: int) -> None:
        random = np.random.default_rng(0)
        rows = random.normal(0, 1, (48, depth)) * np.exp2(np.arange(depth) // 32)
        made = graphs.Net(shape=(1, 1, 5, depth))
        w = made.constant("w", rows if kind == "gemm" else rows.T)
        if kind == "gemm":
            flat = made.op("Reshape", "image", made.constant("rows", [5, depth], np.int64), name="flat")
            out = made.op("Gemm", flat, w, name="product", transB=1)
        else:
            out = made.op("MatMul", "image", w, name="product")
        found = written(Graph(graphs.prepare(made.model(out), None, (1, 5, depth))), "w4a16", "ada")
        assert attribute(found.dequantize, "block_size", 0) == block
        assert attribute(found.dequantize, "axis", None) == (1 if kind == "gemm" else 0)
        scale = scale_of(blocks(np.float32(rows), 1, block), "w4a16", "ada")
        expected = bf16(int4(fp32(np.float32(rows) / scale)) * scale)
        (value,) = found.run(np.zeros((1, 1, 5, depth)), found.product.input[1])
        assert np.array_equal(value, expected if kind == "gemm" else expected.T)
        opset = next(o.version for o in found.model.opset_import)
        assert opset >= 21 and found.model.ir_version >= 10
        onnx.checker.check_model(found.model)


class TestActivations:
    @pytest.mark.parametrize(("target", "precision"), [("ada", "fp8"), ("orin", "int8"), ("t4", "int8")])
    @pytest.mark.parametrize("threshold", [1.0, 0.73, 3e-3])
    def test_they_are_rounded_half_to_even_and_saturate(
        self, target: str, precision: str, threshold: float
    ) -> None:
        scale = scale_of(np.float32(threshold), precision, target)
        random = np.random.default_rng(3)
        x = random.normal(0, 0.6 * threshold, 16 * 36)
        x[:80] = (np.arange(80) - 40) / 2 * scale  # ties
        x[80:84] = np.array([-1, 1, -9, 9]) * 2 * threshold
        found = written(
            net("conv", random.normal(0, 1, SHAPES["conv"]), np.zeros(32)), precision, target, threshold
        )
        x = np.float32(x).reshape(1, 16, 6, 6)
        (value,) = found.run(x, found.product.input[0])
        carrier = CARRIER[TARGETS[target].carrier]
        expected = carrier(levels(fp32(carrier(x) / scale), precision) * scale)
        assert np.array_equal(value.astype(np.float64), expected)
        quantize = next(n for n in found.model.graph.node if n.op_type == "QuantizeLinear")
        assert found.constant(quantize.input[2]).data_type == CODE[precision]  # signed; no zero point
        assert not np.any(numpy_helper.to_array(found.constant(quantize.input[2])).astype(np.float64))

    @pytest.mark.parametrize("precision", ["w8a16", "w4a16"])
    def test_weight_only_leaves_them_alone(self, precision: str) -> None:
        found = written(net("matmul", random_weights("matmul"), np.zeros(32)), precision, "orin")
        assert not [node for node in found.model.graph.node if node.op_type == "QuantizeLinear"]
        x = np.random.default_rng(0).normal(0, 50, (1, 1, 5, 64))
        (value,) = found.run(x, found.product.input[0])
        assert np.array_equal(value, bf16(x))


def whole(kind: str, precision: str, seed: int) -> tuple[Any, Any, Any]:
    """Input, weights and bias whose products and sums float32 holds exactly, times powers of two."""
    random = np.random.default_rng(seed)
    shape = SHAPES[kind]
    if precision == "fp8":
        x, w = random.integers(-15, 16, 16 * 36), random.integers(-15, 16, shape)
    elif precision == "w4a16":
        x, w = random.integers(-127, 128, 16 * 36), random.integers(-7, 8, shape)
    else:
        x, w = random.integers(-127, 128, 16 * 36), random.integers(-127, 128, shape)
    first = np.moveaxis(w, AXIS[kind], 0)
    first[(slice(None), *[0] * (w.ndim - 1))] = LARGEST[precision]  # every channel's scale is a power of two
    size = 16 * 36 if kind in ("conv", "depthwise") else 5 * 64
    x = x[:size].reshape((1, 16, 6, 6) if kind in ("conv", "depthwise") else (1, 1, 5, 64))
    bias = random.integers(-127, 128, shape[AXIS[kind]])
    return x.astype(np.float64), w.astype(np.float64), bias.astype(np.float64)


def product_reference(kind: str, x: Doubles, w: Doubles, bias: Doubles) -> Doubles:
    if kind == "matmul":
        return np.asarray(x @ w + bias)
    if kind == "gemm":
        return np.asarray(x[0, 0] @ w.T + bias)
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(w), 6, 6))
    for row in range(6):
        for column in range(6):
            patch = padded[:, row : row + 3, column : column + 3]
            each = w * patch if kind == "conv" else w[:, 0] * patch
            out[:, row, column] = each.reshape(len(w), -1).sum(1) + bias
    return out[None]


class TestWholeProducts:
    @pytest.mark.parametrize(("kind", "target", "precision"), EVERY)
    def test_sums_without_rounding_are_bit_for_bit_those_of_the_reference(
        self, kind: str, target: str, precision: str
    ) -> None:
        x, w, bias = whole(kind, precision, seed=2)
        channels = np.exp2(np.arange(len(bias)) % 5 - 2)
        shape = [-1 if axis == AXIS[kind] else 1 for axis in range(w.ndim)]
        w, step = w * channels.reshape(shape), 2.0**-4
        threshold = LARGEST[precision] * step
        found = written(net(kind, w, bias), precision, target, threshold)
        (value,) = found.run(x * step, "out")
        exact = product_reference(kind, x * step, w, np.zeros(len(bias)))
        carrier = CARRIER[TARGETS[target].carrier]
        broadcast = bias.reshape(1, -1, 1, 1) if kind in ("conv", "depthwise") else bias
        expected = carrier(exact) if kind == "matmul" else carrier(exact + broadcast)
        assert np.array_equal(value.astype(np.float64).reshape(expected.shape), expected)

    @pytest.mark.parametrize("kind", ["conv", "depthwise", "gemm"])
    def test_int8_on_a_processor_is_the_integer_product(self, kind: str) -> None:
        """ONNX Runtime fuses it there, with an int32 bias; what it writes is int8, too."""
        x, w, bias = whole(kind, "int8", seed=4)
        step = 2.0**-4
        index = net(kind, w / 128, bias * step / 128)
        row = TARGETS["cpu"]
        steps = tuple(
            Step(n.name, n.op_type, "int8" if n.name == "product" else "fp32", "", 0) for n in index.nodes
        )
        read = next(n.input[0] for n in index.nodes if n.name == "product")
        seen = Range(-127 * step, 127 * step, 127 * step, 127 * step, (-127 * step, 127 * step))
        model = rewrite(
            index, Plan("fp32", "s8", steps), {read: seen, "image": seen, "product.out": seen}, row
        )
        value = observer(model, ["out"])({"image": np.float32(x * step)})["out"]
        exact = product_reference(kind, x * step, w / 128, bias * step / 128)
        assert np.array_equal(value.astype(np.float64).reshape(exact.shape), exact)


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False), min_size=1, max_size=30))
def test_the_reference_rounds_bf16_as_its_bits_say(values: list[float]) -> None:
    x = np.array(values, np.float32)
    bits = x.view(np.uint32)
    expected = ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    normal = np.abs(x) >= 2.0**-126
    assert np.array_equal(bf16(x)[normal], expected.astype(np.float64)[normal])
