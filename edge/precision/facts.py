"""What rules can ask about a node: tags (yes or no) and numbers. docs/precision.md lists them all.

The tables `TAGS` and `NUMBERS` are the vocabulary of policies; a rule that uses another word is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from edge.graph import WEIGHTED, Graph, attribute, walk_back
from edge.precision.groups import Group, is_weighted

TAGS: Mapping[str, str] = {
    "product": "a convolution or matrix product: what can be quantized",
    "weighted": "a product with constant weights",
    "activation-product": "a product of two activations, as in attention",
    "first": "a product that is reached from an input without another product",
    "last": "a product from which an output is reached without another product",
    "picture": "reads an input of the graph directly",
    "depthwise": "a convolution with one input channel a group",
    "grouped": "a convolution with more than one group, depthwise ones among them",
    "pointwise": "a convolution with a kernel of 1",
    "square": "a convolution whose kernel has equal sides",
    "swish": "its output x is used as x · sigmoid(x)",
    "vector": "a matrix product with a single row: memory-bound in any type",
    "qkv": "makes query, key or value of an attention",
    "attention": "computes an attention: query·key, its Softmax, ·value and what lies between",
    "mlp": "one of two matrices with an activation between them, or that activation",
    "projection": "the first product behind an attention",
    "norm": "a normalization",
    "softmax": "a Softmax",
    "activation": "Relu, Sigmoid, Gelu and the like",
    "residual": "an Add of two activations",
    "skip": "an Add that a convolution is fused into",
}
"""Words for `tag` and `not_tag`."""

NUMBERS: Mapping[str, str] = {
    "layer": "place among the products, in graph order from 0",
    "block": "transformer block, counted by attentions from 0",
    "in_channels": "input channels of a convolution",
    "out_channels": "output channels of a convolution",
    "narrow": "the smaller of the two",
    "wide": "the larger of the two",
    "kernel": "elements of a convolution's kernel in one channel",
    "kernel_side": "its shortest side",
    "groups": "groups of a convolution",
    "depth": "length of the dot products of a matrix product (K)",
    "columns": "columns of a matrix product (N)",
    "rows": "rows of a matrix product (M), batch included",
    "head": "channels of one attention head",
    "sequence": "tokens that an attention looks at",
    "mac_share": "share of all multiply–accumulates, 0–1",
}
"""Words for `where`."""

NORMS = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
     "LpNormalization", "LRN", "MeanVarianceNormalization", "RMSNormalization",
     "SimplifiedLayerNormalization"}
)  # fmt: skip
ACTIVATIONS = frozenset(
    {"Celu", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu",
     "Selu", "Sigmoid", "Softplus", "Tanh"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one node.

    Attributes:
        tags: words of `TAGS`.
        numbers: by words of `NUMBERS`; those that do not apply are absent.
    """

    tags: frozenset[str]
    numbers: Mapping[str, float]


def describe(graph: Graph, groups: tuple[Group, ...]) -> dict[str, Facts]:
    """Facts of every node, by name."""
    group_of = {name: group for group in groups for name in group.nodes}
    ends = _Ends(graph, groups)
    total = sum(graph.macs(node) for node in graph.nodes)
    found: dict[str, Facts] = {}
    layer = 0
    for node in graph.nodes:
        group = group_of.get(node.name)
        is_product = group is not None and node.name in group.products and group.kind != "skip"
        tags = _tags(graph, node) | ends.tags(node)
        if group is not None:
            tags |= {group.kind} & {"qkv", "attention", "mlp", "skip"}
        numbers: dict[str, float] = {}
        if group is not None and group.block is not None:
            numbers["block"] = group.block
        if is_product and group is not None:
            tags |= _product_tags(graph, node)
            numbers |= _product_numbers(graph, node) | _attention_numbers(graph, node, group)
            numbers |= {"layer": layer, "mac_share": graph.macs(node) / total if total else 0.0}
            tags |= {"vector"} if numbers.get("rows") == 1 else set()
            layer += 1
        found[node.name] = Facts(frozenset(tags), numbers)
    return found


