"""What rules can ask about a node: every word of the tables, on a graph where it is known."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from graphs import Net

from edge.graph import Graph
from edge.precision.facts import NUMBERS, TAGS, Facts, describe
from edge.precision.groups import groups


def facts(index: Graph) -> dict[str, Facts]:
    return describe(index, groups(index))


def tagged(index: Graph, tag: str) -> set[str]:
    return {name for name, found in facts(index).items() if tag in found.tags}


@pytest.fixture(scope="module")
def encoder() -> Graph:
    return graphs.graph(graphs.encoder())


RESIDUAL = {"stem", "left", "right", "branch", "merge", "head"}


class TestTags:
    @pytest.mark.parametrize(
        ("name", "tag", "nodes"),
        [
            ("residual", "product", RESIDUAL),
            ("residual", "weighted", RESIDUAL),
            ("residual", "activation-product", set()),
            ("residual", "first", {"stem"}),
            ("residual", "picture", {"stem"}),
            ("residual", "last", {"head"}),
            ("residual", "pointwise", {"branch", "head"}),
            ("residual", "square", RESIDUAL),
            ("residual", "residual", {"add"}),
            ("residual", "skip", {"add"}),
            ("residual", "activation",
             {"stem_relu", "left_relu", "add_relu", "branch_relu", "merge_relu", "sigmoid"}),
            ("depthwise_swish", "depthwise", {"depthwise"}),
            ("depthwise_swish", "grouped", {"depthwise"}),
            ("depthwise_swish", "swish", {"depthwise"}),
            ("transformer", "activation-product", {"scores", "mix"}),
            ("transformer", "qkv", {"query", "key", "value"}),
            ("transformer", "attention", {"scores", "scaled", "softmax", "mix"}),
            ("transformer", "projection", {"project"}),
            ("transformer", "softmax", {"softmax"}),
            ("transformer", "norm", {"norm"}),
            ("transformer", "vector", {"classes"}),
        ],
    )  # fmt: skip
    def test_each_is_given_where_it_belongs(self, name: str, tag: str, nodes: set[str]) -> None:
        assert tagged(graphs.good(name), tag) == nodes

    def test_an_mlp_is_its_matrices_and_what_lies_between(self, encoder: Graph) -> None:
        assert tagged(encoder, "mlp") == {f"b{b}.{n}" for b in (0, 1) for n in ("up", "relu", "down")}

    def test_the_words_are_those_of_the_table_and_all_of_them_can_be_had(self, encoder: Graph) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        x = net.op("Conv", x, net.weights("w", 32, 32, 1, 3), name="flat", pads=[0, 1, 0, 1])
        odd = graphs.graph(net.model(x))
        given = set()
        for index in (encoder, odd, *(graphs.good(name) for name in graphs.GOOD)):
            for found in facts(index).values():
                given |= found.tags
        assert given == set(TAGS)
        assert "flat" not in tagged(odd, "square")

    def test_of_two_branches_both_ends_are_last(self) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="relu")
        outs = [net.conv(x, name, (32, 8)) for name in ("a", "b")]
        index = graphs.graph(net.model(*outs, names=("out_a", "out_b")))
        assert tagged(index, "last") == {"a", "b"} and tagged(index, "first") == {"stem"}

    def test_a_product_reached_around_another_one_is_first_too(self) -> None:
        net = Net()
        x = net.op("Concat", "image", net.conv("image", "stem", (3, 29)), name="joined", axis=1)
        index = graphs.graph(net.model(net.conv(x, "second", (32, 8))))
        assert tagged(index, "first") == {"stem", "second"} and tagged(index, "picture") == {"stem", "joined"}


class TestNumbers:
    def test_of_convolutions(self) -> None:
        found = facts(graphs.good("depthwise_swish"))
        assert dict(found["stem"].numbers) | {"mac_share": 0} == {
            "in_channels": 3, "out_channels": 32, "narrow": 3, "wide": 32, "kernel": 9, "kernel_side": 3,
            "groups": 1, "layer": 0, "mac_share": 0,
        }  # fmt: skip
        deep = found["depthwise"].numbers
        assert (deep["in_channels"], deep["out_channels"], deep["groups"], deep["layer"]) == (32, 32, 32, 1)
        assert found["gate"].numbers == {}

    @pytest.mark.parametrize(
        ("name", "node", "rows", "depth", "columns"),
        [
            ("transformer", "query", 25, 32, 32),
            ("transformer", "classes", 1, 32, 10),
            ("classifier", "hidden", 16, 32, 64),
        ],
    )
    def test_of_matrices(self, name: str, node: str, rows: int, depth: int, columns: int) -> None:
        numbers = facts(graphs.good(name))[node].numbers
        assert (numbers["rows"], numbers["depth"], numbers["columns"]) == (rows, depth, columns)

    def test_of_attentions(self) -> None:
        index = Graph(graphs.prepare(graphs.attention(24, 40), None, (1, 40, 24)))
        for node in ("scores", "mix"):
            numbers = facts(index)[node].numbers
            assert (numbers["head"], numbers["sequence"]) == (24, 40)

    def test_shares_of_the_work_add_up_to_one(self) -> None:
        for name in graphs.GOOD:
            shares = [f.numbers.get("mac_share", 0.0) for f in facts(graphs.good(name)).values()]
            assert sum(shares) == pytest.approx(1)

    def test_layers_and_blocks_are_counted_from_0(self, encoder: Graph) -> None:
        found = facts(encoder)
        layers = [f.numbers["layer"] for f in found.values() if "layer" in f.numbers]
        assert layers == list(range(18))
        assert {n for n, f in found.items() if f.numbers.get("block") == 1} >= {
            "b1.key",
            "b1.softmax",
            "b1.down",
        }
        assert "block" not in found["patches"].numbers

    def test_the_words_are_those_of_the_table_and_all_of_them_can_be_had(self, encoder: Graph) -> None:
        given = {word for f in facts(encoder).values() for word in f.numbers}
        assert given == set(NUMBERS)


def test_every_node_has_facts() -> None:
    for name in graphs.GOOD:
        index = graphs.good(name)
        assert set(facts(index)) == {node.name for node in index.nodes}


def test_unknown_shapes_leave_numbers_out() -> None:
    found = facts(graphs.good("loop"))
    assert found["body"].numbers["in_channels"] == 32  # its weights are known
    assert all(np.isfinite(v) for f in found.values() for v in f.numbers.values())
