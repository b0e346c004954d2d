"""Weights fitted to what they meet: each once, whoever asks, and the same whatever is asked for beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import graphs
import numpy as np
import pytest
from graphs import Net

from edge.graph import Graph
from edge.precision.fitting import Fitting
from edge.precision.groups import products


class Heard:
    """Counts how often samples are run through, and what is said."""

    def __init__(self, index: Graph, scale: float = 1.0) -> None:
        self.runs, self.said = 0, set[str]()
        self.samples = graphs.feeds(6, seed=3)
        self.scale = np.float32(scale)
        calibration = graphs.calibrated(index)
        self.fitting = Fitting(index, calibration, self.feeds, len(self.samples), self.say)

    def feeds(self) -> Iterator[Mapping[str, Any]]:
        self.runs += 1
        yield from ({"image": sample["image"] * self.scale} for sample in self.samples)

    def say(self, text: str, done: int, total: int) -> None:
        self.said.add(text)


def names(index: Graph) -> list[str]:
    return [node.name for node in products(index)]


@pytest.mark.parametrize("precision", ["int8", "fp8", "w8a16"])
def test_weights_are_fitted_once(precision: str) -> None:
    index = graphs.good("residual")
    heard = Heard(index)
    first = heard.fitting.weights(precision, names(index))
    assert {key[0] for key in first.weights} == {f"{name}.weight" for name in names(index)}
    assert {name for name, _ in first.biases} == {*names(index)}
    assert heard.runs == 1 and heard.said == {"what weights meet", f"weights in {precision}"}
    again = heard.fitting.weights(precision, names(index)[:2])
    assert heard.runs == 1 and all(again.weights[key] is first.weights[key] for key in first.weights)


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_weights_do_not_depend_on_what_else_is_asked_for(name: str) -> None:
    index = graphs.good(name)
    together, apart = Heard(index).fitting, Heard(index).fitting
    every = together.weights("int8", names(index))
    for product in names(index)[::-1]:
        apart.weights("int8", [product])
    one_by_one = apart.weights("int8", [])
    assert {*every.weights} == {*one_by_one.weights}
    for key, weight in every.weights.items():
        assert np.array_equal(weight.values, one_by_one.weights[key].values)
        assert np.array_equal(weight.scales, one_by_one.weights[key].scales)


def odd(name: str) -> Graph:
    net = Net()
    x = net.op("Relu", net.conv("image", "stem", (3, 32)), name="stem_relu")
    if name == "a stack of matrices":
        return graphs.graph(net.model(net.op("MatMul", x, net.weights("odd", 32, 32, 32), name="odd")))
    x = net.op("Mul", x, net.constant("zero", np.zeros((1, 32, 1, 1))), name="dead")
    return graphs.graph(net.model(net.op("Conv", x, net.weights("odd", 32, 32, 1, 1), name="odd")))


@pytest.mark.parametrize("name", ["a stack of matrices", "a dead input"])
def test_what_cannot_be_fitted_is_left_out(name: str) -> None:
    index = odd(name)
    found = Heard(index).fitting.weights("int8", names(index))
    assert "odd" in names(index) and {key[0] for key in found.weights} == {"stem.weight"}


def test_inputs_too_large_to_be_squared_are_left_out() -> None:
    index = graphs.good("residual")
    fitting = Heard(index, scale=1e25).fitting
    assert not fitting.weights("int8", names(index)).weights
    assert not fitting.offsets._seen


def test_moments_serve_offsets_too() -> None:
    index = graphs.good("residual")
    heard = Heard(index)
    heard.fitting.weights("w8a16", names(index))
    assert {*heard.fitting.offsets._seen} == {*names(index)}
