"""The tensors inside a graph, in the memory of a few of them.

A network's tensors together are many times what it needs to run: a small transformer writes gigabytes for one
picture. So the graph is cut where the tensors that are wanted fill a budget, and run part by part; what is
wanted together is handed over as soon as the last of it is there, and let go.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod
from typing import Generic, TypeVar

from edge.graph import Graph, part
from edge.precision.sessions import open_session
from edge.precision.stages import live
from edge.types import Array

BUDGET = 96 << 20
"""Bytes of wanted tensors that one part may write."""

Key = TypeVar("Key", bound=Hashable)


class Watch(Generic[Key]):
    """Runs a graph and gives, for each key, the tensors that are wanted for it.

    Args:
        wanted: tensors by key; inputs of the graph may be among them.
    """

    def __init__(self, graph: Graph, wanted: Mapping[Key, Sequence[str]], budget: int = BUDGET) -> None:
        self.wanted = wanted
        self._written = {name: i for i, node in enumerate(graph.nodes) for name in node.output}
        self._names = set().union(*wanted.values()) if wanted else set()
        self._parts = [*self._cut(graph, budget)]

    def _cut(self, graph: Graph, budget: int) -> Iterator[_Part]:
        last = max((self._written.get(name, -1) for name in self._names), default=-1) + 1
        start = used = 0
        for end in range(1, last + 1):
            writes = (name for name in graph.nodes[end - 1].output if name in self._names)
            used += sum(4 * prod(graph.shape(name) or (0,)) for name in writes)
            if used > budget or end == last:
                written = [n for n in self._names if start <= self._written.get(n, -1) < end]
                yield _Part(graph, start, end, sorted(written), () if end == last else live(graph, end))
                start, used = end, 0

    def __call__(self, feeds: Mapping[str, Array]) -> Iterator[tuple[Key, dict[str, Array]]]:
        """For one sample; keys in the order in which their tensors come to be known."""
        due = dict(self.wanted)
        held: dict[str, Array] = {name: value for name, value in feeds.items() if name in self._names}
        values: Mapping[str, Array] = feeds
        for run in (None, *self._parts):
            if run is not None:
                written = run(values)
                held |= {name: written[name] for name in run.wanted}
                values = {name: written.get(name, values.get(name)) for name in run.tail}  # type: ignore[misc]
            for key in [key for key, names in due.items() if all(name in held for name in names)]:
                yield key, {name: held[name] for name in due.pop(key)}
            needed = set().union(*due.values()) if due else set()
            held = {name: value for name, value in held.items() if name in needed}


class _Part:
    """Consecutive nodes of a graph, as a session.

    Attributes:
        wanted: tensors it writes that somebody asked for.
        tail: tensors that later parts read, written here or before.
    """

    def __init__(
        self, graph: Graph, start: int, end: int, wanted: Sequence[str], tail: Sequence[str]
    ) -> None:
        self.wanted, self.tail = wanted, tail
        nodes = graph.nodes[start:end]
        inside = {name for node in nodes for name in node.output}
        self._outputs = list(dict.fromkeys([*wanted, *(name for name in tail if name in inside)]))
        model = part(graph, nodes, self._outputs)
        self._inputs = [i.name for i in model.graph.input]
        self._session = open_session(model, arena=False)

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {name: values[name] for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