class _Ends:
    """Which products stand at the graph's ends, and which follow an attention."""

    def __init__(self, graph: Graph, groups: tuple[Group, ...]) -> None:
        self.last = last_layers(graph)
        self.first: set[str] = set()
        self.projections: set[str] = set()
        products = {name for group in groups for name in group.products if group.kind != "skip"}
        attended = {name for group in groups if group.kind == "attention" for name in group.products[-1:]}
        reached: dict[str, str] = dict.fromkeys(graph.inputs, "input")
        for node in graph.nodes:
            origins = {reached[i] for i in node.input if i in reached}
            if node.name in products:
                self.first |= {node.name} if "input" in origins else set()
                self.projections |= {node.name} if "attention" in origins else set()
                origins = {"attention"} if node.name in attended else set()
            for name in node.output if origins else ():
                reached[name] = "input" if "input" in origins else "attention"

    def tags(self, node: onnx.NodeProto) -> set[str]:
        places = {"first": self.first, "last": self.last, "projection": self.projections}
        return {tag for tag, names in places.items() if node.name in names}


def _tags(graph: Graph, node: onnx.NodeProto) -> set[str]:
    tags = set()
    if node.op_type in NORMS:
        tags.add("norm")
    if node.op_type == "Softmax":
        tags.add("softmax")
    if node.op_type in ACTIVATIONS:
        tags.add("activation")
    if node.op_type == "Add" and all(graph.is_float(i) and i not in graph.initializers for i in node.input):
        tags.add("residual")
    if any(name in graph.inputs for name in node.input):
        tags.add("picture")
    return tags


def _product_tags(graph: Graph, node: onnx.NodeProto) -> set[str]:
    tags = {"product", "weighted" if is_weighted(graph, node) else "activation-product"}
    if feeds_swish(graph, node):
        tags.add("swish")
    if node.op_type != "Conv":
        return tags
    shape, groups = graph.shape(node.input[1]) or (), int(attribute(node, "group", 1))
    kernel = shape[2:]
    tags |= {"grouped"} if groups > 1 else set()
    tags |= {"depthwise"} if groups > 1 and shape[1:2] == (1,) else set()
    tags |= {"pointwise"} if prod(kernel) == 1 else set()
    return tags | ({"square"} if len(set(kernel)) <= 1 else set())


def _product_numbers(graph: Graph, node: onnx.NodeProto) -> dict[str, float]:
    right = graph.shape(node.input[1])
    if node.op_type == "Conv":
        if right is None or len(right) < 3:
            return {}
        groups = int(attribute(node, "group", 1))
        into, out = right[1] * groups, right[0]
        return {
            "in_channels": into,
            "out_channels": out,
            "narrow": min(into, out),
            "wide": max(into, out),
            "kernel": prod(right[2:]),
            "kernel_side": min(right[2:]),
            "groups": groups,
        }
    numbers: dict[str, float] = {}
    out_shape = graph.shape(node.output[0])
    if out_shape:
        numbers["rows"] = prod(out_shape[:-1])
    if right is not None and len(right) >= 2:
        transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
        numbers |= {"depth": right[-1 if transposed else -2], "columns": right[-2 if transposed else -1]}
    elif right is not None:
        numbers |= {"depth": right[0], "columns": 1}
    return numbers


def _attention_numbers(graph: Graph, node: onnx.NodeProto, group: Group) -> dict[str, float]:
    """Head size and sequence length, of both products of an attention."""
    if group.kind != "attention":
        return {}
    numbers = _product_numbers(graph, node)
    first = node.name == group.products[0]  # query·key: K is the head, N the sequence; ·value: the reverse
    head, sequence = ("depth", "columns") if first else ("columns", "depth")
    return {name: numbers[key] for name, key in (("head", head), ("sequence", sequence)) if key in numbers}


def feeds_swish(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the node's output x is used as x · sigmoid(x)."""
    out = node.output[0]
    users = graph.consumers.get(out, [])
    gates = {u.output[0] for u in users if u.op_type in ("Sigmoid", "HardSigmoid")}
    return any(u.op_type == "Mul" and out in u.input and gates & set(u.input) for u in users)


def last_layers(graph: Graph) -> frozenset[str]:
    """The weighted nodes from which a graph output is reached without another weighted node."""
    return frozenset(
        node.name for output in graph.outputs for node in walk_back(graph, output) if node.op_type in WEIGHTED
    )
