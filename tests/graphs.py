"""Tiny ONNX graphs and pictures for the builder's tests: real graphs, milliseconds to build and run.

All of them read `image`, 1×3×32×32 float32, unless their docstring says otherwise; weights are seeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.config import ModelConfig, load_model
from edge.graph import Graph, prepare, read
from edge.precision.calibrate import Calibration, calibrate
from edge.precision.placement import observed_tensors
from edge.precision.ranges import Range

SIZE = 32
SHAPE = (3, SIZE, SIZE)
Array = NDArray[Any]


class Net:
    """Writes a graph node by node; every method returns the name of the tensor it made."""

    def __init__(self, shape: tuple[int | str, ...] = (1, *SHAPE), opset: int = 17, seed: int = 0) -> None:
        self.shape, self.opset = shape, opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weights(self, name: str, *shape: int) -> str:
        """Gaussian weights that keep the size of what they multiply; channels differ in range."""
        fan_in = max(1, int(np.prod(shape[1:])))
        per_channel = self.random.uniform(0.5, 2, (shape[0], *[1] * (len(shape) - 1)))
        return self.constant(name, self.random.normal(0, fan_in**-0.5, shape) * per_channel)

    def op(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def conv(
        self, x: str, name: str, channels: tuple[int, int], kernel: int = 3, group: int = 1, **attributes: Any
    ) -> str:
        """A convolution with bias that keeps height and width (for odd kernels and stride 1)."""
        into, out = channels
        w = self.weights(f"{name}.weight", out, into // group, kernel, kernel)
        b = self.constant(f"{name}.bias", self.random.normal(0, 0.1, out))
        padding = [kernel // 2] * 4
        return self.op("Conv", x, w, b, name=name, group=group, pads=padding, **attributes)

    def model(self, *outputs: str, names: tuple[str, ...] = ("out",)) -> onnx.ModelProto:
        """The graph; tensor `outputs[i]` is its output `names[i]`."""
        nodes = list(self.nodes)
        nodes += [
            helper.make_node("Identity", [tensor], [name], name=f"to_{name}")
            for tensor, name in zip(outputs, names, strict=True)
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(self.shape))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9, producer_name="test"
        )
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        for output, found in zip(model.graph.output, inferred, strict=True):
            known = found.type.tensor_type.HasField("shape")  # not behind a Loop
            unknown = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", "c", "h", "w"])
            output.type.CopyFrom(found.type if known else unknown)
        return model


def residual(**more: Any) -> onnx.ModelProto:
    """Convolutions with Relu, a residual Add, MaxPool and Concat; a heat map 1×1×16×16 comes out."""
    net = Net(**more)
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    y = net.op("Relu", net.conv(x, "left", (32, 32)), name="left_relu")
    x = net.op("Relu", net.op("Add", net.conv(y, "right", (32, 32)), x, name="add"), name="add_relu")
    x = net.op("MaxPool", x, name="pool", kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Relu", net.conv(x, "branch", (32, 32), kernel=1), name="branch_relu")
    x = net.op("Concat", x, y, name="concat", axis=1)
    x = net.op("Relu", net.conv(x, "merge", (64, 32)), name="merge_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1), kernel=1), name="sigmoid"))


def depthwise_swish(swish: bool = True) -> onnx.ModelProto:
    """A depthwise convolution, followed by x · sigmoid(x) or by Relu, between two full ones; a heat map."""
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    x = net.conv(x, "depthwise", (32, 32), group=32)
    x = (
        net.op("Mul", x, net.op("Sigmoid", x, name="gate"), name="swish")
        if swish
        else net.op("Relu", x, name="relu")
    )
    x = net.op("Relu", net.conv(x, "pointwise", (32, 32), kernel=1), name="pointwise_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1), kernel=1), name="sigmoid"))


def transformer() -> onnx.ModelProto:
    """One attention block over 16 patches of 8×8 pixels, with LayerNormalization and Softmax; 10 scores."""
    net = Net()
    x = net.conv("image", "patches", (3, 32), kernel=8, strides=[8, 8])
    x = net.op("Reshape", x, net.constant("tokens_shape", [1, 32, -1], np.int64), name="tokens")
    x = net.op("Transpose", x, name="rows", perm=[0, 2, 1])
    one, zero = net.constant("norm.scale", np.ones(32)), net.constant("norm.bias", np.zeros(32))
    n = net.op("LayerNormalization", x, one, zero, name="norm", axis=-1)
    q, k, v = (
        net.op("MatMul", n, net.weights(f"{p}.weight", 32, 32), name=p) for p in ("query", "key", "value")
    )
    scores = net.op("MatMul", q, net.op("Transpose", k, name="turned", perm=[0, 2, 1]), name="scores")
    scaled = net.op("Mul", scores, net.constant("scale", 32**-0.5), name="scaled")
    mixed = net.op("MatMul", net.op("Softmax", scaled, name="softmax", axis=-1), v, name="mix")
    x = net.op(
        "Add", x, net.op("MatMul", mixed, net.weights("project.weight", 32, 32), name="project"), name="add"
    )
    pooled = net.op("ReduceMean", x, name="mean", axes=[1], keepdims=0)
    bias = net.constant("classes.bias", np.zeros(10))
    return net.model(net.op("Gemm", pooled, net.weights("classes.weight", 32, 10), bias, name="classes"))


def encoder(blocks: int = 2) -> onnx.ModelProto:
    """Patches, transformer blocks `b0.`, `b1.` … of attention (one head) and MLP, a matrix: 10 scores."""
    net = Net()
    x = net.conv("image", "patches", (3, 32), kernel=8, strides=[8, 8])
    x = net.op("Reshape", x, net.constant("tokens_shape", [1, 32, -1], np.int64), name="tokens")
    x = net.op("Transpose", x, name="rows", perm=[0, 2, 1])

    def norm(x: str, name: str) -> str:
        one, zero = net.constant(f"{name}.scale", np.ones(32)), net.constant(f"{name}.bias", np.zeros(32))
        return net.op("LayerNormalization", x, one, zero, name=name, axis=-1)

    def matrix(x: str, name: str, shape: tuple[int, int]) -> str:
        return net.op("MatMul", x, net.weights(f"{name}.weight", *shape), name=name)

    for b in (f"b{index}" for index in range(blocks)):
        n = norm(x, f"{b}.norm1")
        q, k, v = (matrix(n, f"{b}.{part}", (32, 32)) for part in ("query", "key", "value"))
        turned = net.op("Transpose", k, name=f"{b}.turned", perm=[0, 2, 1])
        scores = net.op("MatMul", q, turned, name=f"{b}.scores")
        scores = net.op("Mul", scores, net.constant(f"{b}.factor", 32**-0.5), name=f"{b}.scaled")
        mixed = net.op("MatMul", net.op("Softmax", scores, name=f"{b}.softmax"), v, name=f"{b}.mix")
        x = net.op("Add", x, matrix(mixed, f"{b}.project", (32, 32)), name=f"{b}.add1")
        wide = net.op("Relu", matrix(norm(x, f"{b}.norm2"), f"{b}.up", (32, 64)), name=f"{b}.relu")
        x = net.op("Add", x, matrix(wide, f"{b}.down", (64, 32)), name=f"{b}.add2")
    pooled = net.op("ReduceMean", norm(x, "norm"), name="mean", axes=[1], keepdims=0)
    return net.model(net.op("Gemm", pooled, net.weights("classes.weight", 32, 10), name="classes"))


def attention(head: int, tokens: int) -> onnx.ModelProto:
    """Attention of a 1×1×tokens×head input over itself, one head, between two products."""
    net = Net(shape=(1, 1, tokens, head))
    q, k, v = (
        net.op("MatMul", "image", net.weights(f"{p}.weight", head, head), name=p)
        for p in ("query", "key", "value")
    )
    scores = net.op("MatMul", q, net.op("Transpose", k, name="turned", perm=[0, 1, 3, 2]), name="scores")
    mixed = net.op("MatMul", net.op("Softmax", scores, name="softmax", axis=-1), v, name="mix")
    return net.model(net.op("MatMul", mixed, net.weights("project.weight", head, head), name="project"))


def classifier(bias_shape: tuple[int, ...] = (64,), hidden_bias: Array | None = None) -> onnx.ModelProto:
    """Convolution, average pool, two Gemm layers over 16 rows of features; 16×10 scores in all."""
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    x = net.op("AveragePool", x, name="pool", kernel_shape=[8, 8], strides=[8, 8])
    rows = net.constant("rows_shape", [16, 32], np.int64)
    x = net.op("Reshape", net.op("Transpose", x, name="last", perm=[0, 2, 3, 1]), rows, name="rows")
    value = net.random.normal(0, 0.1, bias_shape) if hidden_bias is None else hidden_bias
    bias = net.constant("hidden.bias", value)
    x = net.op("Gemm", x, net.weights("hidden.weight", 64, 32), bias, name="hidden", transB=1)
    x = net.op("Relu", x, name="hidden_relu")
    bias = net.constant("classes.bias", np.zeros(10))
    return net.model(net.op("Gemm", x, net.weights("classes.weight", 10, 64), bias, name="classes", transB=1))


def resize() -> onnx.ModelProto:
    """A convolution, an enlargement by constant scales, a convolution: a map 1×1×64×64."""
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    scales = net.constant("enlarge.scales", [1, 1, 2, 2])
    x = net.op("Resize", x, "", scales, name="enlarge", mode="nearest")
    x = net.op("Relu", net.conv(x, "body", (32, 32)), name="body_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1), kernel=1), name="sigmoid"))


def batch_norm() -> onnx.ModelProto:
    """Convolution → BatchNormalization → Relu → convolution; two nodes have the same name, one has none."""
    net = Net()
    x = net.conv("image", "same", (3, 32))
    values = {"scale": (0.5, 2), "shift": (-1, 1), "mean": (-1, 1), "variance": (0.5, 2)}
    folded = [net.constant(f"norm.{n}", net.random.uniform(*span, 32)) for n, span in values.items()]
    x = net.op("Relu", net.op("BatchNormalization", x, *folded, name="norm"), name="relu")
    x = net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="sigmoid")
    model = net.model(x)
    for node, name in zip(model.graph.node, ("same", "norm", "relu", "same", ""), strict=False):
        node.name = name
    return model


def channels_last() -> onnx.ModelProto:
    """Reads 1×32×32×3."""
    net = Net(shape=(1, SIZE, SIZE, 3))
    x = net.op("Transpose", "image", name="first", perm=[0, 3, 1, 2])
    x = net.op("Relu", net.conv(x, "stem", (3, 32)), name="stem_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="sigmoid"))


def half_input() -> onnx.ModelProto:
    """Reads float16."""
    net = Net()
    model = net.model(net.op("Cast", "image", name="wide", to=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def two_inputs() -> onnx.ModelProto:
    net = Net()
    model = net.model(net.op("Add", "image", "other", name="add"))
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, *SHAPE]))
    return model


def logarithm(late: bool = False) -> onnx.ModelProto:
    """log of the picture through a convolution: NaN where it is negative. `late`: in the last layer only."""
    net = Net()
    x = net.conv("image", "stem", (3, 32))
    if late:
        return net.model(net.op("Log", net.conv(x, "head", (32, 1)), name="log"))
    return net.model(
        net.op("Sigmoid", net.conv(net.op("Log", x, name="log"), "head", (32, 1)), name="sigmoid")
    )


def unknown_operator() -> onnx.ModelProto:
    """A node 'strange' of an operator that ONNX's own domain does not have."""
    net = Net()
    return net.model(net.op("Frobnicate", net.conv("image", "stem", (3, 32)), name="strange"))


