"""What a compiler runs as one: convolutions with activations, query–key–value, attention, MLPs, skips."""

from __future__ import annotations

from collections.abc import Callable

import graphs
import numpy as np
import pytest
from graphs import Net

from edge.graph import Graph
from edge.precision.groups import Group, fused_into, groups, operands, products, skip_of


def by_name(index: Graph) -> dict[str, Group]:
    return {group.name: group for group in groups(index)}


@pytest.mark.parametrize("name", [*graphs.GOOD, "loop", "encoder"])
def test_every_product_belongs_to_exactly_one_group(name: str) -> None:
    index = graphs.graph(graphs.encoder()) if name == "encoder" else graphs.good(name)
    found = groups(index)
    claimed = [product for group in found if group.kind != "skip" for product in group.products]
    assert sorted(claimed) == sorted(node.name for node in products(index))
    order = [node.name for node in index.nodes]
    assert [g.name for g in found] == sorted((g.name for g in found), key=order.index)
    for group in found:
        assert group.name == group.products[0] and set(group.products) <= group.nodes


class TestConvolutions:
    @pytest.mark.parametrize(
        ("op", "attributes"),
        [("Relu", {}), ("LeakyRelu", {"alpha": 0.1}), ("Sigmoid", {}), ("Elu", {}), ("Tanh", {})],
    )
    def test_the_activation_behind_one_belongs_to_it(self, op: str, attributes: dict[str, float]) -> None:
        net = Net()
        x = net.op(op, net.conv("image", "conv", (3, 32)), name="activation", **attributes)
        index = graphs.graph(net.model(net.conv(x, "last", (32, 8))))
        assert by_name(index)["conv"].nodes == {"conv", "activation"}
        assert by_name(index)["last"].nodes == {"last"}

    def test_both_parts_of_a_swish_do(self) -> None:
        assert by_name(graphs.good("depthwise_swish"))["depthwise"].nodes == {"depthwise", "gate", "swish"}

    def test_what_reads_another_tensor_too_does_not(self) -> None:
        assert "add" not in by_name(graphs.good("residual"))["right"].nodes


class TestSkips:
    def test_the_add_that_a_convolution_is_fused_into_is_one(self) -> None:
        index = graphs.good("residual")
        skip = by_name(index)["add"]
        assert (skip.kind, skip.products) == ("skip", ("add",))
        add = next(node for node in index.nodes if node.name == "add")
        assert skip_of(index, add) == "stem_relu.out" and operands(index, add) == ("stem_relu.out",)
        assert fused_into(index, add) == "right"

    def test_of_two_convolutions_the_later_one_is_fused(self) -> None:
        net = Net()
        a, b = net.conv("image", "a", (3, 32)), net.conv("image", "b", (3, 32))
        index = graphs.graph(net.model(net.op("Relu", net.op("Add", a, b, name="add"), name="relu")))
        add = next(node for node in index.nodes if node.name == "add")
        assert {fused_into(index, add), skip_of(index, add)} == {"b", "a.out"}

    def others(name: str) -> Callable[[Net, str], str]:  # type: ignore[misc]
        def write(net: Net, x: str) -> str:
            y = net.conv(x, "conv", (32, 32))
            if name == "a constant":
                return net.op("Add", net.op("Relu", y, name="r"), net.constant("one", 1.0), name="add")
            if name == "itself":
                return net.op("Add", y, y, name="add")
            if name == "a convolution that others read":
                return net.op("Mul", net.op("Add", y, x, name="add"), y, name="mul")
            if name == "another shape":
                return net.op("Add", y, net.op("GlobalAveragePool", x, name="pool"), name="add")
            return net.op("Add", net.op("Relu", y, name="r"), x, name="add")  # an activation between

        return write

    @pytest.mark.parametrize(
        "name",
        ["a constant", "itself", "a convolution that others read", "another shape", "an activation between"],
    )
    def test_others_are_none(self, name: str) -> None:
        net = Net()
        x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
        x = TestSkips.others(name)(net, x)  # type: ignore[arg-type]
        index = graphs.graph(net.model(net.op("Sigmoid", x, name="sigmoid")))
        assert "add" not in by_name(index)


