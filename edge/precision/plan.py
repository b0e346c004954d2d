"""Which node computes in which precision, and why.

A plan is made by rules: each looks at one node and either lets a type pass or says why not. The first rule
that objects gives the node's reason. Rules ask the target's row for capabilities and never for its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from edge.graph import WEIGHTED, Graph, attribute, walk_back
from edge.precision.calibrate import Range
from edge.precision.numerics import QuantType
from edge.targets import Activation, Target

Variant = Literal["fast", "exact"]
VARIANTS: tuple[Variant, ...] = ("fast", "exact")

CHEAP_HEAD = 0.05
"""A last layer below this share of all multiply–accumulates stays in the carrier: it would win nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node's part of a plan."""

    node: str
    op: str
    precision: str
    reason: str
    macs: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Precision of every node that computes in floating point, in graph order.

    Attributes:
        kind: type of the quantized nodes; None if nothing is quantized.
        activations: int8 activations, symmetric (s8) or asymmetric (u8).
    """

    carrier: str
    kind: QuantType | None
    activations: Activation
    steps: tuple[Step, ...]

    @property
    def quantized(self) -> frozenset[str]:
        """Names of the quantized nodes."""
        return frozenset(s.node for s in self.steps if s.precision == self.kind)

    @property
    def widened(self) -> frozenset[str]:
        """Names of the nodes that run in fp32 amid a narrower carrier."""
        return frozenset(s.node for s in self.steps if s.precision == "fp32" != self.carrier)

    @property
    def quantized_mac_share(self) -> float:
        """Share of all multiply–accumulates that run quantized, 0–1."""
        total = sum(s.macs for s in self.steps)
        return sum(s.macs for s in self.steps if s.precision == self.kind) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Site:
    """A node where a rule is asked about a type."""

    node: onnx.NodeProto
    kind: QuantType
    target: Target
    graph: Graph
    ranges: Mapping[str, Range]
    total_macs: int
    last_layers: frozenset[str]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.graph.shape(self.node.input[1]) or ()

    @property
    def groups(self) -> int:
        return int(attribute(self.node, "group", 1))

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.groups == self.weight_shape[0]

    @property
    def in_channels(self) -> int:
        return self.weight_shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        return self.weight_shape[0]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight_shape[2:]

    @property
    def reads_picture(self) -> bool:
        return self.node.input[0] in self.graph.inputs

    @property
    def is_conv(self) -> bool:
        return self.node.op_type == "Conv"


Rule = Callable[[Site], str | None]
"""Why this type is refused at this node, or None."""


def only_matrix_products(site: Site) -> str | None:
    """Everything else runs at memory speed, and Softmax and normalisations lose accuracy."""
    if site.node.op_type in ("Conv", "Gemm", "MatMul"):
        return None
    return f"{site.node.op_type} stays in the carrier: only Conv, Gemm and MatMul are quantized"


def constant_weights(site: Site) -> str | None:
    """TensorRT takes per-channel scales on constant weights only (NvInfer.h, IQuantizeLayer)."""
    if site.node.input[1] in site.graph.initializers:
        return None
    return "product of two activations: there are no constant weights to quantize"


def known_range(site: Site) -> str | None:
    """A scale has to be positive and finite."""
    seen = site.ranges.get(site.node.input[0])
    if seen is None:
        return "no range was measured for its input"
    if seen.dead:
        return "its input was zero for every calibration sample: no scale can be given"
    weights = site.graph.constant(site.node.input[1])
    if weights is None or not np.isfinite(weights).all():
        return "its weights hold NaN or infinity"
    return None


def fp8_channels(site: Site) -> str | None:
    """fp8 convolutions need more than 16 channels on both sides (TensorRT: Q/DQ best practices)."""
    if site.kind == "fp8" and site.is_conv and min(site.in_channels, site.out_channels) <= 16:
        return f"fp8 convolution needs more than 16 channels, has {site.in_channels} → {site.out_channels}"
    return None


def fp8_kernel(site: Site) -> str | None:
    """fp8 convolutions take kernels of up to 32 elements."""
    if site.kind == "fp8" and site.is_conv and int(np.prod(site.kernel)) > 32:
        return f"fp8 convolution takes kernels up to 32 elements, has {'×'.join(map(str, site.kernel))}"
    return None


def fp8_groups(site: Site) -> str | None:
    """Without an optimized kernel a grouped fp8 convolution is slower than the carrier."""
    if site.kind == "fp8" and site.is_conv and site.groups > 1 and not site.target.depthwise_fp8:
        return f"no optimized fp8 kernel for grouped convolution (group={site.groups})"
    return None


def int8_channels(site: Site) -> str | None:
    """int8 convolutions want 16 channels on a side; a first layer may read fewer, writing a multiple of 8."""
    if site.kind != "int8" or not site.is_conv or site.groups > 1:
        return None
    wide, narrow = max(site.in_channels, site.out_channels), min(site.in_channels, site.out_channels)
    if narrow >= 16 or (wide % 8 == 0 and len(set(site.kernel)) == 1 and (site.reads_picture or wide >= 16)):
        return None
    return f"int8 convolution needs 16 channels on a side, has {site.in_channels} → {site.out_channels}"


def int8_groups(site: Site) -> str | None:
    """Grouped int8 convolutions need output channels in multiples of 8 and a kernel of 3 or more."""
    if site.kind != "int8" or not site.is_conv or site.groups == 1:
        return None
    if site.out_channels % 8 or min(site.kernel, default=0) < 3:
        return "grouped int8 convolution needs output channels in multiples of 8 and kernels of 3 or more"
    return None


def int8_depthwise_swish(site: Site) -> str | None:
    """Turing and Orin have no int8 kernel for depthwise convolution followed by Swish."""
    if site.kind == "int8" and site.depthwise and not site.target.depthwise_swish_int8 and feeds_swish(site):
        return "no int8 kernel for depthwise convolution followed by Swish on this device"
    return None


def feeds_swish(site: Site) -> bool:
    """Whether the node's output x is used as x · sigmoid(x)."""
    out = site.node.output[0]
    users = site.graph.consumers.get(out, [])
    gates = {u.output[0] for u in users if u.op_type in ("Sigmoid", "HardSigmoid")}
    return any(u.op_type == "Mul" and out in u.input and gates & set(u.input) for u in users)


