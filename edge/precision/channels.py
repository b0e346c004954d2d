"""Which channels of a graph have to be scaled together, and which weights can take a scale in.

Scaling a channel by s where it is written and by 1/s where it is read changes nothing, as long as what lies
between commutes with positive factors: Relu, pooling, concatenation, moves. Every channel of every tensor is
given the number of its class; two channels of a class have to be scaled alike. A class is frozen where a
factor would change what the network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.graph import Graph, attribute, captured
from edge.precision.compensation import output_axis

Ids = NDArray[np.intp]

COMMUTING = frozenset(
    {"AveragePool", "Cast", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Relu",
     "Resize", "Upsample"}
)  # fmt: skip
"""Operators of one tensor that commute with positive factors a channel, and keep the channels' axis."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Classes of a tensor's channels, and the axis they lie on."""

    ids: Ids
    axis: int


@dataclass(frozen=True, slots=True)
class Scaled:
    """A constant that takes factors in.

    Attributes:
        axis: of the constant, whose elements belong to the classes `ids`.
        written: whether it makes the channels (takes the factor) or reads them (takes its inverse).
    """

    constant: str
    axis: int
    ids: Ids
    written: bool


@dataclass
class Channels:
    """The classes of a graph's channels.

    Attributes:
        layout: by tensor, where its channels are known.
        scaled: constants that take factors in, by node.
        clipped: tensors that a Clip from 0 (Relu6) limits, with their limit: a factor must be 1 or more, and
            must not take what was seen above the limit.
        frozen: by class, whether it has to keep its scale.
    """

    layout: dict[str, Layout] = field(default_factory=dict)
    scaled: dict[str, list[Scaled]] = field(default_factory=dict)
    clipped: dict[str, float] = field(default_factory=dict)
    frozen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    @property
    def count(self) -> int:
        return len(self.frozen)


def channels(graph: Graph) -> Channels:
    """The classes of all channels."""
    return _Walk(graph).run()


KEPT = 0
"""The class of channels that nothing is known of."""


def _looked_up(roots: Ids, ids: Ids) -> Ids:
    return ids if ids.strides == (0,) and not ids.any() else roots[ids]


class _Walk:
    """Follows channels through the graph once; classes are joined as it goes (union–find)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent: list[int] = [KEPT]
        self.stuck: set[int] = {KEPT}
        self.layout: dict[str, Layout] = {}
        self.scaled: dict[str, list[Scaled]] = {}
        self.clipped: dict[str, float] = {}
        self.uses = self._uses()
        self.rules: dict[str, Callable[[onnx.NodeProto], bool]] = {
            "Conv": self._conv,
            "ConvTranspose": self._conv_transpose,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "LayerNormalization": self._normalization,
            "BatchNormalization": self._normalization,
            "Add": self._add,
            "Clip": self._clip,
            "Mul": self._mul,
            "PRelu": self._prelu,
            "Concat": self._concat,
            "Flatten": self._reshape,
            "Reshape": self._reshape,
            "Squeeze": self._reshape,
            "Unsqueeze": self._reshape,
            "Transpose": self._transpose,
            "Pad": self._pad,
            "ReduceMean": self._reduce,
        }

    def _uses(self) -> dict[str, int]:
        """How many inputs read each constant: one that is shared cannot be scaled for one reader."""
        found: dict[str, int] = {}
        for node in self.graph.nodes:
            for name in (*node.input, *captured(node)):
                found[name] = found.get(name, 0) + 1
        return found

    def run(self) -> Channels:
        for name in self.graph.inputs:
            self._keep(name)
        for node in self.graph.nodes:
            self._step(node)
        for name in self.graph.outputs:
            if name in self.layout:
                self._freeze(self.layout[name].ids)
        roots = np.array([self._root(i) for i in range(len(self.parent))], np.intp)
        frozen = np.isin(roots, np.array([self._root(i) for i in self.stuck], np.intp))
        layout = {
            name: Layout(_looked_up(roots, found.ids), found.axis) for name, found in self.layout.items()
        }
        scaled = {
            node: [Scaled(s.constant, s.axis, roots[s.ids], s.written) for s in found]
            for node, found in self.scaled.items()
        }
        return Channels(layout, scaled, self.clipped, frozen)

    def _step(self, node: onnx.NodeProto) -> None:
        known = [name for name in (*node.input, *captured(node)) if name in self.layout]
        if node.op_type in COMMUTING and known == [node.input[0]]:
            handled = self._pass(node)
        else:
            rule = self.rules.get(node.op_type)
            handled = rule is not None and rule(node)
        if not handled:
            for name in known:
                self._freeze(self.layout[name].ids)
            for name in node.output:
                self._keep(name)

    # ------------------------------------------------------------------ classes

    def _new(self, count: int) -> Ids:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def _fresh(self, name: str, axis: int) -> Ids:
        """New classes for a tensor's channels; none where its shape is not known."""
        shape = self.graph.shape(name)
        if not name or not self.graph.is_float(name) or shape is None or not shape:
            return np.zeros(0, np.intp)
        axis = min(axis, len(shape) - 1) % len(shape)
        self.layout[name] = Layout(self._new(shape[axis]), axis)
        return self.layout[name].ids

    def _keep(self, name: str) -> None:
        """A tensor's channels have to keep their scale: they are all of the one class for that, which costs
        nothing however many there are."""
        shape = self.graph.shape(name)
        if name and self.graph.is_float(name) and shape:
            axis = min(1, len(shape) - 1)
            self.layout[name] = Layout(np.broadcast_to(np.intp(KEPT), shape[axis]), axis)

    def _root(self, index: int) -> int:
        while self.parent[index] != index:
            self.parent[index] = self.parent[self.parent[index]]
            index = self.parent[index]
        return index

    def _join(self, left: Ids, right: Ids) -> None:
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self.parent[high] = low

    def _freeze(self, ids: Ids) -> None:
        self.stuck.update(ids.tolist())

    def _constant(self, name: str) -> bool:
        """Whether it is a constant that this reader has for itself."""
        return name in self.graph.initializers and self.uses.get(name) == 1 and name not in self.graph.outputs

    def _takes(self, node: onnx.NodeProto, constant: str, axis: int, ids: Ids, written: bool) -> None:
        self.scaled.setdefault(node.name, []).append(Scaled(constant, axis, ids, written))

    # ------------------------------------------------------------------ operators

    def _pass(self, node: onnx.NodeProto) -> bool:
        """One tensor in, one out, the same channels."""
        found, shape = self.layout[node.input[0]], self.graph.shape(node.output[0])
        if shape is None or len(shape) <= found.axis or shape[found.axis] != len(found.ids):
            return False
        if not self.graph.is_float(node.output[0]):
            return False  # a Cast to integers rounds
        if node.op_type not in ("Cast", "Identity", "LeakyRelu", "Relu") and found.axis != 1:
            return False
        self.layout[node.output[0]] = found
        return True

    def _weights(self, node: onnx.NodeProto, axis: int) -> bool:
        """Whether a product reads channels on this axis, and has its constants for itself."""
        found = self.layout.get(node.input[0])
        own = all(self._constant(name) for name in node.input[1:] if name)
        return own and found is not None and found.axis == axis

    def _conv(self, node: onnx.NodeProto) -> bool:
        if not self._weights(node, 1):
            return False
        into, out = self.layout[node.input[0]], self._fresh(node.output[0], 1)
        shape = self.graph.shape(node.input[1]) or ()
        groups = int(attribute(node, "group", 1))
        if len(out) != shape[0] or len(into.ids) != shape[1] * groups:
            return False
        if groups == 1:
            self._takes(node, node.input[1], 1, into.ids, written=False)
        elif shape[1] == 1 and shape[0] == groups:
            self._takes(node, node.input[1], 0, into.ids, written=False)
        else:
            self._freeze(into.ids)
        self._takes(node, node.input[1], 0, out, written=True)
        if len(node.input) > 2 and node.input[2]:
            self._takes(node, node.input[2], 0, out, written=True)
        return True

    def _conv_transpose(self, node: onnx.NodeProto) -> bool:
        if not self._weights(node, 1) or attribute(node, "group", 1) != 1:
            return False
        into, out = self.layout[node.input[0]], self._fresh(node.output[0], 1)
        if len(out) != (self.graph.shape(node.input[1]) or (0, 0))[1]:
            return False
        self._takes(node, node.input[1], 0, into.ids, written=False)
        self._takes(node, node.input[1], 1, out, written=True)
        if len(node.input) > 2 and node.input[2]:
            self._takes(node, node.input[2], 0, out, written=True)
        return True

    def _gemm(self, node: onnx.NodeProto) -> bool:
        if attribute(node, "transA", 0) or not self._weights(node, 1):
            return False
        into, shape = self.layout[node.input[0]], self.graph.shape(node.input[1]) or ()
        columns = output_axis(node, len(shape))
        if len(into.ids) != shape[1 - columns]:
            return False
        out = self._fresh(node.output[0], 1)
        self._takes(node, node.input[1], 1 - columns, into.ids, written=False)
        self._takes(node, node.input[1], columns, out, written=True)
        if len(node.input) > 2 and node.input[2]:
            return self._bias(node, node.input[2], out)
        return True

    def _matmul(self, node: onnx.NodeProto) -> bool:
        shape = self.graph.shape(node.input[1]) or ()
        rank = len(self.graph.shape(node.input[0]) or ())
        if len(shape) != 2 or not self._weights(node, rank - 1):
            return False
        out = self._fresh(node.output[0], rank - 1)
        self._takes(node, node.input[1], 0, self.layout[node.input[0]].ids, written=False)
        self._takes(node, node.input[1], 1, out, written=True)
        return True

    def _bias(self, node: onnx.NodeProto, name: str, ids: Ids) -> bool:
        """A constant that is added along the channels: it takes the factor, too."""
        shape = tuple(self.graph.initializers[name].dims)
        if not shape or shape[-1] != len(ids):
            return False
        self._takes(node, name, len(shape) - 1, ids, written=True)
        return True

    def _normalization(self, node: onnx.NodeProto) -> bool:
        """Its own scale and bias make its channels; what it reads keeps its scale."""
        if node.input[0] in self.layout:
            self._freeze(self.layout[node.input[0]].ids)
        own = [name for name in node.input[1:3] if name]
        if len(node.output) > 1 and any(node.output[1:]):
            return False
        if not own or not all(self._constant(name) for name in own):
            return False
        rank = len(self.graph.shape(node.output[0]) or ())
        axis = 1 if node.op_type == "BatchNormalization" else attribute(node, "axis", -1) % max(rank, 1)
        if not rank or (node.op_type == "LayerNormalization" and axis != rank - 1):
            return False
        out = self._fresh(node.output[0], axis)
        for name in own:
            if tuple(self.graph.initializers[name].dims) != (len(out),):
                return False
            self._takes(node, name, 0, out, written=True)
        return True

    def _operands(self, node: onnx.NodeProto) -> tuple[list[str], list[str]]:
        tensors = [name for name in node.input if name in self.layout]
        return tensors, [name for name in node.input if name in self.graph.initializers]

    def _add(self, node: onnx.NodeProto) -> bool:
        """Of two tensors: their channels are one class. Of a tensor and a constant: that takes the factor."""
        tensors, constants = self._operands(node)
        if len(tensors) == 2:
            left, right = (self.layout[name] for name in tensors)
            same = self.graph.shape(tensors[0]) == self.graph.shape(tensors[1]) and left.axis == right.axis
            if same:
                self._join(left.ids, right.ids)
                self.layout[node.output[0]] = left
            return same
        if len(tensors) != 1 or len(constants) != 1 or not self._constant(constants[0]):
            return False
        return self._along(node, tensors[0], constants[0])

    def _along(self, node: onnx.NodeProto, tensor: str, constant: str) -> bool:
        """A constant that lies along the channels of a tensor and takes their factors in."""
        found, rank = self.layout[tensor], len(self.graph.shape(tensor) or ())
        dims = tuple(self.graph.initializers[constant].dims)
        axis = found.axis - (rank - len(dims))
        if self.graph.shape(node.output[0]) != self.graph.shape(tensor) or not 0 <= axis < len(dims):
            return False
        if dims[axis] != len(found.ids):
            return False
        self._takes(node, constant, axis, found.ids, written=True)
        self.layout[node.output[0]] = found
        return True

    def _mul(self, node: onnx.NodeProto) -> bool:
        """By a constant along the channels: it makes new ones, as the last step of a normalization that was
        exported in parts does. By one number: nothing changes. By a gate: `_gated`."""
        tensors, constants = self._operands(node)
        if len(tensors) == 2:
            return self._gated(node, *tensors)
        if len(tensors) != 1 or len(constants) != 1:
            return False
        shape = self.graph.shape(tensors[0])
        if self.graph.shape(node.output[0]) != shape:
            return False
        if int(np.prod(self.graph.initializers[constants[0]].dims)) == 1:
            self.layout[node.output[0]] = self.layout[tensors[0]]
            return True
        found, dims = self.layout[tensors[0]], tuple(self.graph.initializers[constants[0]].dims)
        axis = found.axis - (len(shape or ()) - len(dims))
        if not self._constant(constants[0]) or not 0 <= axis < len(dims) or dims[axis] != len(found.ids):
            return False
        self._freeze(found.ids)
        out = self._fresh(node.output[0], found.axis)
        self._takes(node, constants[0], axis, out, written=True)
        return True

    def _clip(self, node: onnx.NodeProto) -> bool:
        """Between 0 and a limit that is above 0."""
        if node.input[0] not in self.layout or len(node.input) < 3:
            return False
        low, high = (self.graph.constant(name) if name else None for name in node.input[1:3])
        if low is None or high is None or low.size != 1 or high.size != 1:
            return False
        if float(low.reshape(())) != 0.0 or not float(high.reshape(())) > 0.0:
            return False
        self.layout[node.output[0]] = self.layout[node.input[0]]
        self.clipped[node.output[0]] = float(high.reshape(()))
        return True

    def _gated(self, node: onnx.NodeProto, left: str, right: str) -> bool:
        """Of a tensor and a gate that keeps its scale (squeeze-and-excitation): the tensor's classes stay."""
        gates = [name for name in (left, right) if self.stuck.issuperset(self.layout[name].ids.tolist())]
        if len(gates) != 1:
            return False
        other = right if gates[0] == left else left
        if self.graph.shape(node.output[0]) != self.graph.shape(other):
            return False
        self.layout[node.output[0]] = self.layout[other]
        return True

    def _prelu(self, node: onnx.NodeProto) -> bool:
        if node.input[0] not in self.layout or node.input[1] not in self.graph.initializers:
            return False
        self.layout[node.output[0]] = self.layout[node.input[0]]
        return True

    def _concat(self, node: onnx.NodeProto) -> bool:
        rank = len(self.graph.shape(node.output[0]) or ())
        found = [self.layout.get(name) for name in node.input]
        if not rank or any(f is None for f in found):
            return False
        parts = [f for f in found if f is not None]
        axis = attribute(node, "axis", 0) % rank
        if len({f.axis for f in parts}) != 1:
            return False
        if axis == parts[0].axis:
            self.layout[node.output[0]] = Layout(np.concatenate([f.ids for f in parts]), axis)
            return True
        for other in parts[1:]:
            self._join(parts[0].ids, other.ids)
        self.layout[node.output[0]] = parts[0]
        return True

    def _reshape(self, node: onnx.NodeProto) -> bool:
        """Kept where the channels stay whole: N×C×1×1 → N×C, rows × C → N × rows × C. Spread where
        N×C×H×W becomes N×C·H·W."""
        if node.input[0] not in self.layout:
            return False
        found = self.layout[node.input[0]]
        before, after = self.graph.shape(node.input[0]), self.graph.shape(node.output[0])
        if before is None or after is None:
            return False
        outer, inner = int(np.prod(before[: found.axis])), int(np.prod(before[found.axis + 1 :]))
        for axis, size in enumerate(after):
            front, back = int(np.prod(after[:axis])), int(np.prod(after[axis + 1 :]))
            if front != outer:
                continue
            if size == len(found.ids) and back == inner:
                self.layout[node.output[0]] = Layout(found.ids, axis)
                return True
            if size == len(found.ids) * inner and back == 1:
                self.layout[node.output[0]] = Layout(np.repeat(found.ids, inner), axis)
                return True
        return False

    def _transpose(self, node: onnx.NodeProto) -> bool:
        if node.input[0] not in self.layout:
            return False
        found, rank = self.layout[node.input[0]], len(self.graph.shape(node.input[0]) or ())
        order: Sequence[Any] = attribute(node, "perm", list(range(rank))[::-1])
        self.layout[node.output[0]] = Layout(found.ids, list(order).index(found.axis))
        return True

    def _pad(self, node: onnx.NodeProto) -> bool:
        """With zeros, and not along the channels."""
        value = self.graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
        kept = node.input[0] in self.layout and value is not None and not np.any(value)
        if not kept or attribute(node, "mode", b"constant") != b"constant":
            return False
        return self._pass(node)

    def _reduce(self, node: onnx.NodeProto) -> bool:
        """A mean over anything but the channels."""
        found = self.layout.get(node.input[0])
        axes = attribute(node, "axes", None)
        if axes is None and len(node.input) > 1:
            axes = self.graph.constant(node.input[1])
        rank = len(self.graph.shape(node.input[0]) or ())
        if found is None or axes is None or not rank:
            return False
        gone = {int(a) % rank for a in axes}
        if found.axis in gone:
            return False
        kept = attribute(node, "keepdims", 1)
        axis = found.axis if kept else found.axis - sum(a < found.axis for a in gone)
        self.layout[node.output[0]] = Layout(found.ids, axis)
        return True
