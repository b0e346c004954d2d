"""Means that a rounded bias cannot hold, held by the weights instead.

A bias is stored in the carrier, and bf16 keeps 8 bits of it. A layer whose inputs lie far from zero has a
large bias that takes most of the product away again; what rounding then adds is a constant, the same for
every picture, and can be larger than all other noise. Some weights are moved to the neighbouring value of
their type, so that the mean of what they multiply makes up for it: those first that take most of it away,
for the least noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.graph import Graph
from edge.precision.compensation import Compensation, StoredWeight, bias_home, output_axis, weight_key
from edge.precision.groups import has_finite_constants, is_weighted, products
from edge.precision.moments import Doubles, Moments
from edge.precision.numerics import NUMPY, STORED_AS, narrow
from edge.precision.plan import Plan
from edge.precision.policy import WEIGHT_ONLY
from edge.precision.weights import from_rows, round_weight, to_rows
from edge.targets import Target
from edge.types import Array

MOST_MOVED = 32
"""Weights of one output that are moved each way, at most."""
WORTHWHILE = 0.1
"""Part of what is wrong with a mean, squared, that moving one weight has to take away."""

Measure = Callable[[Sequence[onnx.NodeProto]], Iterable[Mapping[str, Moments]]]


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Of each value that a product's weights are multiplied with: groups × K."""

    mean: Doubles
    variance: Doubles


class Offsets:
    """Moves weights of one graph; what inputs are like is measured once, and each product moved once.

    Args:
        measure: the moments of what these products read, in portions.
    """

    def __init__(self, graph: Graph, measure: Measure) -> None:
        self.graph, self.measure = graph, measure
        self._able = [node for node in products(graph) if _is_able(graph, node)]
        self._seen: dict[str, Spread] = {}
        self._asked: set[str] = set()
        self._moved: dict[tuple[str, str, str], StoredWeight] = {}

    def note(self, moments: Mapping[str, Moments]) -> None:
        """Keep of what was measured, perhaps for another purpose, what is needed here."""
        for name, found in moments.items():
            if found.finite:
                variance = np.einsum("gkk->gk", found.second) - np.square(found.mean)
                self._seen[name] = Spread(found.mean, np.maximum(variance, 0))

    def held(self, plan: Plan, compensation: Compensation, target: Target) -> Compensation:
        """`compensation`, with weights that make up for what the plan's carrier does to biases."""
        if plan.carrier == "fp32":
            return compensation
        missing = [node for node in self._able if node.name not in {*self._seen, *self._asked}]
        self._asked.update(node.name for node in missing)
        for portion in self.measure(missing) if missing else ():
            self.note(portion)
        weights = dict(compensation.weights)
        for node in self._able:
            precision = plan.precisions[node.name]
            if node.name not in self._seen or precision == "fp32":
                continue
            if (node.name, precision, plan.carrier) not in self._moved:
                stored = self._stored(node, precision, compensation, target)
                off = self._off(node, precision, plan.carrier, stored, compensation)
                moved = move(node, stored, off, self._seen[node.name])
                self._moved[node.name, precision, plan.carrier] = moved
            key = weight_key(node, len(self._value(node).shape), precision)
            weights[key] = self._moved[node.name, precision, plan.carrier]
        return Compensation(weights, compensation.biases)

    def _value(self, node: onnx.NodeProto) -> Array:
        value = self.graph.constant(node.input[1])
        assert value is not None
        return value

    def _stored(
        self, node: onnx.NodeProto, precision: str, compensation: Compensation, target: Target
    ) -> StoredWeight:
        """The weights as they would be stored without this."""
        value = self._value(node)
        if precision in STORED_AS:
            found = compensation.weights.get(weight_key(node, value.ndim, precision))
            return found or round_weight(node, value, precision, target)
        axis = output_axis(node, value.ndim)
        return StoredWeight(narrow(value, precision), np.ones(value.shape[axis], np.float32), axis)

    def _off(
        self,
        node: onnx.NodeProto,
        precision: str,
        carrier: str,
        stored: StoredWeight,
        compensation: Compensation,
    ) -> Doubles:
        """By how much the mean of each output would be wrong."""
        used = stored.dequantized()
        shift = compensation.biases.get((node.name, precision))
        right = self._value(node) if shift is None else used  # a shift makes up for rounded weights
        if precision in WEIGHT_ONLY:
            used = narrow(used, carrier).astype(np.float32)
        off = np.einsum("gok,gk->go", to_rows(node, used - right), self._seen[node.name].mean)
        home = bias_home(self.graph, node)
        if home is not None and (home.constant or shift is not None):
            bias = self.graph.constant(home.constant) if home.constant else None
            wanted = np.zeros(off.size) if bias is None else np.ravel(bias).astype(np.float64)
            wanted = wanted + (0.0 if shift is None else shift)
            if wanted.size in (1, off.size):
                off += np.broadcast_to(narrow(wanted, carrier) - wanted, off.size).reshape(off.shape)
        return np.asarray(off, np.float64)


