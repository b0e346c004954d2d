"""The tensors inside a graph, in the memory of a few of them.

A network's tensors together are many times what it needs to run: a small transformer writes gigabytes for one
picture. So the graph is cut where the tensors that are wanted fill a budget, and run part by part; what is
wanted together is handed over as soon as the last of it is there, and let go.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import prod
from typing import Generic, NamedTuple, TypeVar

from edge.graph import Graph
from edge.precision.stages import Stage, live
from edge.types import Array

BUDGET = 96 << 20
"""Bytes of wanted tensors that one part may write."""

Key = TypeVar("Key", bound=Hashable)


class _Part(NamedTuple):
    """Consecutive nodes of a graph.

    Attributes:
        wanted: tensors it writes that somebody asked for.
        tail: tensors that later parts read, written here or before.
    """

    wanted: Sequence[str]
    tail: Sequence[str]
    run: Callable[[Mapping[str, Array]], dict[str, Array]]


class Watch(Generic[Key]):
    """Runs a graph and gives, for each key, the tensors that are wanted for it.

    Args:
        wanted: tensors by key; inputs of the graph may be among them.
    """

    def __init__(self, graph: Graph, wanted: Mapping[Key, Sequence[str]], budget: int = BUDGET) -> None:
        self.wanted = wanted
        self._written = {name: i for i, node in enumerate(graph.nodes) for name in node.output}
        self._names = set().union(*wanted.values()) if wanted else set()
        self._parts = [
            _Part(names, stage.tail, stage.observer(names)) for names, stage in self._cut(graph, budget)
        ]

    def _cut(self, graph: Graph, budget: int) -> Iterator[tuple[list[str], Stage]]:
        """Stages of the graph, and what each of them writes of what is wanted."""
        last = max((self._written.get(name, -1) for name in self._names), default=-1) + 1
        start = used = 0
        for end in range(1, last + 1):
            writes = (name for name in graph.nodes[end - 1].output if name in self._names)
            used += sum(4 * prod(graph.shape(name) or (0,)) for name in writes)
            if used > budget or end == last:
                written = [n for n in self._names if start <= self._written.get(n, -1) < end]
                tail = () if end == last else live(graph, end)
                yield sorted(written), Stage(graph, start, end, (), live(graph, start), tail)
                start, used = end, 0

    def __call__(self, feeds: Mapping[str, Array]) -> Iterator[tuple[Key, dict[str, Array]]]:
        """For one sample; keys in the order in which their tensors come to be known."""
        due = dict(self.wanted)
        held: dict[str, Array] = {name: value for name, value in feeds.items() if name in self._names}
        yield from self._known(due, held)
        values: Mapping[str, Array] = feeds
        for wanted, tail, run in self._parts:
            written = run(values)
            held |= {name: written[name] for name in wanted}
            values = {name: written[name] if name in written else values[name] for name in tail}
            yield from self._known(due, held)

    @staticmethod
    def _known(
        due: dict[Key, Sequence[str]], held: dict[str, Array]
    ) -> Iterator[tuple[Key, dict[str, Array]]]:
        """Hand over what is complete, and let go of what nobody waits for."""
        for key in [key for key, names in due.items() if all(name in held for name in names)]:
            yield key, {name: held[name] for name in due.pop(key)}
        needed = set().union(*due.values()) if due else set()
        for name in [name for name in held if name not in needed]:
            del held[name]
