"""A graph cut into stages, so that trying something in the middle does not run the beginning again.

At the head of a stage only the tensors that are still needed are kept, for every sample. From there the stage
can be observed, and the rest of the network be run with an error added to what some product writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import onnx
from onnx import helper

from edge.graph import Graph, captured, part
from edge.precision.groups import Group
from edge.precision.sessions import open_session
from edge.types import Array

Values = Mapping[str, Array]
ERROR = "/error"
"""Name of what is added to a tensor: `<tensor>/error`."""


@dataclass
class Stage:
    """Consecutive nodes of a graph.

    Attributes:
        groups: whose products all lie in it.
        head: tensors from before that it, or what follows, needs.
        tail: tensors that what follows needs.
    """

    graph: Graph
    start: int
    end: int
    groups: tuple[Group, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs that this stage or a later one writes."""
        written = {name for node in self.graph.nodes[self.start :] for name in node.output}
        return tuple(name for name in self.graph.outputs if name in written)

    def observer(self, tensors: Sequence[str]) -> _Runner:
        """Runs this stage alone: values of `tensors` and of its tail from values of its head."""
        nodes = self.graph.nodes[self.start : self.end]
        written = {name for node in nodes for name in node.output}
        wanted = dict.fromkeys(name for name in (*tensors, *self.tail) if name in written)
        return _Runner(part(self.graph, nodes, list(wanted)) if wanted else None)

    def rest(self, disturbed: Sequence[str]) -> _Runner:
        """Runs from its head to the end of the graph, with an error added to each of `disturbed`: a tensor
        `<name>/error` that broadcasts against it."""
        nodes, renamed = [], set(disturbed)
        for node in self.graph.nodes[self.start :]:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            nodes.append(copy)
            for index, name in enumerate(node.output):
                if name in renamed:
                    copy.output[index] = f"{name}/clean"
                    inputs = [copy.output[index], f"{name}{ERROR}"]
                    nodes.append(helper.make_node("Add", inputs, [name], name=f"{name}/disturb"))
        model = part(self.graph, nodes, self.outputs)
        for value in model.graph.input:
            if value.name.endswith(ERROR) and value.name[: -len(ERROR)] in renamed:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        return _Runner(model)


class _Runner:
    """Outputs of a model by name; inputs it does not read are ignored."""

    def __init__(self, model: onnx.ModelProto | None) -> None:
        self._session = None if model is None else open_session(model, arena=False)
        self._inputs = () if model is None else tuple(i.name for i in model.graph.input)
        self._outputs = () if model is None else tuple(o.name for o in model.graph.output)

    def __call__(self, values: Values) -> dict[str, Array]:
        if self._session is None:
            return {}
        feeds = {name: values.get(name, _NOTHING) for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(list(self._outputs), feeds), strict=True))


_NOTHING = np.zeros((), np.float32)
"""An error that is not there."""


def stages(graph: Graph, groups: Sequence[Group], count: int) -> list[Stage]:
    """The graph in about `count` stages of equal work; no group lies in two."""
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    cuts = _cuts(graph, _spans(groups, order), count)
    found = []
    for start, end in pairwise(cuts):
        inside = tuple(g for g in groups if start <= order[g.products[-1]] < end)
        found.append(Stage(graph, start, end, inside, live(graph, start), live(graph, end)))
    return found


def _spans(groups: Sequence[Group], order: Mapping[str, int]) -> list[tuple[int, int]]:
    """First and last product of each group."""
    return [(order[g.products[0]], order[g.products[-1]]) for g in groups]


def _cuts(graph: Graph, spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    """Where stages begin, and the end of the graph."""
    work = np.cumsum([graph.macs(node) for node in graph.nodes] or [0]).astype(np.float64)
    torn = {cut for first, last in spans for cut in range(first + 1, last + 1)}
    cuts = [0]
    for index in range(1, len(graph.nodes)):
        due = work[index - 1] >= work[-1] * len(cuts) / count if work[-1] else False
        if due and index not in torn and len(cuts) < count:
            cuts.append(index)
    return [*cuts, len(graph.nodes)]


def live(graph: Graph, cut: int) -> tuple[str, ...]:
    """Tensors written before `cut` that are read behind it."""
    before = {*graph.inputs, *(name for node in graph.nodes[:cut] for name in node.output)}
    read = dict.fromkeys(
        name for node in graph.nodes[cut:] for name in (*node.input, *captured(node)) if name in before
    )
    return tuple(read)


def outputs_of(graph: Graph, group: Group) -> list[onnx.NodeProto]:
    """The products of a group that no other product of it reads, directly or through its inner nodes."""
    nodes = {node.name: node for node in graph.nodes if node.name in group.nodes}
    inner: set[str] = set()
    for name in group.products:
        inner |= set(_upstream(graph, nodes, nodes[name])) & set(group.products)
    return [nodes[name] for name in group.products if name not in inner]


def inner_nodes(graph: Graph, group: Group) -> list[onnx.NodeProto]:
    """A group's products and what is computed between them, in graph order."""
    nodes = {node.name: node for node in graph.nodes if node.name in group.nodes}
    needed = set(group.products)
    for name in group.products:
        needed |= set(_upstream(graph, nodes, nodes[name]))
    return [node for node in graph.nodes if node.name in needed]


def _upstream(graph: Graph, nodes: Mapping[str, onnx.NodeProto], node: onnx.NodeProto) -> Iterator[str]:
    """Names of the group's nodes that `node` depends on, itself left out."""
    seen: set[str] = set()
    front = list(node.input)
    while front:
        writer = graph.producer.get(front.pop())
        if writer is not None and writer.name in nodes and writer.name not in seen:
            seen.add(writer.name)
            yield writer.name
            front.extend(writer.input)
