"""Which node computes in which precision, and why.

What a node may have comes from rules (`rules.py`): the hardware's and a policy's. Where they leave several
precisions, the choice of its group decides: the search's, or else the best that the device prefers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import onnx

from edge.graph import Graph, attribute, captured
from edge.precision import given
from edge.precision.facts import describe
from edge.precision.groups import (
    PRODUCTS,
    Group,
    fused_into,
    groups,
    has_finite_constants,
    is_weighted,
    operands,
    skip_of,
)
from edge.precision.policy import NOTHING, ORDER, QUANTIZED, WEIGHT_ONLY, Policy
from edge.precision.ranges import Range
from edge.precision.rules import Options, Rulebook
from edge.simplify import STANDARD_DOMAINS
from edge.targets import Activation, Target

Variant = Literal["fast", "exact", "w8a16", "w4a16"]
VARIANTS: Mapping[Variant, str] = {
    "fast": "quantized to the device's own types, as far as the gate allows",
    "exact": "everything in the carrier",
    "w8a16": "int8 weights, activations in the carrier: a file of half the size, next to no loss",
    "w4a16": "int4 weights of matrix products, int8 weights of convolutions, activations in the carrier",
}

BLOCKS = (128, 64, 32)
"""Elements of a row of int4 weights that share a scale; the first that divides the row is taken."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the search chose for a group, and why."""

    precision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """One node's part of a plan."""

    node: str
    op: str
    precision: str
    reason: str
    macs: int
    group: str = ""
    given: bool = False
    """Whether its Q/DQ came with the graph."""


@dataclass(frozen=True)
class Plan:
    """Precision of every node that computes in floating point, in graph order.

    Attributes:
        activations: int8 activations, symmetric (s8) or asymmetric (u8).
    """

    carrier: str
    activations: Activation
    steps: tuple[Step, ...]

    @cached_property
    def precisions(self) -> Mapping[str, str]:
        """By node."""
        return {s.node: s.precision for s in self.steps}

    @cached_property
    def quantized(self) -> frozenset[str]:
        """Names of the products that are to multiply int8 or fp8."""
        planned = (s for s in self.steps if not s.given)
        return frozenset(s.node for s in planned if s.precision in QUANTIZED and s.op in PRODUCTS)

    @cached_property
    def skips(self) -> frozenset[str]:
        """Names of the Adds that read their skip connection in int8."""
        return frozenset(s.node for s in self.steps if s.precision in QUANTIZED and s.op == "Add")

    @cached_property
    def weight_only(self) -> frozenset[str]:
        """Names of the nodes whose weights alone are to be quantized."""
        return frozenset(s.node for s in self.steps if s.precision in WEIGHT_ONLY and not s.given)

    @property
    def given(self) -> bool:
        """Whether products multiply int8 or fp8 because the graph came so."""
        return any(s.given and s.precision in QUANTIZED for s in self.steps)

    @cached_property
    def widened(self) -> frozenset[str]:
        """Names of the nodes that run in fp32 amid a narrower carrier."""
        return frozenset(s.node for s in self.steps if s.precision == "fp32" != self.carrier)

    @cached_property
    def mac_shares(self) -> dict[str, float]:
        """Share of all multiply–accumulates by precision, largest first; 0–1."""
        total = sum(s.macs for s in self.steps)
        work = {p: sum(s.macs for s in self.steps if s.precision == p) for p in ORDER}
        found = {p: macs / total for p, macs in work.items() if macs}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def quantized_mac_share(self) -> float:
        """Share of all multiply–accumulates that run quantized, 0–1."""
        return sum(self.mac_shares.get(p, 0.0) for p in QUANTIZED)

    @property
    def label(self) -> str:
        """Its types in a word, the most used one first: "fp8+int8", "w8a16", "bf16"."""
        used = [p for p in self.mac_shares if p in QUANTIZED + WEIGHT_ONLY]
        rest = sorted({s.precision for s in self.steps if s.precision in QUANTIZED + WEIGHT_ONLY} - {*used})
        return "+".join([*used, *rest]) or self.carrier


