"""The least GPU memory that a graph can run in, known before it is compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from edge.graph import WEIGHTED, Graph

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Least:
    """A lower bound, in bytes.

    Attributes:
        weights: all constants, as they are stored.
        activations: what one matrix product reads and writes: the largest sum in the graph.
        node: that product; "" if there is none.
    """

    weights: int
    activations: int
    node: str

    @property
    def total(self) -> int:
        return self.weights + self.activations

    def __str__(self) -> str:
        text = f"{self.weights / MIB:.1f} MiB of weights"
        return f"{text}, {self.activations / MIB:.1f} MiB to run node '{self.node}'" if self.node else text


def least_memory(graph: bytes, inputs: Mapping[str, Sequence[int]]) -> Least:
    """Weights, and the input and output of the product that moves most.

    Compilers fuse everything else into the products: what lies between two of them may never be in memory, in
    full or at all. A product's output may be stored quantized right away where anything in the graph is.

    Args:
        graph: serialized, with its precisions written in.
        inputs: shapes of open inputs; those that have a fixed size need not be given.
    """
    model = onnx.ModelProto.FromString(graph)
    for value in model.graph.input:
        if value.name in inputs:
            _set_shape(value, inputs[value.name])
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    sizes = _Sizes(model)
    moved = {node.name: sizes.moved(node) for node in model.graph.node if node.op_type in WEIGHTED}
    node = max(moved, key=lambda name: moved[name], default="")
    weights = sum(len(t.raw_data) or t.ByteSize() for t in model.graph.initializer)
    return Least(weights, moved.get(node, 0), node)


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = size


class _Sizes:
    """Bytes of tensors in a typed graph; 0 where a shape is not known."""

    def __init__(self, model: onnx.ModelProto) -> None:
        values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        del model.graph.value_info[:]  # types without shapes stop ONNX's inference in some graphs
        self.graph = Graph(model)
        self.quantizes = any(node.op_type == "QuantizeLinear" for node in model.graph.node)

    def moved(self, node: onnx.NodeProto) -> int:
        read = self.bytes(node.input[0], self._stored(node.input[0]))
        written = self.bytes(node.output[0], 1 if self.quantizes else self._width(node.output[0]))
        return read + written

    def bytes(self, name: str, width: int) -> int:
        shape = self.graph.shape(name)
        return 0 if shape is None else prod(shape) * width

    def _stored(self, name: str) -> int:
        """Bytes of an element as it lies in memory: before the DequantizeLinear, if there is one."""
        node = self.graph.producer.get(name)
        while node is not None and node.op_type in ("DequantizeLinear", "Cast"):
            if node.op_type == "DequantizeLinear":
                return 1
            name = node.input[0]
            node = self.graph.producer.get(name)
        return self._width(name)

    def _width(self, name: str) -> int:
        kind = self.types.get(name, onnx.TensorProto.FLOAT)
        if not kind:
            return 4
        return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
