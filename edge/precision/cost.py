"""What a plan costs in time: measured for each group where the target is here, else a roofline estimate.

The estimate adds the time of the arithmetic at the peak rate of its type and the time of the memory traffic
at peak bandwidth. It knows no launch overhead, cache or kernel choice: it ranks plans, and its speed-up is
what could be had at best. Convolutions with groups do not fill the matrix units and count at a lower rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx

from edge.graph import Graph, attribute
from edge.precision.groups import Group, is_weighted, operands
from edge.precision.numerics import STORED_AS
from edge.precision.plan import Plan
from edge.precision.policy import QUANTIZED, WEIGHT_ONLY
from edge.targets import Target

BYTES = {"int4": 0.5, "int8": 1, "uint8": 1, "fp8": 1, "bf16": 2, "fp16": 2, "fp32": 4}
GROUPED_RATE = 1 / 8
"""Rate of a grouped convolution, as a part of the peak: no matrix units, the vector units do it."""
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one inference by node and precision.

    Attributes:
        products: of products, by node and precision.
        others: of everything else together, in the carrier.
        how: where they come from.
    """

    products: Mapping[tuple[str, str], float]
    others: float
    how: str

    def plan(self, plan: Plan) -> float:
        """Seconds of a whole plan."""
        known = (self.products.get((s.node, s.precision)) for s in plan.steps)
        return self.others + sum(seconds for seconds in known if seconds is not None)

    def speed_up(self, plan: Plan) -> float:
        """Of a whole plan over everything in its carrier."""
        in_carrier = (self.products.get((s.node, plan.carrier)) for s in plan.steps)
        whole = self.others + sum(seconds for seconds in in_carrier if seconds is not None)
        spent = self.plan(plan)
        return whole / spent if spent else 1.0

    def group(self, given: Mapping[str, str]) -> float:
        """Seconds of a group's products, by what each of them gets."""
        return sum(self.products[node, precision] for node, precision in given.items())


def roofline(graph: Graph, groups: tuple[Group, ...], target: Target) -> Costs:
    """Estimated from multiply–accumulates, bytes and the peaks of the target's row."""
    bandwidth = (target.memory_bandwidth_gb_s or 50.0) * GIGA
    nodes = {node.name: node for node in graph.nodes}
    inside = {name for group in groups for name in group.nodes}
    products = {
        (name, precision): _seconds(graph, nodes[name], precision, target, bandwidth)
        for group in groups
        for name in group.products
        for precision in dict.fromkeys((*QUANTIZED, *WEIGHT_ONLY, target.carrier, "fp32"))
    }
    size = BYTES[target.carrier]
    loose = [node for node in graph.nodes if node.name not in inside]
    traffic = sum(_elements(graph, name) for node in loose for name in (*node.input, *node.output))
    return Costs(products, size * traffic / bandwidth, "roofline estimate")


def _seconds(graph: Graph, node: onnx.NodeProto, precision: str, target: Target, bandwidth: float) -> float:
    if node.op_type == "Add":  # fused into a convolution: what is left is to read the skip
        return (
            BYTES.get(precision, BYTES[target.carrier])
            * _elements(graph, operands(graph, node)[0])
            / bandwidth
        )
    computed_in = precision if precision in QUANTIZED else target.carrier
    computed_in = "fp32" if precision == "fp32" else computed_in
    rate = target.peak(computed_in) * TERA
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
        rate *= GROUPED_RATE
    size = BYTES[computed_in]
    read = sum(_elements(graph, name) for name in operands(graph, node))
    traffic = size * (read + _elements(graph, node.output[0]))  # the next one reads what this one's type is
    if is_weighted(graph, node):
        stored = STORED_AS.get(precision, computed_in)
        traffic += BYTES[stored] * prod(graph.initializers[node.input[1]].dims)
    return 2 * graph.macs(node) / rate + traffic / bandwidth


def _elements(graph: Graph, name: str) -> int:
    """How many numbers a tensor holds, where it is a float and known."""
    return prod(graph.shape(name) or (0,)) if name and graph.is_float(name) else 0