def _is_able(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a product has weights that no other node reads."""
    if not is_weighted(graph, node) or not has_finite_constants(graph, node):
        return False
    matrix = len(graph.initializers[node.input[1]].dims) == 2
    return (node.op_type == "Conv" or matrix) and len(graph.consumers[node.input[1]]) == 1


def move(node: onnx.NodeProto, weight: StoredWeight, off: Array, seen: Spread) -> StoredWeight:
    """Weights that take over what is wrong with the mean of each output.

    Args:
        off: groups × outputs.
    """
    left = np.array(off, np.float64)
    values = weight.values
    for away in (False, True):
        changed = dataclasses.replace(weight, values=neighbours(values, away))
        steps = changed.dequantized() - dataclasses.replace(weight, values=values).dequantized()
        taken = _chosen(to_rows(node, steps).astype(np.float64), left, seen)
        values = np.where(from_rows(node, taken, values.shape), changed.values, values)
    return dataclasses.replace(weight, values=values)


def _chosen(steps: Doubles, off: Doubles, seen: Spread) -> NDArray[np.bool_]:
    """Which weights take their step; `off` becomes what is left to be made up for."""
    shift = steps * seen.mean[:, None, :]
    noise = np.square(steps) * seen.variance[:, None, :]
    taken = np.zeros(steps.shape, bool)
    for _ in range(min(MOST_MOVED, steps.shape[2])):
        gain = np.square(off)[..., None] - np.square(off[..., None] + shift) - noise
        best = np.where(taken, -np.inf, gain).argmax(2)[..., None]
        better = np.take_along_axis(gain, best, 2)[..., 0] > WORTHWHILE * np.square(off)
        better &= ~np.take_along_axis(taken, best, 2)[..., 0]
        if not better.any():
            break
        np.put_along_axis(taken, best, np.take_along_axis(taken, best, 2) | better[..., None], 2)
        off += np.where(better, np.take_along_axis(shift, best, 2)[..., 0], 0.0)
    return taken


def neighbours(values: Array, away: bool) -> Array:
    """For each value the next of its type, away from zero or towards it; one that has none stays."""
    if values.dtype in (NUMPY["int8"], NUMPY["int4"]):
        most = 127 if values.dtype == NUMPY["int8"] else 7
        wide = values.astype(np.int16)
        stepped = np.clip(wide + np.sign(wide) * (1 if away else -1), -most, most)
        return np.asarray(stepped.astype(values.dtype))
    bits = values.view(np.uint8 if values.dtype.itemsize == 1 else np.uint16)
    next_bits = (bits + 1 if away else bits - 1).astype(bits.dtype)
    found = np.where(values.astype(np.float32) == 0, bits, next_bits).view(values.dtype)
    return np.asarray(np.where(np.isfinite(found.astype(np.float32)), found, values))
