"""Weights fitted to what they meet, for every product and precision that is asked for: each once, in portions
whose moments fit into memory. Which products share weights, and which can be fitted at all, is known here;
the arithmetic is that of `weights.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx

from edge.graph import Graph
from edge.precision import moments, weights
from edge.precision.calibrate import Calibration
from edge.precision.compensation import (
    NO_COMPENSATION,
    Compensation,
    StoredWeight,
    WeightKey,
    bias_home,
    weight_key,
)
from edge.precision.groups import has_finite_constants, is_weighted, products
from edge.precision.moments import Moments
from edge.precision.numerics import Floats
from edge.precision.offsets import Offsets
from edge.precision.plan import block_size
from edge.precision.policy import QUANTIZED
from edge.precision.ranges import relative_noise
from edge.precision.weights import QUIET, InputNoise
from edge.types import Array

Bundle = Sequence[onnx.NodeProto]
"""Products that share their weights."""


class Fitting:
    """Fitted weights of one graph.

    Args:
        feeds: network inputs of the samples that weights are fitted to, from the first, in an order that
            depends on their content alone.
        count: how many there are.
        progress: what is being done, steps done, steps in all.
    """

    def __init__(
        self,
        graph: Graph,
        calibration: Calibration,
        feeds: Callable[[], Iterable[Mapping[str, Array]]],
        count: int,
        progress: Callable[[str, int, int], None] = lambda text, done, total: None,
    ) -> None:
        self.graph, self.calibration = graph, calibration
        self._feeds, self._count, self._progress = feeds, count, progress
        self._known: dict[str, Compensation] = {}

    @cached_property
    def offsets(self) -> Offsets:
        """Means that biases in the carrier cannot hold."""
        return Offsets(self.graph, self._spreads)

    def _spreads(self, nodes: Sequence[onnx.NodeProto]) -> Iterator[dict[str, Moments]]:
        for portion in moments.portions(self.graph, [[node] for node in nodes]):
            yield self._moments(portion)

    def weights(self, precision: str, names: Collection[str]) -> Compensation:
        """Weights of these products, and perhaps others, whose rounding errors cancel, for one precision."""
        known = self._known.get(precision, NO_COMPENSATION)
        missing = [
            bundle
            for key, bundle in self._bundles(precision).items()
            if key not in known.weights and any(node.name in names for node in bundle)
        ]
        self._known[precision] = known.joined(self._fitted(precision, missing))
        return self._known[precision]

    def _bundles(self, precision: str) -> dict[WeightKey, list[onnx.NodeProto]]:
        found: dict[WeightKey, list[onnx.NodeProto]] = {}
        for node in products(self.graph):
            if self._can_be_fitted(precision, node):
                rank = len(self.graph.initializers[node.input[1]].dims)
                found.setdefault(weight_key(node, rank, precision), []).append(node)
        return found

    def _can_be_fitted(self, precision: str, node: onnx.NodeProto) -> bool:
        value = self.graph.constant(node.input[1]) if is_weighted(self.graph, node) else None
        if value is None or not has_finite_constants(self.graph, node):
            return False
        if node.op_type != "Conv" and value.ndim != 2:
            return False  # a stack of matrices, each of which meets inputs of its own
        if precision == "w4a16" and (node.op_type == "Conv" or not block_size(node, value.shape)):
            return False
        seen = self.calibration.ranges.get(node.input[0])
        return precision not in QUANTIZED or (seen is not None and not seen.dead)

    def _fitted(self, precision: str, bundles: Sequence[Bundle]) -> Compensation:
        stored: dict[WeightKey, StoredWeight] = {}
        biases: dict[tuple[str, str], Floats] = {}
        for portion in moments.portions(self.graph, bundles):
            seen = self._moments(portion)
            for bundle in portion:
                if not all(seen[node.name].finite for node in bundle):
                    continue  # inputs too large to be squared: its weights are rounded one by one
                weight, shifts = self._rounded(bundle, precision, seen)
                stored[weight_key(bundle[0], weight.values.ndim, precision)] = weight
                biases |= {(name, precision): shift for name, shift in shifts.items()}
                self._progress(f"weights in {precision}", len(stored), len(bundles))
        return Compensation(stored, biases)

    def _rounded(
        self, bundle: Bundle, precision: str, seen: Mapping[str, Moments]
    ) -> tuple[StoredWeight, dict[str, Floats]]:
        """The one weight of products that share it, and what keeps the mean of each one's output."""
        node, together = bundle[0], moments.merged([seen[n.name] for n in bundle])
        value = self.graph.constant(node.input[1])
        assert value is not None
        has_bias = all(bias_home(self.graph, n) is not None for n in bundle)
        noise = self._input_noise(node.input[0], precision, together)
        weight = weights.compensate(node, value, precision, together, noise, has_bias)
        shifts = {n.name: weights.mean_shift(n, value, weight, seen[n.name]) for n in bundle if has_bias}
        return weight, shifts

    def _moments(self, portion: Sequence[Bundle]) -> dict[str, Moments]:
        """What the products of a portion read; `offsets` keeps of it what it will need."""
        nodes = [node for bundle in portion for node in bundle]

        def say(done: int, total: int) -> None:
            self._progress("what weights meet", done, total)

        found = moments.measure(self.graph, nodes, self._feeds(), self._count, say)
        self.offsets.note(found)
        return found

    def _input_noise(self, tensor: str, precision: str, seen: Moments) -> InputNoise:
        """Rounding noise of what a product reads."""
        if precision not in QUANTIZED:
            return QUIET
        r, h = self.calibration.ranges[tensor], self.calibration.histograms[tensor]
        if precision == "fp8":
            return InputNoise(relative=relative_noise(h, "fp8", r.fp8))
        power = float(np.einsum("gkk->gk", seen.second).mean())
        return InputNoise(absolute=power * relative_noise(h, "int8", r.int8))
