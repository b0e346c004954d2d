"""What TensorRT would refuse or run slowly, found before a compiler is asked.

A successful TensorRT-RTX build is necessary and not sufficient: it takes graphs that full TensorRT refuses
(per-channel activations, wrong axes, mixed scale types). The rules are those of NvInfer.h (IQuantizeLayer,
IDequantizeLayer) and of strongly typed networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import onnx

from edge.errors import ModelError
from edge.graph import Graph, attribute
from edge.precision import numerics
from edge.precision.compensation import output_axis
from edge.precision.numerics import PRECISION
from edge.precision.plan import depth_axis
from edge.simplify import STANDARD_DOMAINS
from edge.targets import Target

PARSER_OPSET = 20
"""Last opset that TensorRT 10.3's ONNX parser documents; int4 weights, which it takes, need one more."""
FLOATS = ("fp32", "fp16", "bf16")
SAME_TYPE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Conv", "Gemm", "MatMul", "Concat", "Where"}
)
"""Operators whose float inputs have to be of one type in a strongly typed network."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A node that breaks a rule; an error is refused by TensorRT, a warning only costs speed."""

    level: Literal["error", "warning"]
    rule: str
    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.level} [{self.rule}] node '{self.node}': {self.text}"


class Context:
    """A typed graph as the rules see it."""

    def __init__(self, model: onnx.ModelProto, target: Target) -> None:
        self.graph, self.target = Graph(model), target
        self.types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
        self.types |= {
            v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)
        }
        self.types |= {t.name: t.data_type for t in model.graph.initializer}
        self.opset = next(o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS)

    def precision(self, name: str) -> str | None:
        """The tensor's type in our words, None for integers of shape arithmetic."""
        return PRECISION.get(self.types.get(name, 0))

    @cached_property
    def q_and_dq(self) -> list[onnx.NodeProto]:
        return [n for n in self.graph.nodes if n.op_type in ("QuantizeLinear", "DequantizeLinear")]


Rule = Callable[[Context], Iterator[Finding]]


def symmetric(c: Context) -> Iterator[Finding]:
    """Zero points are constant zero."""
    for node in c.q_and_dq:
        zero = c.graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
        if zero is None or np.any(zero.astype(np.float32)):
            yield Finding("error", "symmetric", node.name, "the zero point is not a constant zero")


def positive_scale(c: Context) -> Iterator[Finding]:
    """Scales are constant, positive and finite."""
    for node in c.q_and_dq:
        scale = c.graph.constant(node.input[1])
        values = None if scale is None else scale.astype(np.float32)
        if values is None or not (np.isfinite(values).all() and (values > 0).all()):
            yield Finding("error", "positive-scale", node.name, "the scale is not a positive constant")


def per_channel(c: Context) -> Iterator[Finding]:
    """A scale for each channel is for constant weights, along their output channels."""
    for node in c.q_and_dq:
        scale = c.graph.constant(node.input[1])
        if scale is None or scale.size == 1:
            continue
        if node.input[0] not in c.graph.initializers:
            yield Finding(
                "error", "per-channel", node.name, "activations take one scale for the whole tensor"
            )
            continue
        axis, rank = attribute(node, "axis", 1), len(c.graph.initializers[node.input[0]].dims)
        for user in _users(c, node.output[0]):
            blocked = attribute(node, "block_size", 0) > 0
            wanted = depth_axis(user, rank) if blocked else output_axis(user, rank)
            if user.op_type in ("Conv", "Gemm", "MatMul") and axis % rank != wanted:
                text = f"axis {axis}, but '{user.name}' needs {wanted}"
                yield Finding("error", "per-channel", node.name, text)


def blocks(c: Context) -> Iterator[Finding]:
    """Scales a block are for int4 weights of matrix products (TensorRT: weight-only quantization)."""
    for node in c.q_and_dq:
        if not attribute(node, "block_size", 0):
            continue
        kind = c.precision(node.input[0])
        users = {user.op_type for user in _users(c, node.output[0])}
        if kind != "int4" or node.input[0] not in c.graph.initializers or not users <= {"Gemm", "MatMul"}:
            text = f"a scale a block for {kind} read by {', '.join(sorted(users)) or 'nothing'}"
            yield Finding("error", "blocks", node.name, text)


def _users(c: Context, name: str) -> Iterator[onnx.NodeProto]:
    """Readers of a tensor, looking through casts."""
    for user in c.graph.consumers.get(name, []):
        if user.op_type == "Cast":
            yield from _users(c, user.output[0])
        else:
            yield user


def scale_type(c: Context) -> Iterator[Finding]:
    """A 16-bit scale has the carrier's type."""
    for node in c.q_and_dq:
        kind = c.precision(node.input[1])
        if kind not in ("fp32", c.target.carrier):
            yield Finding("error", "scale-type", node.name, f"a {kind} scale in a {c.target.carrier} graph")


def exact_scales(c: Context) -> Iterator[Finding]:
    """Where the target asks for it, every scale is a value that bf16 holds."""
    if not c.target.bf16_exact_scales:
        return
    for node in c.q_and_dq:
        scale = c.graph.constant(node.input[1])
        if scale is not None and not np.array_equal(numerics.round_bf16(scale), scale.astype(np.float32)):
            yield Finding("error", "exact-scales", node.name, "the scale is not a bf16 value")


