"""One group alone, quantized: what it writes against fp32, and the bias that restores its mean."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.graph import Graph, part
from edge.precision import numerics
from edge.precision.compensation import Compensation, bias_home
from edge.precision.groups import Group, skip_of
from edge.precision.numerics import Floats, QuantType
from edge.precision.plan import Plan, Step
from edge.precision.ranges import Range
from edge.precision.rewrite import rewrite
from edge.precision.sessions import open_session
from edge.precision.stages import Values, inner_nodes, outputs_of
from edge.targets import TARGETS
from edge.types import Array

TARGET = dataclasses.replace(TARGETS["a10"], carrier="fp32", scale_type="fp32", quantized=("int8", "fp8"))
"""A GPU's placement of Q/DQ without a carrier's rounding."""


def local(
    graph: Graph, group: Group, kind: QuantType, ranges: Mapping[str, Range], compensation: Compensation
) -> Local:
    """A group alone, quantized."""
    if group.kind == "skip":
        return _LocalSkip(graph, group, kind)
    return _LocalProducts(graph, group, kind, ranges, compensation)


class Local(ABC):
    """A group alone, quantized, with thresholds that can be changed from run to run.

    Attributes:
        ends: the nodes that write what leaves the group.
        inputs: tensors that have to be known to run it.
    """

    inputs: list[str]

    def __init__(self, graph: Graph, group: Group, kind: QuantType, ends: list[onnx.NodeProto]) -> None:
        self.graph, self.kind, self.products, self.ends = graph, kind, group.products, ends
        self.homes = {n.output[0]: bias_home(graph, n) for n in ends}
        self._sums: dict[tuple[str, str], Sums] = {}

    @abstractmethod
    def _run(self, seen: Values, thresholds: Mapping[str, float]) -> dict[str, Array]:
        """What each end writes."""

    def _applied(self, key: tuple[str, str]) -> Floats | None:
        """The bias that `_run` has in it already."""
        return None

    def add(self, label: str, seen: Values, thresholds: Mapping[str, float]) -> None:
        """Sum up the error of one sample under this label."""
        written = self._run(seen, thresholds)
        for node in self.ends:
            name = node.output[0]
            sums = self._sums.setdefault((label, name), Sums())
            sums.add(_by_channel(node, written[name] - seen[name]), _by_channel(node, seen[name]))

    def error(self, label: str) -> float:
        """Squared error over squared value, once a bias has restored the means."""
        found = [(self._sums[label, node.output[0]], self.homes[node.output[0]]) for node in self.ends]
        return sum(sums.error(home is not None) for sums, home in found) / len(found)

    def errors(self, label: str, seen: Values, thresholds: Mapping[str, float]) -> dict[str, Array]:
        """What is left of the error in each output once its bias has restored the mean."""
        written = self._run(seen, thresholds)
        left = {}
        for node in self.ends:
            name = node.output[0]
            error = written[name] - seen[name]
            if self.homes[name] is not None:
                error = error - _spread(node, self._sums[label, name].mean(), error.ndim)
            left[name] = error
        return left

    def biases(self, label: str) -> dict[tuple[str, str], NDArray[np.float32]]:
        """What to add to each output to restore its mean, by node and precision."""
        found: dict[tuple[str, str], NDArray[np.float32]] = {}
        for name in self.products:  # what lies within was restored before
            applied = self._applied((name, self.kind))
            if applied is not None:
                found[name, self.kind] = applied
        for node in self.ends:
            home, key = self.homes[node.output[0]], (node.name, self.kind)
            if home is not None:
                before = found.get(key, np.float32(0)) if home.node == node.name else np.float32(0)
                found[key] = np.asarray(before - self._sums[label, node.output[0]].mean(), np.float32)
        return found


class _LocalProducts(Local):
    """Products and what lies between them, run with their Q/DQ."""

    def __init__(
        self,
        graph: Graph,
        group: Group,
        kind: QuantType,
        ranges: Mapping[str, Range],
        compensation: Compensation,
    ) -> None:
        super().__init__(graph, group, kind, outputs_of(graph, group))
        model = part(graph, inner_nodes(graph, group), [node.output[0] for node in self.ends])
        index = Graph(model)
        steps = tuple(
            Step(n.name, n.op_type, kind if n.name in group.products else "fp32", "", 0) for n in index.nodes
        )
        self.compensation = compensation
        typed = rewrite(index, Plan("fp32", "s8", steps), ranges, TARGET, compensation)
        self._scales = _open_scales(typed)
        self._session = open_session(typed, plain=True, threads=1, arena=False)
        self.inputs = [i.name for i in typed.graph.input if i.name not in self._scales.values()]

    def _run(self, seen: Values, thresholds: Mapping[str, float]) -> dict[str, Array]:
        feeds = {name: seen[name] for name in self.inputs}
        for tensor, name in self._scales.items():
            feeds[name] = _scale(thresholds[tensor], self.kind)
        names = [node.output[0] for node in self.ends]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def _applied(self, key: tuple[str, str]) -> Floats | None:
        return self.compensation.biases.get(key)


class _LocalSkip(Local):
    """An Add whose skip connection is rounded."""

    def __init__(self, graph: Graph, group: Group, kind: QuantType) -> None:
        (node,) = (n for n in graph.nodes if n.name == group.name)
        super().__init__(graph, group, kind, [node])
        self.skip = skip_of(graph, node)
        self.homes = {node.output[0]: None}
        self.inputs = [self.skip]

    def _run(self, seen: Values, thresholds: Mapping[str, float]) -> dict[str, Array]:
        value, written = seen[self.skip], self.ends[0].output[0]
        rounded = numerics.fake_quantize(value, _scale(thresholds[self.skip], self.kind), self.kind)
        return {written: seen[written] + (rounded - value)}


def _scale(threshold: float, kind: QuantType) -> Floats:
    return numerics.storable_scale(np.float32(threshold / numerics.QMAX[kind]), "bf16")


def _open_scales(model: onnx.ModelProto) -> dict[str, str]:
    """Turn the scales of activations into inputs of the graph: tensor → name of its scale."""
    constants = {t.name for t in model.graph.initializer}
    found = {
        node.input[0]: node.input[1]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }
    kept = [t for t in model.graph.initializer if t.name not in found.values()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for name in dict.fromkeys(found.values()):
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    return found


def _by_channel(node: onnx.NodeProto, value: Array) -> NDArray[np.float32]:
    """Channels × places."""
    moved = np.moveaxis(value, 1 if node.op_type == "Conv" else -1, 0)
    return np.asarray(moved.reshape(moved.shape[0], -1), np.float32)


def _spread(node: onnx.NodeProto, channels: Array, rank: int) -> Array:
    """A value a channel, so that it broadcasts against the product's output."""
    if node.op_type != "Conv":
        return channels
    return channels.reshape(-1, *[1] * (rank - 2))


@dataclass
class Sums:
    """Error of one output over samples, by channel."""

    count: int = 0
    signal: float = 0.0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    square: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    means: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, error: NDArray[np.float32], value: NDArray[np.float32]) -> None:
        self.count += error.shape[1]
        self.signal += float(np.square(value, dtype=np.float64).sum())
        total = error.sum(1, dtype=np.float64)
        self.total = self.total + total
        self.square = self.square + np.square(error, dtype=np.float64).sum(1)
        self.means.append(total / error.shape[1])

    def mean(self) -> NDArray[np.float32]:
        """By how much each channel's mean moves; drawn towards 0 where the samples disagree."""
        means = np.array(self.means)
        mean: NDArray[np.float64] = means.mean(0)
        if len(means) < 2:
            return np.asarray(mean / 2, np.float32)
        uncertain = means.var(0, ddof=1) / len(means)
        trust = np.clip(1 - uncertain / np.maximum(mean**2, 1e-30), 0, 1)
        return np.asarray(mean * trust, np.float32)

    def error(self, restored: bool) -> float:
        left = self.square - self.count * (self.total / self.count) ** 2 if restored else self.square
        return float(np.maximum(left, 0).sum()) / self.signal if self.signal else 0.0
