"""Tensors inside a graph, part by part: the same values as all at once."""

import numpy as np
import pytest

from edge.precision import watch
from edge.precision.sessions import observer
from edge.precision.watch import Watch
from tests import graphs

NAMES = sorted(graphs.GOOD)


def inner(index):
    return [n for node in index.nodes for n in node.output if index.is_float(n) and index.shape(n)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [0, 4096, watch.BUDGET])
def test_values_are_those_of_the_whole_graph(name, budget):
    index = graphs.good(name)
    tensors = [*index.inputs[:1], *inner(index)]
    (feeds,) = graphs.feeds(1, name=index.inputs[0])
    feeds |= {n: np.ones(index.shape(n), np.float32) for n in index.inputs[1:]}
    expected = observer(index.model, tensors)(feeds)
    found = dict(Watch(index, {t: [t] for t in tensors}, budget)(feeds))
    assert set(found) == set(tensors)
    for tensor in tensors:
        np.testing.assert_allclose(found[tensor][tensor], expected[tensor], rtol=1e-4, atol=1e-5)


def test_what_is_wanted_together_comes_together():
    index = graphs.good("residual")
    first, *_, last = inner(index)
    (feeds,) = graphs.feeds(1)
    found = dict(Watch(index, {"both": [first, last], "input": ["image"]}, 0)(feeds))
    assert set(found["both"]) == {first, last}
    assert found["input"]["image"] is feeds["image"]


def test_keys_come_as_soon_as_their_tensors_are_known():
    index = graphs.good("residual")
    first, *_, last = inner(index)
    (feeds,) = graphs.feeds(1)
    assert [key for key, _ in Watch(index, {"b": [last], "a": [first]}, 0)(feeds)] == ["a", "b"]


def test_nothing_behind_the_last_wanted_tensor_is_run():
    index = graphs.good("residual")
    first, *_ = inner(index)
    parts = Watch(index, {0: [first]}, 0)._parts
    assert len(parts) == 1 and parts[0].tail == ()


def test_parts_stay_within_the_budget():
    index = graphs.good("residual")
    sizes = {n: 4 * int(np.prod(index.shape(n))) for n in inner(index)}
    budget = 2 * max(sizes.values())
    parts = Watch(index, {n: [n] for n in sizes}, budget)._parts
    assert len(parts) > 2
    assert all(sum(sizes[n] for n in p.wanted) <= budget + max(sizes.values()) for p in parts)