class TestTransformers:
    def test_query_key_and_value_are_one_and_so_is_attention_and_the_mlp(self) -> None:
        found = by_name(graphs.graph(graphs.encoder()))
        kinds = {name: (group.kind, set(group.products)) for name, group in found.items()}
        for b in ("b0", "b1"):
            assert kinds[f"{b}.key"] == ("qkv", {f"{b}.{p}" for p in ("query", "key", "value")})
            assert kinds[f"{b}.scores"] == ("attention", {f"{b}.scores", f"{b}.mix"})
            assert kinds[f"{b}.project"] == ("matrix", {f"{b}.project"})
            assert kinds[f"{b}.up"] == ("mlp", {f"{b}.up", f"{b}.down"})
        assert {f"b0.{n}" for n in ("scores", "scaled", "softmax", "mix")} == found["b0.scores"].nodes
        assert "b0.relu" in found["b0.up"].nodes

    def test_blocks_are_counted_by_attentions(self) -> None:
        found = by_name(graphs.graph(graphs.encoder(3)))
        assert found["patches"].block is None
        for b in range(3):
            assert {found[f"b{b}.{n}"].block for n in ("key", "scores", "project", "up")} == {b}

    def test_a_network_without_attention_has_no_blocks(self) -> None:
        assert {group.block for group in groups(graphs.good("residual"))} == {None}

    def test_a_softmax_over_classes_is_no_attention(self) -> None:
        net = Net(shape=(1, 1, 16, 32))
        x = net.op("MatMul", "image", net.weights("w", 32, 16), name="classes")
        index = Graph(graphs.prepare(net.model(net.op("Softmax", x, name="softmax")), None, (1, 16, 32)))
        assert [group.kind for group in groups(index)] == ["matrix"]

    def test_one_matrix_makes_query_key_and_value_together(self) -> None:
        net = Net(shape=(1, 1, 16, 32))
        qkv = net.op("MatMul", "image", net.weights("w", 32, 96), name="qkv")
        sizes = net.constant("sizes", [32, 32, 32], np.int64)
        parts = [f"part{i}" for i in range(3)]
        net.nodes.append(graphs.helper.make_node("Split", [qkv, sizes], parts, name="split", axis=-1))
        turned = net.op("Transpose", parts[1], name="turned", perm=[0, 1, 3, 2])
        scores = net.op("MatMul", parts[0], turned, name="scores")
        mixed = net.op("MatMul", net.op("Softmax", scores, name="softmax"), parts[2], name="mix")
        index = Graph(graphs.prepare(net.model(mixed), None, (1, 16, 32)))
        assert {name: group.kind for name, group in by_name(index).items()} == {
            "qkv": "qkv",
            "scores": "attention",
        }

    def test_a_mask_is_not_taken_for_a_product(self) -> None:
        net = Net(shape=(1, 1, 16, 32))
        q, k, v = (net.op("MatMul", "image", net.weights(n, 32, 32), name=n) for n in ("q", "k", "v"))
        turned = net.op("Transpose", k, name="turned", perm=[0, 1, 3, 2])
        scores = net.op("MatMul", q, turned, name="scores")
        mask = net.constant("mask", np.triu(np.full((16, 16), -1e4), 1))
        masked = net.op("Add", mask, scores, name="masked")
        mixed = net.op("MatMul", net.op("Softmax", masked, name="softmax"), v, name="mix")
        index = Graph(graphs.prepare(net.model(mixed), None, (1, 16, 32)))
        assert by_name(index)["scores"].nodes >= {"scores", "masked", "softmax", "mix"}


class TestMlps:
    def matrices(self, between: Callable[[Net, str], str]) -> Graph:
        net = Net(shape=(1, 1, 16, 32))
        x = between(net, net.op("MatMul", "image", net.weights("w1", 32, 64), name="up"))
        x = net.op("MatMul", x, net.weights("w2", 64, 32), name="down")
        return Graph(graphs.prepare(net.model(x), None, (1, 16, 32)))

    def test_a_gelu_in_parts_lies_between(self) -> None:
        def gelu(net: Net, x: str) -> str:
            erf = net.op("Erf", net.op("Div", x, net.constant("root", 2**0.5), name="d"), name="erf")
            half = net.op("Mul", x, net.constant("half", 0.5), name="h")
            return net.op("Mul", half, net.op("Add", erf, net.constant("one", 1.0), name="plus"), name="gelu")

        assert by_name(self.matrices(gelu))["up"].products == ("up", "down")

    def test_two_matrices_with_nothing_between_are_two(self) -> None:
        found = by_name(self.matrices(lambda net, x: x))
        assert {g.kind for g in found.values()} == {"matrix"} and len(found) == 2

    def test_what_somebody_else_reads_splits_them(self) -> None:
        net = Net(shape=(1, 1, 16, 32))
        up = net.op("Relu", net.op("MatMul", "image", net.weights("w1", 32, 64), name="up"), name="relu")
        down = net.op("MatMul", up, net.weights("w2", 64, 32), name="down")
        other = net.op("MatMul", up, net.weights("w3", 64, 32), name="other")
        index = Graph(graphs.prepare(net.model(down, other, names=("a", "b")), None, (1, 16, 32)))
        assert {g.kind for g in groups(index)} == {"matrix"}
