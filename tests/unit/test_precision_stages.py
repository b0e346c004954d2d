"""A graph in stages computes what the whole graph does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import graphs
import numpy as np
import pytest

from edge.graph import Graph
from edge.precision.groups import groups
from edge.precision.sessions import observer
from edge.precision.stages import ERROR, Stage, inner_nodes, outputs_of, stages

NAMES = [*graphs.GOOD, "loop", "branch"]


def index_of(name: str) -> Graph:
    return graphs.graph(graphs.branch(captures=True)) if name == "branch" else graphs.good(name)


def heads(index: Graph, cut: list[Stage], feeds: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known at the head of each stage, each from the one before."""
    found: list[dict[str, Any]] = [dict(feeds)]
    for stage in cut[:-1]:
        seen = {**found[-1], **stage.observer([])(found[-1])}
        found.append({name: seen[name] for name in stage.tail})
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
class TestCut:
    def test_every_node_lies_in_one_stage_and_no_group_in_two(self, name: str, count: int) -> None:
        index = index_of(name)
        every = groups(index)
        cut = stages(index, every, count)
        assert 1 <= len(cut) <= count
        assert [cut[0].start, cut[-1].end] == [0, len(index.nodes)]
        assert all(a.end == b.start for a, b in pairwise(cut))
        assert sorted(g.name for stage in cut for g in stage.groups) == sorted(g.name for g in every)
        for stage in cut:
            inside = {node.name for node in index.nodes[stage.start : stage.end]}
            assert all(set(group.products) <= inside for group in stage.groups)

    def test_stage_by_stage_the_outputs_are_those_of_the_whole_graph(self, name: str, count: int) -> None:
        index = index_of(name)
        cut = stages(index, groups(index), count)
        feeds = graphs.feeds(1)[0]
        expected = observer(index.model, index.outputs)(feeds)
        known = heads(index, cut, feeds)
        for stage, head in zip(cut, known, strict=True):
            assert set(stage.head) <= set(head)
            found = stage.rest([])(head)
            for output in stage.outputs:
                np.testing.assert_allclose(found[output], expected[output], rtol=1e-5, atol=1e-6)
        assert all(output in cut[-1].outputs or output in known[-1] for output in index.outputs)


class TestErrors:
    @pytest.mark.parametrize("name", ["residual", "transformer"])
    def test_an_error_is_added_where_it_arises_and_nowhere_else(self, name: str) -> None:
        index = graphs.good(name)
        feeds = graphs.feeds(1)[0]
        every = groups(index)
        cut = stages(index, every, 3)
        for stage, head in zip(cut, heads(index, cut, feeds), strict=True):
            disturbed = [node.output[0] for group in stage.groups for node in outputs_of(index, group)]
            rest = stage.rest(disturbed)
            clean = rest(head)
            for tensor in disturbed:
                value = observer(index.model, [tensor])(feeds)[tensor]
                error = np.random.default_rng(0).normal(0, 0.1, value.shape).astype(np.float32)
                found = rest({**head, f"{tensor}{ERROR}": error})
                expected = from_there(index, tensor, value + error, feeds)
                for output in index.outputs:
                    np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=1e-5)
                    assert not np.allclose(found[output], clean[output], rtol=1e-6, atol=0)

    def test_an_error_of_one_value_a_channel_broadcasts(self) -> None:
        index = graphs.good("residual")
        (stage,) = stages(index, groups(index), 1)
        feeds = graphs.feeds(1)[0]
        name = next(n.output[0] for n in index.nodes if n.name == "left")
        shift = np.linspace(-1, 1, 32, dtype=np.float32).reshape(-1, 1, 1)
        found = stage.rest([name])({**feeds, f"{name}{ERROR}": shift})
        value = observer(index.model, [name])(feeds)[name]
        expected = from_there(index, name, value + shift, feeds)
        np.testing.assert_allclose(found["out"], expected["out"], rtol=1e-4, atol=1e-5)


def from_there(index: Graph, tensor: str, value: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    """The graph's outputs with a tensor replaced by this value."""
    if tensor in index.outputs:
        return {**observer(index.model, index.outputs)(feeds), tensor: value}
    model = type(index.model)()
    model.CopyFrom(index.model)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name == tensor:
                node.input[position] = "given"
    model.graph.input.append(graphs.helper.make_tensor_value_info("given", 1, list(value.shape)))
    return observer(model, index.outputs)({**feeds, "given": value})


class TestGroups:
    def test_what_leaves_an_attention_is_written_by_its_last_product(self) -> None:
        index = graphs.good("transformer")
        attention = next(g for g in groups(index) if g.kind == "attention")
        assert [n.name for n in outputs_of(index, attention)] == ["mix"]
        inner = [n.name for n in inner_nodes(index, attention)]
        assert inner[0] == "scores" and inner[-1] == "mix" and "softmax" in inner

    def test_query_key_and_value_each_leave_their_group(self) -> None:
        index = graphs.good("transformer")
        qkv = next(g for g in groups(index) if g.kind == "qkv")
        assert {n.name for n in outputs_of(index, qkv)} == {"query", "key", "value"}
