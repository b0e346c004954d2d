"""Fusible groups: the nodes that a compiler runs as one, and whose precision is decided together.

| kind      | what it holds                                                                              |
|-----------|--------------------------------------------------------------------------------------------|
| conv      | one convolution, with the activation behind it                                             |
| matrix    | one Gemm or MatMul                                                                         |
| qkv       | the products that make query, key and value of one attention from one tensor               |
| attention | query·key, scaling, mask, Softmax, ·value                                                  |
| mlp       | a matrix, an activation, a matrix, with nothing else reading what lies between             |
| skip      | the Add of a skip connection that a convolution is fused into                     |

Every product of the graph belongs to exactly one group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from edge.graph import Graph
from edge.precision.given import is_given
from edge.simplify import STANDARD_DOMAINS

Kind = Literal["conv", "matrix", "qkv", "attention", "mlp", "skip"]

PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Operators that a plan may quantize."""

POINTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
        "Identity", "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu",
        "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
    }
)  # fmt: skip
"""Operators that compute each element from the elements at its place."""
MOVING = frozenset(
    {"Expand", "Flatten", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that only move values."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes whose precision is decided together.

    Attributes:
        name: of its first product; unique.
        products: nodes whose precision is decided, in graph order: matrix products and convolutions, or the
            Add of a skip connection.
        nodes: these, and what is computed between and directly behind them.
        block: which transformer block it lies in, counted by attentions; None outside of any.
    """

    name: str
    kind: Kind
    products: tuple[str, ...]
    nodes: frozenset[str]
    block: int | None = None


def groups(graph: Graph) -> tuple[Group, ...]:
    """All groups, in graph order of their first product."""
    finder = _Finder(graph)
    found = sorted(finder.all(), key=lambda group: finder.order[group.name])
    starts = sorted({finder.order[name] for name in finder.block_starts()})
    blocks = [sum(start <= finder.order[group.name] for start in starts) - 1 for group in found]
    return tuple(
        dataclasses.replace(group, block=block if block >= 0 else None)
        for group, block in zip(found, blocks, strict=True)
    )


def products(graph: Graph) -> list[onnx.NodeProto]:
    """Convolutions and matrix products of float32, in graph order; without those that came with Q/DQ."""
    return [node for node in graph.nodes if _is_product(graph, node)]


def _is_product(graph: Graph, node: onnx.NodeProto) -> bool:
    computes = node.op_type in PRODUCTS and node.domain in STANDARD_DOMAINS and graph.is_float(node.output[0])
    return computes and not is_given(graph, node)


def operands(graph: Graph, node: onnx.NodeProto) -> tuple[str, ...]:
    """The activations that are quantized for a node: those that a product multiplies, one, or two where it
    has no constant weights; the skip of an Add."""
    if node.op_type == "Add":
        return (skip_of(graph, node),)
    return tuple(name for name in node.input[:2] if name not in graph.initializers)


def is_weighted(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the product has constant weights, as its second operand."""
    return node.input[1] in graph.initializers


def has_finite_constants(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a product's weights and bias hold neither NaN nor infinity."""
    constants = (graph.constant(name) for name in node.input[1:])
    return all(np.isfinite(value).all() for value in constants if value is not None)


def skip_of(graph: Graph, node: onnx.NodeProto) -> str:
    """What an Add reads beside a convolution that is fused into it; "" where it is no such Add.

    TensorRT fuses a convolution with the Add that alone reads it, and takes the other operand in int8 if that
    is quantized (its guide to the placement of Q/DQ).
    """
    if node.op_type != "Add" or any(name in graph.initializers for name in node.input):
        return ""
    if is_given(graph, node):
        return ""
    if len(set(node.input)) < 2 or graph.shape(node.input[0]) != graph.shape(node.input[1]):
        return ""
    for index in (1, 0):  # of two convolutions the later one is fused
        writer = graph.producer.get(node.input[index])
        alone = (
            len(graph.consumers.get(node.input[index], [])) == 1 and node.input[index] not in graph.outputs
        )
        if writer is not None and writer.op_type == "Conv" and alone and is_weighted(graph, writer):
            return str(node.input[1 - index])
    return ""


def fused_into(graph: Graph, node: onnx.NodeProto) -> str:
    """The convolution that is fused into the Add of a skip connection."""
    skip = skip_of(graph, node)
    other = next(name for name in node.input if name != skip)
    return str(graph.producer[other].name)


class _Finder:
    """Walks the graph once for each kind of group; what one kind has taken is left alone by the next."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order = {node.name: index for index, node in enumerate(graph.nodes)}
        self.nodes = {node.name: node for node in graph.nodes}
        self.taken: set[str] = set()
        self.fed_by: list[set[str]] = []
        """Of each attention: itself, and the products that make its query, key and value."""

    def all(self) -> Iterator[Group]:
        for softmax in (n for n in self.graph.nodes if n.op_type == "Softmax"):
            if (group := self._attention(softmax)) is not None:
                yield group
                yield from self._qkv(group)
        for node in products(self.graph):
            if node.name not in self.taken and (group := self._mlp(node)) is not None:
                yield group
        for node in products(self.graph):
            if node.name not in self.taken:
                yield self._group("conv" if node.op_type == "Conv" else "matrix", [node])
        for node in self.graph.nodes:
            if skip_of(self.graph, node):
                yield Group(node.name, "skip", (node.name,), frozenset([node.name]))

    def _group(
        self, kind: Kind, chain: Sequence[onnx.NodeProto], inner: Sequence[onnx.NodeProto] = ()
    ) -> Group:
        """Claims the products of `chain`; `inner` lies between them."""
        chain = sorted(chain, key=lambda node: self.order[node.name])
        self.taken.update(node.name for node in chain)
        behind = [n for node in chain for n in self._activation(node)]
        names = frozenset(node.name for node in (*chain, *inner, *behind))
        return Group(chain[0].name, kind, tuple(node.name for node in chain), names)

    def _activation(self, node: onnx.NodeProto, through: frozenset[str] = POINTWISE) -> list[onnx.NodeProto]:
        """The pointwise nodes behind a product that read nothing but it and constants: x · sigmoid(x)."""
        inside, found = {node.output[0]}, []
        for reader in self._forward(node.output[0]):
            if reader.op_type not in through:
                break
            if any(i and i not in inside and i not in self.graph.initializers for i in reader.input):
                break
            inside.update(reader.output)
            found.append(reader)
        return found

    def _forward(self, name: str) -> Iterator[onnx.NodeProto]:
        """Readers of a tensor, and readers of what they write, in graph order."""
        seen, front = set(), list(self.graph.consumers.get(name, []))
        while front:
            front.sort(key=lambda n: self.order[n.name])
            node = front.pop(0)
            if node.name in seen:
                continue
            seen.add(node.name)
            yield node
            front += [user for out in node.output for user in self.graph.consumers.get(out, [])]

    # ------------------------------------------------------------------ attention

    def _attention(self, softmax: onnx.NodeProto) -> Group | None:
        """query·key … Softmax … ·value around one Softmax; None where there is no such thing."""
        before = self._back_to_product(softmax.input[0])
        behind = self._on_to_product(softmax.output[0])
        if before is None or behind is None:
            return None
        (first, inner), (second, moved) = before, behind
        return self._group("attention", [first, second], [*inner, softmax, *moved])

    def _back_to_product(self, name: str) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
        """The product of two activations that `name` comes from by pointwise and moving nodes alone."""
        inner: list[onnx.NodeProto] = []
        while True:
            node = self.graph.producer.get(name)
            if node is None:
                return None
            if node.op_type in ("MatMul", "Gemm"):
                return (node, inner) if self._can_attend(node) else None
            if node.op_type not in POINTWISE | MOVING:
                return None
            inner.append(node)
            tensors = [i for i in node.input if i and self.graph.is_float(i) and self._leads_to_product(i)]
            if not tensors:
                return None
            name = tensors[0]

    def _can_attend(self, node: onnx.NodeProto) -> bool:
        """Whether it is a product of two activations that no group has yet."""
        mine = _is_product(self.graph, node) and node.name not in self.taken
        return mine and not is_weighted(self.graph, node)

    def _leads_to_product(self, name: str) -> bool:
        """Whether a product of two activations lies behind `name`: a mask comes from elsewhere."""
        node = self.graph.producer.get(name)
        for _ in range(12):
            if node is None:
                return False
            if node.op_type in ("MatMul", "Gemm"):
                return not is_weighted(self.graph, node)
            if node.op_type not in POINTWISE | MOVING:
                return False
            node = self.graph.producer.get(
                next((i for i in node.input if i not in self.graph.initializers), "")
            )
        return False

    def _on_to_product(self, name: str) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
        """The product of two activations that reads `name`, perhaps after it was moved."""
        moved: list[onnx.NodeProto] = []
        while True:
            readers = self.graph.consumers.get(name, [])
            if len(readers) != 1:
                return None
            node = readers[0]
            if node.op_type in ("MatMul", "Gemm"):
                return (node, moved) if self._can_attend(node) else None
            if node.op_type not in MOVING | {"Cast", "Identity"}:
                return None
            moved.append(node)
            name = node.output[0]

    def _qkv(self, attention: Group) -> Iterator[Group]:
        """The weighted products that the operands of one attention come from, by the tensor they read."""
        names = [
            source.name
            for name in attention.products
            for operand in operands(self.graph, self.nodes[name])
            for source in self._sources(operand, attention)
        ]
        self.fed_by.append({*attention.products, *names})
        reached: dict[str, list[onnx.NodeProto]] = {}
        for name in dict.fromkeys(names):
            if name not in self.taken:
                reached.setdefault(self.nodes[name].input[0], []).append(self.nodes[name])
        for found in reached.values():
            yield self._group("qkv", found)

    def block_starts(self) -> list[str]:
        """The first product of each transformer block; attentions with a source in common lie in one."""
        blocks: list[set[str]] = []
        for members in self.fed_by:
            touching = [block for block in blocks if block & members]
            blocks = [block for block in blocks if not block & members] + [members.union(*touching)]
        return [min(block, key=self.order.__getitem__) for block in blocks]

    def _sources(self, name: str, attention: Group) -> Iterator[onnx.NodeProto]:
        seen, front = set(), [name]
        while front:
            node = self.graph.producer.get(front.pop())
            if node is None or node.name in seen or node.name in attention.nodes:
                continue
            seen.add(node.name)
            if node.op_type in PRODUCTS:
                if node.op_type != "Conv" and is_weighted(self.graph, node):
                    yield node
            elif node.op_type in POINTWISE | MOVING | {"Concat", "LayerNormalization"}:
                front.extend(i for i in node.input if i and i not in self.graph.initializers)

    # ------------------------------------------------------------------ mlp

    def _mlp(self, first: onnx.NodeProto) -> Group | None:
        """`first`, an activation, and the one matrix that reads it."""
        if first.op_type == "Conv" or not is_weighted(self.graph, first):
            return None
        inner = self._activation(first, POINTWISE | MOVING)
        if all(node.op_type in MOVING | {"Add", "Identity", "Cast"} for node in inner):
            return None  # a bias alone is no activation
        inside = {first.name, *(node.name for node in inner)}
        leaving = [
            (name, user)
            for node in (first, *inner)
            for name in node.output
            for user in self.graph.consumers.get(name, [])
            if user.name not in inside
        ]
        if len(leaving) != 1 or any(name in self.graph.outputs for name, _ in leaving):
            return None
        second = leaving[0][1]
        fits = (
            second.op_type != "Conv" and _is_product(self.graph, second) and is_weighted(self.graph, second)
        )
        fits = fits and second.input[0] == leaving[0][0] and second.name not in self.taken
        return self._group("mlp", [first, second], inner) if fits else None
