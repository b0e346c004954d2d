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

from edge.graph import OPSET, Graph, captured, rename_captured
from edge.precision import numerics
from edge.precision.compensation import NO_COMPENSATION, Compensation, StoredWeight, bias_home, weight_key
from edge.precision.given import QUANTIZERS
from edge.precision.placement import Point, points
from edge.precision.plan import Plan
from edge.precision.policy import QUANTIZED, WEIGHT_ONLY
from edge.precision.ranges import Range
from edge.precision.weights import coarser, round_weight
from edge.targets import Target
from edge.types import Array

IR_VERSION = 9
"""First IR version with fp8."""
INT4_OPSET, INT4_IR_VERSION = 21, 10
"""First of each with int4 and scales a block."""

KEEPS_FP32: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
"""Inputs whose type does not follow the data: region of interest and scales (ONNX operator reference)."""
FP32_ISLANDS = frozenset(
    {"If", "Loop", "Scan", "NonMaxSuppression", "RandomNormal", "RandomUniform", "Range"}
)
"""Operators that run in fp32 between casts: control flow, and those TensorRT has in fp32 only. Q/DQ that a
graph comes with do, too: their scales are kept to the last bit."""


class Planned(Protocol):
    """A step of a plan, or what a manifest keeps of it."""

    @property
    def node(self) -> str: ...

    @property
    def op(self) -> str: ...

    @property
    def precision(self) -> str: ...


def planned_precisions(steps: Iterable[Planned], carrier: str) -> tuple[tuple[str, str], ...]:
    """Precisions as the graph computes in them: control flow and its like run in fp32, whatever the carrier;
    quantized weights alone, or a quantized skip connection, leave a node in the carrier."""
    found = []
    for s in steps:
        in_carrier = s.precision in WEIGHT_ONLY or (s.op == "Add" and s.precision in QUANTIZED)
        precision = carrier if in_carrier else s.precision
        found.append((s.node, "fp32" if s.op in FP32_ISLANDS else precision))
    return tuple(found)


def rewrite(
    graph: Graph,
    plan: Plan,
    ranges: Mapping[str, Range],
    target: Target,
    compensation: Compensation = NO_COMPENSATION,
) -> onnx.ModelProto:
    """The graph with `plan` in it.

    Args:
        graph: prepared (`graph.prepare`), float32.
        ranges: of every tensor that the plan quantizes.
        compensation: weights and biases to be stored instead of the graph's, rounded one by one.
    """
    return _Writer(graph, plan, points(graph, plan, ranges, target), target, compensation).model()


