"""The emulation gives the typed graph's numbers: checked against numpy and ml_dtypes, node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from edge.backends import EngineOptions, backend
from edge.build.emulate import check, emulated
from edge.errors import RuntimeFault
from edge.graph import Graph, attribute
from edge.precision import plan
from edge.precision.rewrite import rewrite
from edge.targets import TARGETS

Values = NDArray[Any]
CASES = [("orin", "fast"), ("orin", "exact"), ("t4", "fast"), ("t4", "exact"), ("ada", "fast")]
STEP = {"bf16": 2.0**-8, "fp16": 2.0**-11}
"""Largest relative rounding error of the carrier."""


def small_net() -> onnx.ModelProto:
    """1×1 convolution → Relu → 1×1 convolution → rows → Gemm: products numpy writes in a line each."""
    net = graphs.Net(shape=(1, 3, 8, 8), seed=5)
    x = net.op("Relu", net.conv("image", "first", (3, 32), kernel=1), name="relu")
    x = net.op("Relu", net.conv(x, "second", (32, 32), kernel=1), name="relu2")
    x = net.op("Transpose", x, name="last", perm=[0, 2, 3, 1])
    x = net.op("Reshape", x, net.constant("shape", [64, 32], np.int64), name="rows")
    bias = net.constant("gemm.bias", net.random.normal(0, 0.1, 48))
    x = net.op("Gemm", x, net.weights("gemm.weight", 48, 32), bias, name="gemm", transB=1)
    return net.model(net.op("Gemm", x, net.weights("end.weight", 48, 8), name="end"))


def typed(model: onnx.ModelProto, target: str, variant: Any, shape: tuple[int, int, int]) -> onnx.ModelProto:
    index = Graph(graphs.prepare(model, None, shape))
    feeds = [{"image": x} for x in samples(shape, 2)]
    seen = graphs.calibrate(index.model, graphs.observed_tensors(index), feeds, 2, "").ranges
    return rewrite(index, plan.make(index, TARGETS[target], variant, seen), seen, TARGETS[target])


def samples(shape: tuple[int, int, int], count: int, seed: int = 1) -> list[Values]:
    random = np.random.default_rng(seed)
    return [random.random((1, *shape)).astype(np.float32) for _ in range(count)]


class Reference:
    """Runs a typed graph node by node; every tensor is held in the type the graph gives it.

    Products are summed in float64 and rounded to float32, then to the carrier.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}

    def run(self, image: Values) -> dict[str, Values]:
        values: dict[str, Values] = {t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer}
        values["image"] = image
        for node in self.model.graph.node:
            taken = [values[i] for i in node.input]
            out = getattr(self, node.op_type)(node, *taken)
            code = self.types.get(node.output[0], TensorProto.FLOAT)
            values[node.output[0]] = out.astype(onnx.helper.tensor_dtype_to_np_dtype(code))
        return values

    def Conv(self, node: Any, x: Values, w: Values, b: Values) -> Values:
        summed = np.einsum("nchw,oc->nohw", x.astype(np.float64), w.astype(np.float64)[:, :, 0, 0])
        return (summed + b.astype(np.float64).reshape(1, -1, 1, 1)).astype(np.float32)

    def Gemm(self, node: Any, x: Values, w: Values, b: Values | None = None) -> Values:
        weights = w.astype(np.float64).T if attribute(node, "transB", 0) else w.astype(np.float64)
        return (x.astype(np.float64) @ weights + (0 if b is None else b.astype(np.float64))).astype(
            np.float32
        )

    def Relu(self, node: Any, x: Values) -> Values:
        return np.maximum(x.astype(np.float32), 0)

    def Transpose(self, node: Any, x: Values) -> Values:
        return x.transpose(attribute(node, "perm", None))

    def Reshape(self, node: Any, x: Values, shape: Values) -> Values:
        return x.reshape(shape)

    def Identity(self, node: Any, x: Values) -> Values:
        return x

    def Cast(self, node: Any, x: Values) -> Values:
        return x.astype(np.float32)

    def QuantizeLinear(self, node: Any, x: Values, scale: Values, zero: Values) -> Values:
        quotient = x.astype(np.float32) / scale.astype(np.float32)
        if zero.dtype == np.int8:
            return np.clip(np.rint(quotient), -128, 127)
        return np.clip(quotient, -448, 448)

    def DequantizeLinear(self, node: Any, q: Values, scale: Values, zero: Values) -> Values:
        shape = [1] * q.ndim
        if scale.ndim:
            shape[attribute(node, "axis", 1)] = -1
        return q.astype(np.float32) * scale.astype(np.float32).reshape(shape)


