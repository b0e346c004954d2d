"""What is stored instead of weights rounded one by one: weights whose rounding errors cancel, and biases that
restore the mean of what a layer writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from edge.graph import Graph, attribute
from edge.precision.numerics import Floats
from edge.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """Weights in the type they are stored in.

    Attributes:
        values: int8, int4 or fp8, of the shape of the weights.
        scales: a value for each output channel; with blocks of the shape of the weights, but for the axis
            of the dot product, which has one value a block.
        axis: along which the scales lie; with blocks the axis that is divided.
        block: weights that share a scale along `axis`; 0 for a scale a channel.
    """

    values: Array
    scales: Floats
    axis: int
    block: int = 0

    def dequantized(self) -> Floats:
        """What a runtime makes of it, float32."""
        values = self.values.astype(np.float32)
        if self.block:
            return np.asarray(values * np.repeat(self.scales, self.block, self.axis), np.float32)
        shape = [1] * values.ndim
        shape[self.axis] = -1
        return np.asarray(values * self.scales.reshape(shape), np.float32)


WeightKey = tuple[str, int, str]
"""Initializer, axis of its output channels, precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Compensation:
    """What a graph's rounding is made up for with; empty where weights are rounded one by one.

    Attributes:
        weights: by initializer, axis and precision; nodes that share weights share them here.
        biases: by node and precision: to be added to what the product writes, a value an output channel.
    """

    weights: Mapping[WeightKey, StoredWeight] = field(default_factory=dict)
    biases: Mapping[tuple[str, str], Floats] = field(default_factory=dict)

    def joined(self, later: Compensation) -> Compensation:
        """Both; of what both have, the later one's."""
        return Compensation({**self.weights, **later.weights}, {**self.biases, **later.biases})


NO_COMPENSATION = Compensation()


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """The weights' output-channel axis: 0 of Conv, the row or column of Gemm, the last of MatMul."""
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)):
        return 0
    return rank - 1


def weight_key(node: onnx.NodeProto, rank: int, precision: str) -> WeightKey:
    """Where the weights of a product are found."""
    return node.input[1], output_axis(node, rank), precision


@dataclass(frozen=True, slots=True)
class BiasHome:
    """Where a product's output can be shifted by a value a channel: input `index` of `node`.

    Attributes:
        constant: the initializer that stands there; "" where the product has no bias yet.
    """

    node: str
    index: int
    constant: str


def bias_home(graph: Graph, node: onnx.NodeProto) -> BiasHome | None:
    """The place of a product's bias; None where it has none and none can be given.

    MatMul has no bias of its own: the constant of an Add that alone reads it serves.
    """
    if node.op_type == "MatMul":
        readers = graph.consumers.get(node.output[0], [])
        if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in graph.outputs:
            return None
        add = readers[0]
        index = next((i for i, name in enumerate(add.input) if name in graph.initializers), None)
        return None if index is None else BiasHome(add.name, index, add.input[index])
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return None
    if len(node.input) < 3 or not node.input[2]:
        return BiasHome(node.name, 2, "")
    return BiasHome(node.name, 2, node.input[2]) if node.input[2] in graph.initializers else None
