"""Q/DQ pairs that a graph comes with: they are kept as they are, and so is every product that reads one."""

from __future__ import annotations

import onnx

from edge.graph import Graph
from edge.precision.numerics import PRECISION

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
WHY = "given in the graph"
_MULTIPLIED = {"int8": "int8", "uint8": "int8", "fp8": "fp8"}
_STORED = {"int8": "w8a16", "int4": "w4a16"}


def is_given(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node multiplies or adds what was dequantized in the graph."""
    return any(_dequantizer(graph, name) is not None for name in node.input[:2])


def precision(graph: Graph, node: onnx.NodeProto, carrier: str) -> str:
    """What a product that was given with Q/DQ computes in: in a type of which it reads both operands, or in
    the carrier, with weights that are stored in fewer bits."""
    kinds = [_kind(graph, name) for name in node.input[:2]]
    computed_in = {_MULTIPLIED.get(kind, carrier) for kind in kinds}
    if len(computed_in) == 1:
        return computed_in.pop()
    return _STORED.get(kinds[1], carrier) if not kinds[0] else carrier


def _kind(graph: Graph, name: str) -> str:
    """The type a tensor is dequantized from; "" if it is not."""
    writer = _dequantizer(graph, name)
    return "" if writer is None else storage(graph, writer.input[0])


def _dequantizer(graph: Graph, name: str) -> onnx.NodeProto | None:
    writer = graph.producer.get(name)
    return writer if writer is not None and writer.op_type == "DequantizeLinear" else None


def storage(graph: Graph, name: str) -> str:
    """The type of a quantized tensor, in our words; "" for one we have no word for."""
    constant = graph.initializers.get(name)
    code = graph.info(name).type.tensor_type.elem_type if constant is None else constant.data_type
    return PRECISION.get(code, "")


def has_quantizers(model: onnx.ModelProto) -> bool:
    """Whether a graph has Q/DQ."""
    return any(node.op_type in QUANTIZERS for node in model.graph.node)
