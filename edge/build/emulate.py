"""The very graph that was compiled for a GPU, as a float32 graph that gives its numbers on a processor.

Processors have no bf16 or fp8 convolution. So every tensor the typed graph keeps in bf16 or fp16 is computed
in float32 and rounded to that type; Q/DQ stay as they are, with their scales as float32 of the same value.
What remains different on the device: the order of summation, and roundings that a fused kernel leaves out.

An fp8 graph has to run with `EngineOptions(exact=True)`: ONNX Runtime's Q/DQ passes corrupt fp8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.backends import Engine
from edge.errors import RuntimeFault
from edge.precision.numerics import NUMPY, PRECISION
from edge.types import Array

FLOAT = onnx.TensorProto.FLOAT
NARROW = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph with the same inputs, outputs and roundings; `model` comes from `rewrite`."""
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for repeated in (wide.graph.node, wide.graph.initializer, wide.graph.value_info):
        del repeated[:]
    wide.graph.initializer.extend(_widened(t) for t in model.graph.initializer)
    for node in model.graph.node:
        wide.graph.node.extend(_emulated_node(node, types))
    return wide


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type not in NARROW:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(NUMPY["fp32"]), tensor.name)


def _emulated_node(node: onnx.NodeProto, types: dict[str, int]) -> list[onnx.NodeProto]:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for a in copy.attribute:
        if a.name in ("to", "dtype") and a.i in NARROW:
            a.i = FLOAT
        elif a.name == "value" and a.t.data_type in NARROW:
            a.t.CopyFrom(_widened(a.t))
    added = []
    for index, name in enumerate(node.output):
        code = types.get(name)
        if code in NARROW:
            copy.output[index] = f"{name}/unrounded"
            label = PRECISION[code]
            added += [
                helper.make_node(
                    "Cast", [copy.output[index]], [f"{name}/narrow"], name=f"{name}/to_{label}", to=code
                ),
                helper.make_node("Cast", [f"{name}/narrow"], [name], name=f"{name}/from_{label}", to=FLOAT),
            ]
    return [copy, *added]


def check(path: Path, engine: Engine, feeds: Mapping[str, Array]) -> None:
    """Compare the emulation with a session that optimizes nothing: an optimizer must not change a number.

    Raises:
        RuntimeFault: they differ; the installed ONNX Runtime cannot be trusted with this graph.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    plain = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    optimized = engine.run(feeds)
    for output, expected in zip(plain.get_outputs(), plain.run(None, dict(feeds)), strict=True):
        found = optimized[output.name]
        if found.shape != expected.shape or not np.allclose(
            found, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max(initial=0)), equal_nan=True
        ):
            raise RuntimeFault(
                f"ONNX Runtime {ort.__version__} changes output '{output.name}' when it optimizes",
                "so the emulated accuracy would not be the engine's",
                "install another onnxruntime and build again",
            )