def depthwise_accuracy(site: Site) -> str | None:
    """One activation scale for channels of very different range: YOLOX-Nano falls from 36 to 9 AP by it."""
    if site.is_conv and site.depthwise:
        return "depthwise: one activation scale cannot serve channels of very different range"
    return None


def matrix_size(site: Site) -> str | None:
    """Products with fewer than 16 rows of weights, or with a vector, run at memory speed in any type."""
    if site.is_conv:
        return None
    if len(site.weight_shape) < 2 or min(site.weight_shape[-2:]) < 16:
        return f"matrix of {'×'.join(map(str, site.weight_shape))} is too small to gain"
    rows = int(np.prod((site.graph.shape(site.node.output[0]) or (1, 1))[:-1]))
    return "matrix–vector product: memory-bound in any type" if rows == 1 else None


def cheap_last_layer(site: Site) -> str | None:
    """The head writes the numbers the user reads; where it costs little it keeps its precision."""
    share = site.graph.macs(site.node) / site.total_macs if site.total_macs else 0.0
    if site.node.name in site.last_layers and share < CHEAP_HEAD:
        return f"last layer: writes an output and costs only {share:.1%} of the work"
    return None


RULES: tuple[Rule, ...] = (
    only_matrix_products,
    constant_weights,
    known_range,
    fp8_channels,
    fp8_kernel,
    fp8_groups,
    int8_channels,
    int8_groups,
    int8_depthwise_swish,
    depthwise_accuracy,
    matrix_size,
    cheap_last_layer,
)


def make(
    graph: Graph,
    target: Target,
    variant: Variant,
    ranges: Mapping[str, Range],
    activations: Activation = "s8",
    kind: QuantType | None = None,
) -> Plan:
    """The plan of a variant for a target: the same inputs give the same plan.

    Args:
        kind: what `fast` is quantized to; None takes the type that the target prefers.
    """
    kind = (kind or target.fast_precision) if variant == "fast" else None
    total = sum(graph.macs(node) for node in graph.nodes)
    last = last_layers(graph)
    wide = beyond_fp16(graph) if target.carrier == "fp16" else frozenset()
    steps = []
    for node in graph.nodes:
        if not computes_in_float(graph, node):
            continue
        precision: str = target.carrier
        reason = f"variant '{variant}': everything in the carrier"
        if node.name in wide:
            precision, reason = "fp32", "squares and sums may leave fp16's range of ±65504"
        elif kind:
            site = Site(node, kind, target, graph, ranges, total, last)
            objection = next((why for rule in RULES if (why := rule(site))), None)
            precision = target.carrier if objection else kind
            reason = objection or f"{kind}: no rule objects"
        steps.append(Step(node.name, node.op_type, precision, reason, graph.macs(node)))
    return Plan(target.carrier, kind, activations, tuple(steps))


def computes_in_float(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether any output is floating point: shape arithmetic has no precision to choose."""
    return any(graph.is_float(name) for name in node.output if name)


SQUARES_AND_SUMS = ("Pow", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp")
CARRIES_ON = ("ReduceMean", "Add", "Mul", "Div", "Sqrt", "Reciprocal", "Clip", "Max")


def beyond_fp16(graph: Graph) -> frozenset[str]:
    """Nodes whose values may be too large for fp16: a normalisation that was exported in parts, for one.

    The square or sum, and what works on it alone until another tensor joins: x·x → mean → + ε → √.
    """
    found: set[str] = set()
    for node in graph.nodes:
        square = node.op_type == "Mul" and len(set(node.input)) == 1
        tensors = [i for i in node.input if i and graph.is_float(i) and i not in graph.initializers]
        writers = [graph.producer.get(i) for i in tensors]
        continues = node.op_type in CARRIES_ON and bool(writers)
        continues = continues and all(w is not None and w.name in found for w in writers)
        if square or node.op_type in SQUARES_AND_SUMS or continues:
            found.add(node.name)
    return frozenset(found)


def last_layers(graph: Graph) -> frozenset[str]:
    """The weighted nodes from which a graph output is reached without another weighted node."""
    return frozenset(
        node.name for output in graph.outputs for node in walk_back(graph, output) if node.op_type in WEIGHTED
    )