def custom_domain() -> onnx.ModelProto:
    """A node 'special' of somebody's own domain."""
    net = Net()
    model = net.model(net.op("Relu", net.conv("image", "stem", (3, 32)), name="special"))
    special = next(node for node in model.graph.node if node.name == "special")
    special.op_type, special.domain = "Warp", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def quantized() -> onnx.ModelProto:
    """A graph that somebody quantized already."""
    net = Net()
    scale, zero = net.constant("scale", 0.01), net.constant("zero", 0, np.uint8)
    q = net.op("QuantizeLinear", "image", scale, zero, name="quantize")
    x = net.op("DequantizeLinear", q, scale, zero, name="dequantize")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (3, 1)), name="sigmoid"))


def branch(captures: bool = False) -> onnx.ModelProto:
    """An If between two convolutions; the picture decides which branch is taken.

    Args:
        captures: the branches read a weight and another node's result from around them.
    """
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    peak = net.op("ReduceMax", "image", name="max", keepdims=0)
    bright = net.op("Greater", peak, net.constant("half", 0.5), name="bright")
    outer = ("stem_relu.out", net.weights("gain", 1, 32, 1, 1)) if captures else ()
    branches = {f"{name}_branch": _branch(name, outer) for name in ("then", "else")}
    net.nodes.append(helper.make_node("If", [bright], ["if.out"], name="if", **branches))
    x = net.op("Add", x, "if.out", name="add")
    x = net.op("Relu", net.conv(x, "body", (32, 32)), name="body_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="sigmoid"))


def _branch(name: str, outer: tuple[str, ...]) -> onnx.GraphProto:
    value = 0.5 if name == "then" else 2.0
    constant = numpy_helper.from_array(np.full((1, 32, 1, 1), value, np.float32), f"{name}.value")
    nodes = [helper.make_node("Constant", [], [f"{name}.own"], name=f"{name}.constant", value=constant)]
    last = f"{name}.own"
    for index, tensor in enumerate(outer):
        nodes.append(helper.make_node("Mul", [last, tensor], [f"{name}.{index}"], name=f"{name}.mul{index}"))
        last = f"{name}.{index}"
    out = helper.make_tensor_value_info(
        last, TensorProto.FLOAT, [1, 32, SIZE, SIZE] if outer else [1, 32, 1, 1]
    )
    return helper.make_graph(nodes, name, [], [out])


def loop() -> onnx.ModelProto:
    """A Loop that halves a feature map three times, between two convolutions."""
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    half = numpy_helper.from_array(np.float32(0.5), "half.value")
    body = helper.make_graph(
        [
            helper.make_node("Constant", [], ["half"], value=half),
            helper.make_node("Mul", ["carried_in", "half"], ["carried_out"], name="halve"),
            helper.make_node("Identity", ["go_on_in"], ["go_on_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_in", TensorProto.FLOAT, [1, 32, SIZE, SIZE]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, [1, 32, SIZE, SIZE]),
        ],
    )
    times = net.constant("times", 3, np.int64)
    net.nodes.append(helper.make_node("Loop", [times, "", x], ["loop.out"], name="loop", body=body))
    x = net.op("Relu", net.conv("loop.out", "body", (32, 32)), name="body_relu")
    return net.model(net.op("Sigmoid", net.conv(x, "head", (32, 1)), name="sigmoid"))


GOOD = {
    "residual": residual,
    "depthwise_swish": depthwise_swish,
    "transformer": transformer,
    "classifier": classifier,
    "resize": resize,
    "batch_norm": batch_norm,
}
"""Graphs that can be built for every target."""


def graph(model: onnx.ModelProto) -> Graph:
    """Prepared for a 3×32×32 picture and indexed."""
    return Graph(prepare(model, None, SHAPE))


@cache
def good(name: str) -> Graph:
    """One of `GOOD`, or "loop", prepared once; to be read only."""
    return graph({**GOOD, "loop": loop}[name]())


def feeds(count: int = 4, seed: int = 0, name: str = "image") -> list[dict[str, Array]]:
    """Network inputs of 0…1: smooth blobs and noise, so that no two samples have the same range."""
    random = np.random.default_rng(seed)
    pictures = random.random((count, 1, *SHAPE)) * random.uniform(0.3, 1, (count, 1, 1, 1, 1))
    return [{name: picture.astype(np.float32)} for picture in pictures]


@cache
def ranges(index: Graph, count: int = 2) -> Mapping[str, Range]:
    """Really measured ranges of all tensors that a plan may need."""
    return calibrated(index, count).ranges


def calibrated(index: Graph, count: int = 2) -> Calibration:
    samples = feeds(count, name=index.inputs[0])
    return calibrate(index.model, observed_tensors(index), samples, count, "0" * 64)


def pictures(folder: Path, count: int = 4, masks: bool = False, seed: int = 0) -> Path:
    """A folder of 32×32 JPEG pictures, with a mask beside each if asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        picture = cv2.GaussianBlur(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8), (0, 0), 1 + index)
        cv2.imwrite(str(folder / f"{index:04d}.jpg"), cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX))
        if masks:
            cv2.imwrite(
                str(folder / f"{index:04d}.png"), (picture[:, :, 1] > picture.mean()).astype(np.uint8) * 255
            )
    return folder


def saved(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


REAL = ("burned_in_text", "squeezenet1.1", "yolox_nano", "craft_x4_128")
"""Model configs with real graphs; all but the first read theirs from the folder of measuring data."""


def real_config(name: str) -> ModelConfig:
    """The config of a real model; skips the test if its graph is not here."""
    config = load_model(Path(name))
    if not config.onnx.is_file():
        pytest.skip(f"{config.onnx} is not here (measuring data: $EDGE_ASSETS)")
    return config


@cache
def real(name: str) -> Graph:
    """A real model's graph, prepared once; skips the test if it is not here."""
    config = real_config(name)
    return Graph(prepare(read(config.onnx), config.input.name, (config.input.channels, *config.input.size)))


def made_up_ranges(index: Graph) -> dict[str, Range]:
    """±1 for every tensor: plans only ask whether a range is known and alive."""
    return dict.fromkeys(observed_tensors(index), Range(-1.0, 1.0, 1.0, 1.0, (-1.0, 1.0)))


def config(folder: Path, model: onnx.ModelProto, labelled: bool = False, **more: Any) -> ModelConfig:
    """A config for a graph that writes a heat map, with its files in `folder`: 4 pictures to calibrate with
    and 3 others to verify with, which have masks if `labelled`."""
    evaluation = pictures(folder / "evaluation", 3, masks=labelled, seed=1)
    data = {
        "name": "tiny",
        "onnx": saved(model, folder / "tiny.onnx"),
        "input": {"size": [SIZE, SIZE]},
        "task": {"kind": "segment", "scores": "probabilities", "threshold": 0.5},
        "calibration": {"images": pictures(folder / "calibration")},
        "evaluation": {"images": evaluation, "labels": evaluation if labelled else None},
    }
    return ModelConfig.model_validate(data | more)


def mask(path: Path) -> Path:
    """A picture's mask, made beside it."""
    cv2.imwrite(str(path), np.eye(SIZE, dtype=np.uint8) * 255)
    return path