class Planner:
    """Plans of one graph for one target and variant: the rules are applied once, choices many times.

    Args:
        ranges: of the tensors that may be quantized; without one a tensor cannot be.
        policy: a user's rules.

    Raises:
        ConfigError: the policy contradicts the graph or the hardware.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        variant: Variant,
        ranges: Mapping[str, Range],
        activations: Activation = "s8",
        policy: Policy = NOTHING,
    ) -> None:
        self.graph, self.target, self.variant, self.activations = graph, target, variant, activations
        self.groups = groups(graph)
        self.facts = describe(graph, self.groups)
        self.group_of = {name: group for group in self.groups for name in group.products}
        self._ranges = ranges
        self._book = Rulebook(graph, self.facts, target, _concerning(policy, variant))
        self._wide = beyond_fp16(graph) if target.carrier == "fp16" else frozenset()
        self._float_nodes = [n for n in graph.nodes if computes_in_float(graph, n)]
        self.options: dict[str, Options] = {
            n.name: self._options(n) for n in self._float_nodes if n.name in self.group_of
        }

    def plan(self, choices: Mapping[str, Choice] | None = None) -> Plan:
        """The plan with these choices, by group; a group without one takes what the device prefers."""
        steps = []
        chosen: dict[str, str] = {}
        for node in self._float_nodes:
            if node.name in self.options:
                precision, reason = self._product(node.name, choices or {})
                if node.op_type == "Add" and precision in QUANTIZED and not self._fuses(node, chosen):
                    precision, reason = self.target.carrier, "what it could be fused with is not in int8"
                chosen[node.name] = precision
            else:
                precision, reason = self._other(node)
            group = self.group_of.get(node.name)
            macs, label = self.graph.macs(node), group.name if group else ""
            came_so = reason == given.WHY
            steps.append(Step(node.name, node.op_type, precision, reason, macs, label, came_so))
        return Plan(self.target.carrier, self.activations, tuple(steps))

    def _fuses(self, node: onnx.NodeProto, given: Mapping[str, str]) -> bool:
        """Whether the convolution in front of an Add is in int8, and so is somebody who reads the skip."""
        readers = self.graph.consumers.get(skip_of(self.graph, node), [])
        shared = any(given.get(reader.name) == "int8" for reader in readers if reader.name != node.name)
        return given.get(fused_into(self.graph, node)) == "int8" and shared

    def choosable(self, group: Group) -> tuple[str, ...]:
        """Precisions that a choice for this group can bring about, the device's preferred one first."""
        return tuple(dict.fromkeys(p for name in group.products for p in self.options[name].precisions))

    def given(self, group: Group, precision: str) -> dict[str, str]:
        """What each product of the group gets when this precision is chosen for it."""
        return {name: self._nearest(self.options[name], precision) for name in group.products}

    def _nearest(self, options: Options, wanted: str) -> str:
        if wanted in options.precisions:
            return wanted
        return self.target.carrier if self.target.carrier in options.precisions else options.precisions[0]

    # ------------------------------------------------------------------ one node

    def _options(self, node: onnx.NodeProto) -> Options:
        carrier = self.target.carrier
        if node.name in self._wide:
            return Options(("fp32",), {}, "squares and sums may leave fp16's range of ±65504")
        if node.op_type == "Add":
            return self._skip_options(node)
        wanted: tuple[str, ...] = (carrier,)
        if self.variant == "fast":
            wanted = (*self.target.quantized, carrier)
        elif self.variant == "w8a16":
            wanted = ("w8a16", carrier)
        elif self.variant == "w4a16":
            wanted = ("w4a16", "w8a16", carrier)
        return self._book.product(node.name, wanted, self._impossible(node))

    def _skip_options(self, node: onnx.NodeProto) -> Options:
        """What an Add may have: by itself it stays in the carrier, a search may find int8 worth it."""
        carrier = self.target.carrier
        wanted: tuple[str, ...] = (carrier,)
        if self.variant == "fast" and self.target.is_gpu and "int8" in self.target.quantized:
            wanted = (carrier, "int8")
        why = self._range_objection(node)
        return self._book.product(node.name, wanted, {"int8": why} if why else {})

    def _impossible(self, node: onnx.NodeProto) -> dict[str, str]:
        """Precisions that the data forbid, with the reason."""
        weighted = is_weighted(self.graph, node)
        why = self._range_objection(node)
        reasons = dict.fromkeys(QUANTIZED, why) if why else {}
        if not weighted:
            if len(operands(self.graph, node)) < 2:
                reasons = dict.fromkeys(QUANTIZED, "a constant on the left: no scale of its own for each row")
            return dict.fromkeys(WEIGHT_ONLY, "product of two activations: it has no weights") | reasons
        if not has_finite_constants(self.graph, node):
            return dict.fromkeys(QUANTIZED + WEIGHT_ONLY, "its weights or bias hold NaN or infinity")
        weights = tuple(self.graph.initializers[node.input[1]].dims)
        if len(weights) < 2:
            reasons["w8a16"] = "a single column of weights is too small to gain"
        if node.op_type != "Conv" and block_size(node, weights) == 0:
            depth = weights[depth_axis(node, len(weights))]
            reasons["w4a16"] = f"its rows of {depth} weights do not divide into blocks of {BLOCKS[-1]}"
        return reasons

    def _range_objection(self, node: onnx.NodeProto) -> str:
        """A scale has to be positive and finite."""
        for name in operands(self.graph, node):
            seen = self._ranges.get(name)
            if seen is None:
                return "no range was measured for its input"
            if seen.dead:
                return "its input was zero, or next to it, in every calibration sample: no scale fits"
        return ""

    def _product(self, node: str, choices: Mapping[str, Choice]) -> tuple[str, str]:
        options, choice = self.options[node], choices.get(self.group_of[node].name)
        precision = options.precisions[0] if choice is None else self._nearest(options, choice.precision)
        if choice is not None and precision == choice.precision and len(options.precisions) > 1:
            return precision, choice.reason
        if options.decided:
            return precision, options.decided
        objection = next((why for p, why in options.reasons.items() if p in self._types), "")
        if self.variant == "exact":
            return precision, "variant 'exact': everything in the carrier"
        if self.group_of[node].kind == "skip":
            return precision, "Add stays in the carrier: only Conv, Gemm and MatMul are quantized"
        if precision in QUANTIZED + WEIGHT_ONLY:
            return precision, f"{precision}: {objection}" if objection else f"{precision}: no rule objects"
        return precision, objection or f"variant '{self.variant}': nothing coarser is possible"

    @property
    def _types(self) -> tuple[str, ...]:
        """What the variant would have quantized to."""
        return {"fast": self.target.quantized, "w8a16": ("w8a16",), "w4a16": ("w4a16", "w8a16")}.get(
            self.variant, ()
        )

    def _other(self, node: onnx.NodeProto) -> tuple[str, str]:
        """A node that is no product."""
        if node.name in self._wide:
            return "fp32", "squares and sums may leave fp16's range of ±65504"
        if why := self._book.widened(node.name):
            return "fp32", why
        carrier = self.target.carrier
        if node.op_type in PRODUCTS and given.is_given(self.graph, node):
            return given.precision(self.graph, node, carrier), given.WHY
        if node.op_type in given.QUANTIZERS:
            return "fp32", f"{given.WHY}, kept as it is"
        if any(True for _ in captured(node)) or any(a.HasField("g") for a in node.attribute):
            return carrier, f"{node.op_type} is control flow: it stays as it is"
        if node.domain not in STANDARD_DOMAINS:
            return carrier, f"{node.domain}::{node.op_type} is not one of ONNX's own operators: it stays"
        if self.variant == "exact":
            return carrier, "variant 'exact': everything in the carrier"
        return carrier, f"{node.op_type} stays in the carrier: only Conv, Gemm and MatMul are quantized"