def session(model: onnx.ModelProto, level: str = "ORT_ENABLE_BASIC") -> Callable[[Values], list[Values]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 4
    made = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda image: made.run(None, {"image": image})


@pytest.mark.parametrize(("target", "variant"), CASES)
def test_each_operator_gives_the_references_numbers(target: str, variant: str) -> None:
    """From the same inputs: bit for bit, but where two orders of summation round to neighbouring numbers."""
    model = typed(small_net(), target, variant, (3, 8, 8))
    (image,) = samples((3, 8, 8), 1, seed=9)
    expected = Reference(model).run(image)
    wide = emulated(model)
    for node in model.graph.node:
        (found,) = _alone(wide, node, expected)
        reference = expected[node.output[0]].astype(np.float32)
        if node.op_type in ("Conv", "Gemm"):
            step = STEP[TARGETS[target].carrier] if node.output[0] != "out" else 2.0**-20
            assert np.mean(found != reference) < (0.02 if node.output[0] != "out" else 1)
            assert np.allclose(found, reference, rtol=2 * step, atol=1e-6)
        else:
            assert np.array_equal(found, reference), node.name


def _alone(wide: onnx.ModelProto, node: onnx.NodeProto, values: dict[str, Values]) -> list[Values]:
    """What the emulated graph makes of one node when it is given the reference's inputs."""
    produced = {o for n in wide.graph.node for o in n.output}
    inner = [
        n
        for n in wide.graph.node
        if n.name == node.name or n.output[0].startswith(f"{node.output[0]}/narrow")
    ]
    inner += [n for n in wide.graph.node if n.output[0] == node.output[0] and n not in inner]
    fed = [i for i in node.input if i in produced or i == "image"]
    part = onnx.ModelProto()
    part.CopyFrom(wide)
    del part.graph.node[:], part.graph.input[:], part.graph.output[:]
    part.graph.node.extend(inner)
    feeds = {}
    for name in fed:
        value = np.ascontiguousarray(values[name])
        if value.dtype in (ml_dtypes.bfloat16, np.float16):
            value = value.astype(np.float32)
        code = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        part.graph.input.append(onnx.helper.make_tensor_value_info(name, code, value.shape))
        feeds[name] = value
    return _run_part(part, node.output[0], feeds, values)


def _run_part(
    part: onnx.ModelProto, output: str, feeds: dict[str, Values], values: dict[str, Values]
) -> list[Values]:
    """fp8 tensors cannot be fed or fetched through numpy: they go in and come out as uint8 bit patterns."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    code = onnx.helper.np_dtype_to_tensor_dtype(values[output].dtype)
    wide = TensorProto.FLOAT if code in (TensorProto.BFLOAT16, TensorProto.FLOAT16) else code
    part.graph.output.append(onnx.helper.make_tensor_value_info(output, wide, None))
    made = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {
        name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value.view(np.uint8), TensorProto.FLOAT8E4M3FN)
        if value.dtype == ml_dtypes.float8_e4m3fn
        else ort.OrtValue.ortvalue_from_numpy(value)
        for name, value in feeds.items()
    }
    (found,) = made.run_with_ort_values([output], given)
    if wide == TensorProto.FLOAT8E4M3FN:
        return [_fp8_values(found)]
    return [found.numpy().astype(np.float32)]


def _fp8_values(tensor: Any) -> Values:
    import ctypes

    count = int(np.prod(tensor.shape()))
    raw = (ctypes.c_uint8 * count).from_address(tensor.data_ptr())
    return (
        np.frombuffer(bytes(raw), np.uint8)
        .view(ml_dtypes.float8_e4m3fn)
        .reshape(tensor.shape())
        .astype(np.float32)
    )


@pytest.mark.parametrize(("target", "variant"), CASES)
def test_the_whole_graph_stays_with_the_reference(target: str, variant: str) -> None:
    model = typed(small_net(), target, variant, (3, 8, 8))
    for image in samples((3, 8, 8), 2, seed=3):
        (found,) = session(emulated(model))(image)
        expected = Reference(model).run(image)["out"]
        assert np.linalg.norm(found - expected) < 2 * STEP[TARGETS[target].carrier] * np.linalg.norm(expected)


@pytest.mark.parametrize("name", graphs.GOOD)
@pytest.mark.parametrize(("target", "variant"), CASES)
def test_the_exact_session_equals_one_that_optimizes_nothing(
    name: str, target: str, variant: Any, tmp_path: Path
) -> None:
    index = graphs.good(name)
    seen = graphs.ranges(index)
    model = rewrite(index, plan.make(index, TARGETS[target], variant, seen), seen, TARGETS[target])
    path = graphs.saved(emulated(model), tmp_path / "emulated.onnx")
    engine = backend("onnxruntime").load(path, EngineOptions(exact=True))
    plain = session(emulated(model), "ORT_DISABLE_ALL")
    for feeds in graphs.feeds(2, seed=8):
        assert np.array_equal(engine.run(feeds)["out"], plain(feeds["image"])[0])
        check(path, engine, feeds)
    engine.close()


def test_an_optimizer_that_changes_numbers_is_noticed(tmp_path: Path) -> None:
    """fp8 with all optimizations: known to drop the Relu before a QuantizeLinear, or not to load at all."""
    index = graphs.good("residual")
    seen = graphs.ranges(index)
    model = rewrite(index, plan.make(index, TARGETS["ada"], "fast", seen), seen, TARGETS["ada"])
    honest = graphs.saved(emulated(model), tmp_path / "emulated.onnx")
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Identity"
    damaged = graphs.saved(emulated(model), tmp_path / "damaged.onnx")
    engine = backend("onnxruntime").load(damaged, EngineOptions(exact=True))
    with pytest.raises(RuntimeFault, match="changes output 'out' when it optimizes"):
        check(honest, engine, graphs.feeds(1)[0])
    engine.close()


def test_the_emulation_has_no_narrow_tensor_but_between_two_casts() -> None:
    index = graphs.good("transformer")
    model = emulated(rewrite(index, plan.make(index, TARGETS["t4"], "exact", {}), {}, TARGETS["t4"]))
    assert {t.data_type for t in model.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    narrow = {
        v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    assert narrow and all(name.endswith("/narrow") for name in narrow)


def test_fp16_overflow_becomes_infinite_and_bf16_does_not() -> None:
    net = graphs.Net()
    x = net.op("Relu", net.op("Mul", "image", net.constant("large", 60000.0), name="up"), name="relu")
    x = net.op("Relu", net.op("Mul", x, net.constant("more", 100.0), name="further"), name="relu2")
    index = graphs.graph(net.model(net.op("Mul", x, net.constant("small", 1e-6), name="down")))
    for target, finite in (("t4", False), ("orin", True)):
        model = rewrite(index, plan.make(index, TARGETS[target], "exact", {}), {}, TARGETS[target])
        (found,) = session(emulated(model))(graphs.feeds(1)[0]["image"])
        assert np.isfinite(found).all() == finite


def test_a_bf16_graph_rounds_every_tensor() -> None:
    net = graphs.Net()
    third = net.op("Mul", "image", net.constant("third", 1 / 3), name="third_of")
    index = graphs.graph(net.model(net.op("Add", third, net.constant("one", 1.0), name="plus")))
    model = rewrite(index, plan.make(index, TARGETS["ada"], "exact", {}), {}, TARGETS["ada"])
    image = graphs.feeds(1)[0]["image"]

    def bf16(x: Values) -> Values:
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)

    expected = bf16(bf16(bf16(image) * bf16(np.float32(1 / 3))) + np.float32(1))
    assert np.array_equal(session(emulated(model))(image)[0], expected)


def test_a_normalisation_exported_in_parts_does_not_overflow_fp16() -> None:
    """x·x of values near 1000 leaves fp16's range; its square root, the deviation, is back in it."""
    net = graphs.Net()
    x = net.op("Mul", "image", net.constant("large", 1000.0), name="up")
    square = net.op("Mul", x, x, name="square")
    variance = net.op("ReduceMean", square, net.constant("axes", [1], np.int64), name="mean")
    plus = net.op("Add", variance, net.constant("epsilon", 1e-3), name="plus")
    deviation = net.op("Sqrt", plus, name="root")
    index = graphs.graph(net.model(net.op("Div", x, deviation, name="normal")))
    made = plan.make(index, TARGETS["t4"], "exact", {})
    assert made.widened >= {"square", "mean", "plus", "root"} and not made.widened & {"up", "normal"}
    image = graphs.feeds(1)[0]["image"]
    (found,) = session(emulated(rewrite(index, made, {}, TARGETS["t4"])))(image)
    (wanted,) = session(index.model)(image)
    assert np.allclose(found, wanted, rtol=4e-3), "a few roundings of fp16 apart, and finite"
    assert not plan.make(index, TARGETS["orin"], "exact", {}).widened, "bf16 has fp32's range"


@pytest.mark.parametrize("target", ["t4", "orin", "ada"])
def test_a_graph_without_node_names_can_be_emulated(target: str) -> None:
    """The added cast of an output must not take the name of the node that writes it."""
    model = graphs.residual()
    for node in model.graph.node:
        node.name = ""
    index = graphs.graph(model)
    for variant in plan.VARIANTS:
        seen = graphs.ranges(index)
        typed = rewrite(index, plan.make(index, TARGETS[target], variant, seen), seen, TARGETS[target])
        names = [node.name for node in typed.graph.node]
        assert len(names) == len(set(names))
        assert session(emulated(typed))(graphs.feeds(1)[0]["image"])
