"""Write a plan into the graph: Q/DQ pairs, weights stored quantized, casts to the carrier.

Precision is a property of the graph and nothing else: no builder flag changes a type. Tensors keep their
names; what is added is called `<tensor>/<what>`, for example `conv1.weight/int8` or `images/bf16`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.errors import ModelError
from edge.graph import OPSET, Graph, attribute, captured
from edge.precision import numerics
from edge.precision.calibrate import Range
from edge.precision.placement import Point, points
from edge.precision.plan import Plan
from edge.targets import Target
from edge.types import Array

IR_VERSION = 9
"""First IR version with fp8."""

KEEPS_FP32: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
"""Inputs whose type does not follow the data: region of interest and scales (ONNX operator reference)."""
FP32_ISLANDS = frozenset(
    {"If", "Loop", "Scan", "NonMaxSuppression", "RandomNormal", "RandomUniform", "Range"}
)
"""Operators that run in fp32 between casts: control flow, and those TensorRT has in fp32 only."""


class Planned(Protocol):
    """A step of a plan, or what a manifest keeps of it."""

    @property
    def node(self) -> str: ...

    @property
    def op(self) -> str: ...

    @property
    def precision(self) -> str: ...


def planned_precisions(steps: Iterable[Planned]) -> tuple[tuple[str, str], ...]:
    """Precisions as the graph has them: control flow and its like run in fp32, whatever the carrier."""
    return tuple((s.node, "fp32" if s.op in FP32_ISLANDS else s.precision) for s in steps)


def rewrite(graph: Graph, plan: Plan, ranges: Mapping[str, Range], target: Target) -> onnx.ModelProto:
    """The graph with `plan` in it.

    Args:
        graph: prepared (`graph.prepare`), float32.
        ranges: of every tensor that the plan quantizes.
    """
    return _Writer(graph, plan, points(graph, plan, ranges, target), target).model()


class _Writer:
    """Copies the graph node by node; each helper tensor is written once, before its first use."""

    def __init__(self, graph: Graph, plan: Plan, pairs: Mapping[str, Point], target: Target) -> None:
        self.graph, self.plan, self.pairs, self.target = graph, plan, pairs, target
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.types: dict[str, int] = {}
        self.done: set[str] = set()
        self.names = {node.name for node in graph.nodes}
        self.wide: set[str] = set()
        """Tensors that an island wrote in fp32; they are narrowed for a reader in the carrier only."""

    def model(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            self._copy(node)
        for name in self.graph.outputs:
            if self._is_carried(name):
                self._cast(f"{name}/fp32" if name in self.wide else self._inner(name), name, "fp32")
        return self._assemble()

    def _assemble(self) -> onnx.ModelProto:
        source = self.graph.model
        model = onnx.ModelProto()
        model.CopyFrom(source)
        model.ir_version = max(source.ir_version, IR_VERSION)
        model.producer_name = "edge"
        model.producer_version = ""
        for repeated in (model.graph.node, model.graph.initializer, model.graph.value_info):
            del repeated[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.constants.values())
        outer = {*self.graph.inputs, *self.graph.outputs}
        model.graph.value_info.extend(
            helper.make_tensor_value_info(name, code, None)
            for name, code in self.types.items()
            if name not in outer
        )
        opset = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
        opset.version = max(opset.version, OPSET)
        return model

    # ------------------------------------------------------------------ names and types

    def _is_carried(self, name: str) -> bool:
        return self.plan.carrier != "fp32" and self.graph.is_float(name)

    def _inner(self, name: str) -> str:
        """Name of a tensor inside the carrier's part of the graph: inputs and outputs stay fp32 outside."""
        outside = name in self.graph.outputs or name in self.graph.inputs
        return f"{name}/{self.plan.carrier}" if outside and self._is_carried(name) else name

    def _constant(self, name: str, value: Array, precision: str) -> str:
        taken = self.constants.get(name)
        if taken is not None and taken.data_type != numerics.ONNX[precision]:
            name = f"{name}/{precision}"
        if name not in self.constants:
            with np.errstate(over="ignore"):  # lint names a constant that became infinite
                typed = np.asarray(value).astype(numerics.NUMPY[precision], order="C")
            self.constants[name] = numpy_helper.from_array(typed, name)
        return name

    def _node(self, op: str, inputs: list[str], output: str, precision: str, **attributes: int) -> str:
        if output not in self.done:
            self.done.add(output)
            self.types[output] = numerics.ONNX[precision]
            name = f"{output}/{op}" if output in self.names else output
            node = helper.make_node(op, inputs, [output], name=name)
            node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
            self.nodes.append(node)
        return output

    def _cast(self, source: str, output: str, precision: str) -> str:
        return self._node("Cast", [source], output, precision, to=numerics.ONNX[precision])

    # ------------------------------------------------------------------ nodes

    def _copy(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        island = node.op_type in FP32_ISLANDS or node.name in self.plan.widened
        if island:
            self._keep_captured(node)
        for index, name in enumerate(node.input):
            if name:
                copy.input[index] = self._read(node, index, name, island)
        for index, name in enumerate(node.output):
            if name and self._is_carried(name):
                copy.output[index] = f"{name}/fp32" if island else self._inner(name)
                self.types[copy.output[index]] = numerics.ONNX["fp32" if island else self.plan.carrier]
                self.wide.update([name] if island else [])
        if not island:
            self._retype_attributes(copy)
        self.nodes.append(copy)

    def _read(self, node: onnx.NodeProto, index: int, name: str, island: bool) -> str:
        """What this input is called in the new graph."""
        if not self.graph.is_float(name):
            if name in self.graph.initializers:
                self.constants.setdefault(name, self.graph.initializers[name])
            return name
        quantized = node.name in self.plan.quantized
        if quantized and index == 1:
            return self._weight(node, name)
        if quantized and index == 2 and not self.target.is_gpu:
            return self._integer_bias(node, name)
        if name in self.pairs and node.name in self.pairs[name].readers:
            return self._pair(self.pairs[name])
        if island or index in KEEPS_FP32.get(node.op_type, ()):
            return self._as_fp32(name)
        return self._carried(name)

    def _carried(self, name: str) -> str:
        """A float tensor in the carrier's type."""
        if name in self.graph.initializers:
            return self._constant(name, self._value(name), self.plan.carrier)
        if name in self.graph.inputs and self._is_carried(name):
            return self._cast(name, self._inner(name), self.plan.carrier)
        if name in self.wide:
            return self._cast(f"{name}/fp32", self._inner(name), self.plan.carrier)
        return self._inner(name)

    def _as_fp32(self, name: str) -> str:
        if name in self.graph.initializers:
            return self._constant(name, self._value(name), "fp32")
        if name in self.graph.inputs or not self._is_carried(name):
            return name
        if name in self.wide:
            return f"{name}/fp32"
        return self._cast(self._inner(name), f"{name}/as_fp32", "fp32")

    def _value(self, name: str) -> Array:
        value = self.graph.constant(name)
        assert value is not None
        return value

    def _retype_attributes(self, node: onnx.NodeProto) -> None:
        """Casts to float and tensors made out of nothing follow the carrier."""
        if self.plan.carrier == "fp32":
            return
        for a in node.attribute:
            if a.name in ("to", "dtype") and a.i == onnx.TensorProto.FLOAT:
                a.i = numerics.ONNX[self.plan.carrier]
            elif a.name == "value" and a.t.data_type == onnx.TensorProto.FLOAT:
                typed = numpy_helper.to_array(a.t).astype(numerics.NUMPY[self.plan.carrier])
                a.t.CopyFrom(numpy_helper.from_array(typed, a.t.name))

    def _keep_captured(self, node: onnx.NodeProto) -> None:
        """Constants that a sub-graph reads from around it stay; a tensor there would have another type.

        Raises:
            ModelError: it reads a float tensor, which outside is in the carrier.
        """
        for name in captured(node):
            if self._is_carried(name):
                raise ModelError(
                    f"node '{node.name}' ({node.op_type}) reads '{name}' from outside itself",
                    f"inside control flow it cannot follow the {self.plan.carrier} carrier",
                    "pass the tensor as an input of the node, or export without control flow",
                )
            if name in self.graph.initializers:
                self.constants.setdefault(name, self.graph.initializers[name])

    # ------------------------------------------------------------------ Q/DQ

    def _scale(self, name: str, scale: numerics.Scale) -> tuple[str, str]:
        """A scale constant and the float type it is carried in; DQ's output has that type."""
        stored: str = self.target.scale_type
        if stored == "fp16" and not numerics.fits_fp16(scale):
            stored = "fp32"
        return self._constant(f"{name}/scale", np.asarray(scale, np.float32), stored), stored

    def _pair(self, point: Point) -> str:
        """Q and DQ behind an activation: the dequantized tensor, in the carrier's type."""
        name = point.tensor
        scale, carried_as = self._scale(name, point.scale)
        zero = self._constant(f"{name}/zero_point", np.asarray(point.zero_point), point.kind)
        source = self._carried(name) if carried_as == self.plan.carrier else self._as_fp32(name)
        q = self._node("QuantizeLinear", [source, scale, zero], f"{name}/{point.kind}", point.kind)
        return self._dequantize(name, [q, scale, zero], carried_as)

    def _dequantize(self, name: str, inputs: list[str], carried_as: str, **attributes: int) -> str:
        same = carried_as == self.plan.carrier
        out = self._node(
            "DequantizeLinear",
            inputs,
            f"{name}/dequantized" if same else f"{name}/dequantized_{carried_as}",
            carried_as,
            **attributes,
        )
        return out if same else self._cast(out, f"{name}/dequantized", self.plan.carrier)

    def _weight(self, node: onnx.NodeProto, name: str) -> str:
        """Weights stored quantized, one scale for each output channel, followed by DQ alone."""
        assert self.plan.kind is not None
        value = self._value(name)
        axis, (label, scales) = output_axis(node, value.ndim), self._weight_scales(node)
        shape = [1] * value.ndim
        shape[axis] = -1
        stored = numerics.quantize_weight(value, scales.reshape(shape), self.plan.kind)
        scale, carried_as = self._scale(label, scales)
        q = self._constant(f"{label}/{self.plan.kind}", stored, self.plan.kind)
        zero = self._constant(f"{label}/zero_point", np.zeros(len(scales)), self.plan.kind)
        return self._dequantize(label, [q, scale, zero], carried_as, axis=axis)

    def _weight_scales(self, node: onnx.NodeProto) -> tuple[str, numerics.Floats]:
        """What a node's weights are called, and their scales."""
        assert self.plan.kind is not None
        name = node.input[1]
        value = self._value(name)
        axis = output_axis(node, value.ndim)
        label = f"{name}/axis{axis}" if axis else name
        scales = numerics.weight_scales(value, axis, self.plan.kind)
        scales = numerics.storable_scale(scales, "bf16" if self.target.bf16_exact_scales else "fp32")
        least = self._least_scales(node, len(scales))
        if (least > scales).any():
            return f"{label}/of {node.name}", np.maximum(scales, least)
        return label, scales

    def _least_scales(self, node: onnx.NodeProto, channels: int) -> numerics.Floats:
        """ONNX Runtime stores a bias as int32 in units of input × weight scale: it has to fit.

        A pruned channel has weights next to nothing and writes its bias.
        """
        pair = self.pairs.get(node.input[0])
        bias = self.graph.constant(node.input[2]) if len(node.input) > 2 else None
        if self.target.is_gpu or pair is None or bias is None:
            return np.zeros(channels, np.float32)
        peak = np.abs(bias) if bias.shape == (channels,) else np.full(channels, np.abs(bias).max())
        return np.asarray(peak / (float(pair.scale) * 2.0**30), np.float32)

    def _integer_bias(self, node: onnx.NodeProto, name: str) -> str:
        """ONNX Runtime fuses a convolution only with an int32 bias, in units of input × weight scale."""
        pair, bias = self.pairs.get(node.input[0]), self.graph.constant(name)
        if pair is None or bias is None:
            return self._carried(name)
        scale = pair.scale * self._weight_scales(node)[1]
        if bias.shape != scale.shape:
            return self._carried(name)  # broadcast: no scale of its own for each element
        label = f"{name}/of {node.name}"
        units = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        self.constants[f"{label}/int32"] = numpy_helper.from_array(units, f"{label}/int32")
        inputs = [f"{label}/int32", self._constant(f"{label}/scale", scale, "fp32")]
        return self._node("DequantizeLinear", inputs, f"{label}/dequantized", "fp32", axis=0)


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """The weights' output-channel axis: 0 of Conv, the row or column of Gemm, the last of MatMul."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return rank - 1