def make(
    graph: Graph,
    target: Target,
    variant: Variant,
    ranges: Mapping[str, Range],
    activations: Activation = "s8",
    policy: Policy = NOTHING,
) -> Plan:
    """The plan of a variant without a search: each node gets the type that the device prefers."""
    return Planner(graph, target, variant, ranges, activations, policy).plan()


def _concerning(policy: Policy, variant: Variant) -> Policy:
    """What of a policy concerns a variant. One that quantizes nothing: the rules that ask for fp32. One that
    quantizes weights alone, which is finer than int8 and fp8: all but the rules that ask for these."""
    if variant == "fast":
        return policy
    kept = [
        rule.model_copy(update={"name": policy.rule_name(index)})
        for index, rule in enumerate(policy.rules)
        if (rule.widens if variant == "exact" else not {*QUANTIZED} & {*rule.precision})
    ]
    return policy.model_copy(update={"rules": tuple(kept)})


def depth_axis(node: onnx.NodeProto, rank: int) -> int:
    """The weights' axis that a matrix product sums over."""
    return rank - 1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else max(rank - 2, 0)


def block_size(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """How many int4 weights share a scale; 0 where none of `BLOCKS` divides a row."""
    if len(shape) != 2:
        return 0
    depth = shape[depth_axis(node, 2)]
    return next((size for size in BLOCKS if depth % size == 0), 0)


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