class _Writer:
    """Copies the graph node by node; each helper tensor is written once, before its first use."""

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        pairs: Mapping[tuple[str, str], Point],
        target: Target,
        compensation: Compensation,
    ) -> None:
        self.graph, self.plan, self.pairs, self.target = graph, plan, pairs, target
        self.compensation = compensation
        self.shifts = self._shifts()
        """Node and input → what is added to the bias that stands there."""
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
        int4 = any(tensor.data_type == numerics.ONNX["int4"] for tensor in self.constants.values())
        opset.version = max(opset.version, INT4_OPSET if int4 else OPSET)
        if int4:
            model.ir_version = max(model.ir_version, INT4_IR_VERSION)
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
            self.constants[name] = numpy_helper.from_array(numerics.narrow(value, precision), name)
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
        island = node.op_type in (*FP32_ISLANDS, *QUANTIZERS) or node.name in self.plan.widened
        if island:
            self._read_captured(copy)
        for index, name in enumerate(node.input):
            if name:
                copy.input[index] = self._read(node, index, name, island)
        self._add_bias(node, copy)
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
        weighted = index == 1 and name in self.graph.initializers
        if weighted and (quantized or node.name in self.plan.weight_only):
            return self._weight(node, name)
        if weighted and not island and (moved := self._moved(node)) is not None:
            return self._constant(name, moved, self.plan.carrier)
        if quantized and index == 2 and not self.target.is_gpu and name in self.graph.initializers:
            return self._integer_bias(node, name, self._bias(node, index, name))
        if (point := self._point(node, name)) is not None:
            return self._pair(point)
        if (node.name, index) in self.shifts:
            carrier = "fp32" if island else self.plan.carrier
            return self._constant(f"{name}/of {node.name}", self._bias(node, index, name), carrier)
        if island or index in KEEPS_FP32.get(node.op_type, ()):
            return self._as_fp32(name)
        return self._carried(name)

    def _point(self, node: onnx.NodeProto, name: str) -> Point | None:
        """The Q/DQ pair that the node reads this tensor through: of its own type, or else of any it reads."""
        kinds = [self.plan.precisions.get(node.name, ""), *QUANTIZED]
        found = (self.pairs.get((name, kind)) for kind in kinds)
        return next((p for p in found if p is not None and node.name in p.readers), None)

    # ------------------------------------------------------------------ biases

    def _shifts(self) -> dict[tuple[str, int], Array]:
        found = {}
        for node in self.graph.nodes:
            shift = self.compensation.biases.get((node.name, self.plan.precisions.get(node.name, "")))
            home = bias_home(self.graph, node) if shift is not None else None
            if shift is not None and home is not None:
                found[home.node, home.index] = shift
        return found

    def _bias(self, node: onnx.NodeProto, index: int, name: str) -> Array:
        """The constant at this input with what makes up for rounding; float32."""
        shift = self.shifts.get((node.name, index), np.float32(0))
        return np.asarray((self._value(name) if name else np.float32(0)) + shift, np.float32)

    def _add_bias(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        """A bias for a product that has none, where one is needed to restore its mean."""
        if (node.name, 2) not in self.shifts or (len(node.input) > 2 and node.input[2]):
            return
        label, value = f"{node.name}/bias", self._bias(node, 2, "")
        del copy.input[2:]
        if node.name in self.plan.quantized and not self.target.is_gpu:
            copy.input.append(self._integer_bias(node, label, value))
        else:
            copy.input.append(self._constant(label, value, self.plan.carrier))

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
                typed = numerics.narrow(numpy_helper.to_array(a.t), self.plan.carrier)
                a.t.CopyFrom(numpy_helper.from_array(typed, a.t.name))

    def _read_captured(self, copy: onnx.NodeProto) -> None:
        """What a sub-graph reads from around it stays fp32, like the sub-graph."""
        names = dict.fromkeys(captured(copy))
        for name in names:
            if not self.graph.is_float(name) and name in self.graph.initializers:
                self.constants.setdefault(name, self.graph.initializers[name])
        rename_captured(copy, {name: self._as_fp32(name) for name in names if self.graph.is_float(name)})

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
        several = sum((name, kind) in self.pairs for kind in QUANTIZED) > 1
        label = f"{name}/{point.kind}" if several else name
        scale, carried_as = self._scale(label, point.scale)
        zero = self._constant(f"{label}/zero_point", np.asarray(point.zero_point), point.kind)
        source = self._carried(name) if carried_as == self.plan.carrier else self._as_fp32(name)
        q = self._node("QuantizeLinear", [source, scale, zero], f"{name}/{point.kind}", point.kind)
        return self._dequantize(label, [q, scale, zero], carried_as)

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
        """Weights stored quantized, followed by DQ alone."""
        precision = self.plan.precisions[node.name]
        label, weight = self._stored(node)
        kind = numerics.STORED_AS[precision]
        scale, carried_as = self._scale(label, weight.scales)
        q = self._constant(f"{label}/{kind}", weight.values, kind)
        zero = self._constant(f"{label}/zero_point", np.zeros(weight.scales.shape), kind)
        block = {"block_size": weight.block} if weight.block else {}
        return self._dequantize(label, [q, scale, zero], carried_as, axis=weight.axis, **block)

    def _moved(self, node: onnx.NodeProto) -> Array | None:
        """Weights of a product in the carrier that are stored instead of the graph's (`offsets.py`)."""
        rank = len(self.graph.initializers[node.input[1]].dims)
        found = self.compensation.weights.get(weight_key(node, rank, self.plan.carrier))
        return None if found is None else found.values

    def _stored(self, node: onnx.NodeProto) -> tuple[str, StoredWeight]:
        """What a product's weights are called, and how they are stored."""
        name, precision = node.input[1], self.plan.precisions[node.name]
        value = self._value(name)
        key = weight_key(node, value.ndim, precision)
        label = f"{name}/axis{key[1]}" if key[1] else name
        alone = precision in QUANTIZED and len(self._types_of(name)) == 1
        label = label if alone else f"{label}/{precision}"
        weight = self.compensation.weights.get(key) or round_weight(node, value, precision, self.target)
        least = self._least_scales(node, weight)
        if least is None or not (least > weight.scales).any():
            return label, weight
        return f"{label}/of {node.name}", coarser(weight, value, least, precision)

    def _types_of(self, weights: str) -> set[str]:
        """In which types products read these weights: several where they share them."""
        readers = self.graph.consumers.get(weights, [])
        return {self.plan.precisions[node.name] for node in readers if node.name in self.plan.quantized}

    def _least_scales(self, node: onnx.NodeProto, weight: StoredWeight) -> numerics.Floats | None:
        """ONNX Runtime stores a bias as int32 in units of input × weight scale: it has to fit.

        A pruned channel has weights next to nothing and writes its bias.
        """
        pair = self.pairs.get((node.input[0], "int8"))
        has_bias = len(node.input) > 2 and node.input[2] in self.graph.initializers
        if self.target.is_gpu or pair is None or not has_bias:
            return None
        bias, channels = self._bias(node, 2, node.input[2]), weight.scales.size
        peak = np.abs(bias) if bias.shape == (channels,) else np.full(channels, np.abs(bias).max())
        return np.asarray(peak / (float(pair.scale) * 2.0**30), np.float32)

    def _integer_bias(self, node: onnx.NodeProto, name: str, bias: Array) -> str:
        """ONNX Runtime fuses a convolution only with an int32 bias, in units of input × weight scale."""
        pair, label = self.pairs.get((node.input[0], "int8")), f"{name}/of {node.name}"
        scale = None if pair is None else pair.scale * self._stored(node)[1].scales
        if scale is None or bias.shape != scale.shape:  # broadcast: no scale of its own for each element
            return self._constant(label if (node.name, 2) in self.shifts else name, bias, self.plan.carrier)
        units = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        self.constants[f"{label}/int32"] = numpy_helper.from_array(units, f"{label}/int32")
        inputs = [f"{label}/int32", self._constant(f"{label}/scale", scale, "fp32")]
        return self._node("DequantizeLinear", inputs, f"{label}/dequantized", "fp32", axis=0)