def supported_types(c: Context) -> Iterator[Finding]:
    """No tensor of a type the device has not."""
    allowed: set[str] = {"fp32", c.target.carrier, *c.target.quantized}
    allowed |= {"int8"}  # weights in int8 are for every device
    allowed |= {"int4"} if c.target.int4_weights else set()
    for node in c.graph.nodes:
        for does, names in (("reads", node.input), ("writes", node.output)):
            for kind in sorted({k for k in map(c.precision, names) if k is not None} - allowed):
                text = f"{does} {kind}, which {c.target.name} has not"
                yield Finding("error", "supported-types", node.name, text)


def one_type(c: Context) -> Iterator[Finding]:
    """Strongly typed networks do not mix types in one operator."""
    for node in c.graph.nodes:
        if node.op_type in SAME_TYPE:
            kinds = {k for k in (c.precision(i) for i in node.input if i) if k in FLOATS}
            if len(kinds) > 1:
                yield Finding(
                    "error", "one-type", node.name, f"{node.op_type} of {' and '.join(sorted(kinds))}"
                )


def one_quantized_type(c: Context) -> Iterator[Finding]:
    """A product multiplies int8 with int8 and fp8 with fp8."""
    for node in c.graph.nodes:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            writers = [_behind_casts(c, name) for name in node.input[:2]]
            kinds = {c.precision(w.input[0]) for w in writers if w and w.op_type == "DequantizeLinear"}
            if {"int8", "fp8"} <= kinds:
                yield Finding("error", "one-quantized-type", node.name, "a product of int8 and fp8")


def _behind_casts(c: Context, name: str) -> onnx.NodeProto | None:
    """What writes a tensor, looking through casts."""
    writer = c.graph.producer.get(name)
    while writer is not None and writer.op_type == "Cast":
        writer = c.graph.producer.get(writer.input[0])
    return writer


def finite_constants(c: Context) -> Iterator[Finding]:
    """No constant is NaN; that one is infinite, or was cut off at its type's largest value, is said."""
    for name, tensor in c.graph.initializers.items():
        value, kind = c.graph.constant(name), PRECISION.get(tensor.data_type)
        if kind not in FLOATS or value is None:
            continue
        largest = numerics.LARGEST.get(kind, np.inf)
        magnitude = np.abs(value.astype(np.float32))
        readers = ", ".join(node.name for node in c.graph.consumers.get(name, []))
        if np.isnan(magnitude).any():
            yield Finding("error", "finite-constants", readers, f"its constant '{name}' holds NaN")
        elif np.isinf(magnitude).any():
            yield Finding("warning", "finite-constants", readers, f"its constant '{name}' is infinite")
        elif (magnitude >= largest).any():
            text = f"its constant '{name}' is cut off at {kind}'s largest value, {largest:.4g}"
            yield Finding("warning", "finite-constants", readers, text)


def no_quantized_bias(c: Context) -> Iterator[Finding]:
    """TensorRT takes the bias in the carrier."""
    for node in c.graph.nodes:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            writer = c.graph.producer.get(node.input[2])
            if writer is not None and writer.op_type == "DequantizeLinear":
                yield Finding("error", "no-quantized-bias", node.name, "its bias has a Q/DQ pair")


def one_residual_branch(c: Context) -> Iterator[Finding]:
    """The branch that a convolution is fused into stays without Q/DQ."""
    for node in c.graph.nodes:
        if node.op_type == "Add":
            writers = [c.graph.producer.get(i) for i in node.input]
            if all(w is not None and w.op_type == "DequantizeLinear" for w in writers):
                yield Finding("warning", "one-residual-branch", node.name, "Q/DQ on both branches: no fusion")


def parser_opset(c: Context) -> Iterator[Finding]:
    """A graph for the oldest TensorRT of the target stays within what its parser documents."""
    int4 = any(PRECISION.get(t.data_type) == "int4" for t in c.graph.initializers.values())
    last = PARSER_OPSET + int4
    if c.target.min_tensorrt and c.target.min_tensorrt < (10, 8) and c.opset > last:
        version = ".".join(map(str, c.target.min_tensorrt))
        text = f"opset {c.opset}; TensorRT {version} documents ≤ {last}"
        yield Finding("warning", "parser-opset", c.graph.nodes[0].name, text)


RULES: tuple[Rule, ...] = (
    symmetric,
    positive_scale,
    per_channel,
    blocks,
    scale_type,
    exact_scales,
    supported_types,
    one_type,
    one_quantized_type,
    finite_constants,
    no_quantized_bias,
    one_residual_branch,
    parser_opset,
)


def lint(model: onnx.ModelProto, target: Target, given: Collection[str] = ()) -> list[Finding]:
    """Everything a GPU's rules find, errors first. Processors have other rules: ONNX Runtime checks them.

    Args:
        given: names of Q/DQ nodes that the graph came with: any scale is right for them.
    """
    if not target.is_gpu:
        return []
    context = Context(model, target)
    found = [finding for rule in RULES for finding in rule(context)]
    found = [f for f in found if f.rule != "exact-scales" or f.node not in given]
    return sorted(found, key=lambda f: f.level)


def refuse(findings: list[Finding], target: Target) -> None:
    """Raise for errors.

    Raises:
        ModelError: names the nodes and rules.
    """
    errors = [str(f) for f in findings if f.level == "error"]
    if errors:
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise ModelError(
            f"the graph for {target.name} breaks {len(errors)} rules of TensorRT",
            "; ".join(errors[:5]) + more,
            "check the weights and ranges of the nodes it names",
        )
