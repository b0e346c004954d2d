"""Mean and second moment of what products read, against plain loops."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edge.graph import Graph
from edge.precision.groups import is_weighted, products
from edge.precision.moments import LONGEST, Moments, depth, measure, merged, patches, places, portions
from edge.precision.sessions import observer, open_session


def moments_of(index: Graph, samples: list[dict[str, Any]]) -> dict[str, Moments]:
    nodes = [node for node in products(index) if is_weighted(index, node)]
    return measure(index, nodes, samples, len(samples))


class TestAgainstTheProduct:
    """A product is linear: its output's mean and power follow from the moments, whatever the padding."""

    @pytest.mark.parametrize("name", ["residual", "depthwise_swish", "transformer", "classifier"])
    def test_mean_and_power_of_what_is_written(self, name: str) -> None:
        index = graphs.good(name)
        samples = graphs.feeds(3)
        run = observer(index.model, [node.output[0] for node in products(index)])
        written = [run(feeds) for feeds in samples]
        found = moments_of(index, samples)
        for node in products(index):
            if not is_weighted(index, node):
                continue
            seen = found[node.name]
            rows = rows_of(index, node)
            values = np.concatenate([by_channel(node, w[node.output[0]]) for w in written], 1).astype(
                np.float64
            )
            values -= bias_of(index, node)
            groups = len(rows)
            mean = np.einsum("gok,gk->go", rows, seen.mean).reshape(-1)
            power = np.einsum("gok,gkl,gol->go", rows, seen.second, rows).reshape(-1)
            assert seen.mean.shape == (groups, rows.shape[2])
            np.testing.assert_allclose(mean, values.mean(1), rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(power, np.square(values).mean(1), rtol=1e-3, atol=1e-5)

    def test_centred_is_the_covariance(self) -> None:
        index = graphs.good("residual")
        seen = moments_of(index, graphs.feeds(3))["left"]
        values = np.linalg.eigvalsh(seen.centred)
        assert values.min() > -1e-6 * values.max()
        assert np.allclose(seen.centred, seen.centred.transpose(0, 2, 1))


def rows_of(index: Graph, node: onnx.NodeProto) -> Any:
    """Weights as groups × outputs × K, by hand."""
    w = np.asarray(index.constant(node.input[1]), np.float64)
    if node.op_type == "Conv":
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        return w.reshape(group, len(w) // group, -1)
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return (w if turned else w.T)[None]


def by_channel(node: onnx.NodeProto, value: Any) -> Any:
    moved = np.moveaxis(value, 1 if node.op_type == "Conv" else -1, 0)
    return moved.reshape(len(moved), -1)


def bias_of(index: Graph, node: onnx.NodeProto) -> Any:
    bias = index.constant(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    assert bias is not None
    return bias.reshape(-1, 1)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(5, 11), st.integers(5, 11)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["0", "1", "uneven", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    seed=st.integers(0, 1000),
)
def test_patches_are_what_a_convolution_multiplies(
    size: Any, kernel: Any, strides: Any, dilations: Any, padding: str, seed: int
) -> None:
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations}
    if padding.isdigit():
        attributes["pads"] = [int(padding)] * 4
    elif padding == "uneven":
        attributes["pads"] = [0, 1, 2, 1]
    else:
        attributes["auto_pad"] = padding
        if dilations != (1, 1) and padding.startswith("SAME"):
            attributes["dilations"] = (1, 1)
    random = np.random.default_rng(seed)
    picture = random.normal(0, 1, (3, *size)).astype(np.float32)
    w = random.normal(0, 1, (4, 3, *kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, attributes["dilations"], strict=True)]
    if any(r > s for r, s in zip(reach, size, strict=True)):
        return
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", 1, [1, 3, *size])],
        [helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    expected = open_session(model).run(None, {"x": picture[None]})[0][0].reshape(4, -1)
    found = patches(picture, node, w.shape, 10**6, 0)
    np.testing.assert_allclose(
        w.reshape(4, -1) @ found.reshape(w[0].size, -1), expected, rtol=1e-4, atol=1e-4
    )


class TestPlaces:
    @given(st.integers(1, 10**6), st.integers(1, 5000), st.integers(0, 100))
    def test_they_are_within_and_evenly_spread(self, count: int, wanted: int, index: int) -> None:
        found = places(count, wanted, index)
        assert len(found) == min(count, wanted)
        assert found[0] >= 0 and found[-1] < count
        assert len(set(found.tolist())) == len(found)
        if len(found) > 1:
            gaps = np.diff(found)
            assert gaps.max() - gaps.min() <= 1

    def test_they_differ_from_sample_to_sample(self) -> None:
        assert places(1000, 10, 0).tolist() != places(1000, 10, 1).tolist()


class TestPortions:
    def test_every_bundle_is_in_one_portion_and_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        index = graphs.good("residual")
        bundles = [[node] for node in products(index)]
        monkeypatch.setattr("edge.precision.moments.BUDGET", 8 * (32 * 9) ** 2 + 1)
        found = portions(index, bundles)
        assert [b for portion in found for b in portion] == bundles
        assert len(found) > 2
        for portion in found:
            sizes = [8 * g * k * k for g, k in (depth(index, b[0]) for b in portion)]
            assert sum(sizes) <= 8 * (32 * 9) ** 2 + 1 or len(portion) == 1

    def test_dot_products_that_are_too_long_are_left_out(self) -> None:
        net = graphs.Net(shape=(1, 1, 4, LONGEST + 32))
        x = net.op("MatMul", "image", net.weights("w", LONGEST + 32, 16), name="long")
        index = Graph(graphs.prepare(net.model(x), None, (1, 4, LONGEST + 32)))
        assert portions(index, [[node] for node in products(index)]) == []

    def test_moments_of_shared_weights_are_those_of_all_readers(self) -> None:
        random = np.random.default_rng(0)
        a, b = random.normal(0, 1, (10, 4)), random.normal(3, 2, (30, 4))

        def of(x: Any) -> Moments:
            return Moments(len(x), x.mean(0)[None], (x.T @ x / len(x))[None])

        together, expected = merged([of(a), of(b)]), of(np.concatenate([a, b]))
        assert together.count == 40
        np.testing.assert_allclose(together.mean, expected.mean)
        np.testing.assert_allclose(together.second, expected.second)
