"""Where the graph is quantized: which tensors get a Q/DQ pair, with which scale, and who reads it.

GPUs take a pair in front of every quantized product; TensorRT moves and fuses it (explicit quantization).
ONNX Runtime on a processor fuses a convolution only if its output is quantized too, so there the pairs
stand on every tensor between quantized nodes, and Concat, MaxPool and the like stay in int8 with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edge.graph import Graph
from edge.precision import numerics
from edge.precision.groups import is_weighted, operands, products
from edge.precision.plan import Plan
from edge.precision.ranges import Range, affine
from edge.targets import Target

PASSING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "DepthToSpace")
"""Operators that move values without changing them: their output has their input's scale."""
JOINING = ("Concat", "Add", "GlobalAveragePool", "AveragePool", "Resize")
"""Operators that ONNX Runtime computes in int8, with scales of their own."""


@dataclass(frozen=True, slots=True)
class Point:
    """A tensor with a Q/DQ pair.

    Attributes:
        kind: storage type between Q and DQ: int8, uint8 or fp8.
        readers: names of the nodes that read the dequantized tensor; the others read the original.
    """

    tensor: str
    kind: str
    scale: np.float32
    zero_point: int
    readers: frozenset[str]


Points = dict[tuple[str, str], Point]
"""By tensor and type: two products may read one tensor in two types."""


def points(graph: Graph, plan: Plan, ranges: Mapping[str, Range], target: Target) -> Points:
    """All Q/DQ pairs of a plan."""
    if not plan.quantized:
        return {}
    if target.is_gpu:
        return _before_products(graph, plan, ranges, target)
    return _between_products(graph, plan, ranges, target)


def _before_products(graph: Graph, plan: Plan, ranges: Mapping[str, Range], target: Target) -> Points:
    readers: dict[tuple[str, str], set[str]] = {}
    for node in graph.nodes:
        if node.name in plan.quantized or node.name in plan.skips:
            for name in operands(graph, node):
                readers.setdefault((name, plan.precisions[node.name]), set()).add(node.name)
    return {
        (name, kind): _point(name, kind, ranges[name], plan, target, frozenset(who))
        for (name, kind), who in readers.items()
    }


def observed_tensors(graph: Graph) -> list[str]:
    """Every tensor whose range some target's plan may need, in graph order."""
    weighted = _weighted(graph)
    wanted = {name for node in products(graph) for name in operands(graph, node)}
    wanted |= {_written(graph, node) for node in weighted}
    wanted |= {n.output[0] for n in _staying_int8(graph, weighted) if n.op_type in JOINING}
    produced = [*graph.inputs, *(name for node in graph.nodes for name in node.output)]
    return [name for name in produced if name in wanted and graph.is_float(name)]


def _weighted(graph: Graph) -> list[onnx.NodeProto]:
    """Products with constant weights."""
    return [node for node in products(graph) if is_weighted(graph, node)]


def _between_products(graph: Graph, plan: Plan, ranges: Mapping[str, Range], target: Target) -> Points:
    quantized = [node for node in graph.nodes if node.name in plan.quantized]
    found = {
        name: _point(name, "int8", ranges[name], plan, target, frozenset())
        for node in quantized
        for name in (node.input[0], _written(graph, node))
        if name not in graph.outputs and not ranges[name].dead
    }
    int8_nodes = set(plan.quantized)
    for node in _staying_int8(graph, quantized):
        sources = [i for i in node.input if i and graph.is_float(i) and i not in graph.initializers]
        out = node.output[0]
        if not sources or not all(i in found for i in sources):
            continue
        if node.op_type in PASSING:
            found[out] = _at(out, found[sources[0]])
        elif not ranges[out].dead:
            found.setdefault(out, _point(out, "int8", ranges[out], plan, target, frozenset()))
        int8_nodes.add(node.name)
    return {(name, "int8"): _with_readers(graph, point, plan, int8_nodes) for name, point in found.items()}


def _staying_int8(graph: Graph, quantized: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Operators between products, in graph order: what they write reaches one without other arithmetic."""
    wanted = {node.input[0] for node in quantized}
    chosen = []
    for node in reversed(graph.nodes):
        if node.output[0] not in wanted or node.op_type not in PASSING + JOINING:
            continue
        if node.op_type == "Add" and any(i in graph.initializers for i in node.input):
            continue  # a constant addend has no range of its own
        chosen.append(node)
        wanted.update(i for i in node.input if i)
    return chosen[::-1]


def _written(graph: Graph, node: onnx.NodeProto) -> str:
    """The tensor a quantized product writes, after the Relu or Clip that a runtime fuses into it."""
    out = str(node.output[0])
    users = graph.consumers.get(out, [])
    if out not in graph.outputs and len(users) == 1 and users[0].op_type in ("Relu", "Clip"):
        return str(users[0].output[0])
    return out


def _with_readers(graph: Graph, point: Point, plan: Plan, int8_nodes: set[str]) -> Point:
    users = graph.consumers.get(point.tensor, [])
    writer = graph.producer.get(point.tensor)
    fused = writer is not None and any(
        _written(graph, node) == point.tensor
        for node in (writer, *filter(None, [graph.producer.get(writer.input[0])]))
        if node.name in plan.quantized
    )
    # a fused product has no float output any more: everybody reads the dequantized tensor
    readers = frozenset(u.name for u in users if fused or u.name in int8_nodes)
    return Point(point.tensor, point.kind, point.scale, point.zero_point, readers)


def _at(tensor: str, point: Point) -> Point:
    return Point(tensor, point.kind, point.scale, point.zero_point, frozenset())


def _point(name: str, kind: str, seen: Range, plan: Plan, target: Target, readers: frozenset[str]) -> Point:
    if kind == "int8" and plan.activations == "u8":
        scale, zero_point = affine(*seen.u8)
        return Point(name, "uint8", scale, zero_point, readers)
    threshold = seen.fp8 if kind == "fp8" else seen.int8
    exact = numerics.storable_scale(
        np.float32(threshold / numerics.QMAX[kind]), "bf16" if target.bf16_exact_scales else "fp32"
    )
    return Point(name, kind, np.float32(exact), 0, readers)
