"""Weights whose rounding errors cancel: better than rounded ones on data they were not fitted to."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from edge.graph import Graph
from edge.precision import numerics
from edge.precision.moments import Moments
from edge.precision.weights import (
    FACTORS,
    InputNoise,
    compensate,
    from_rows,
    mean_shift,
    round_weight,
    search_scales,
    to_rows,
)
from edge.targets import TARGETS

Doubles = NDArray[np.float64]
ORIN = TARGETS["orin"]


def node(op: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, ["x", "w"], ["y"], name="product", **attributes)


def correlated(count: int, depth: int, seed: int, mean: float = 1.0) -> Doubles:
    """Vectors whose elements share a few causes, as neighbouring pixels and channels do."""
    causes = np.random.default_rng(99).normal(0, 1, (6, depth))
    random = np.random.default_rng(seed)
    return np.asarray(random.normal(0, 1, (count, 6)) @ causes + random.normal(mean, 0.2, (count, depth)))


def moments(x: Doubles) -> Moments:
    return Moments(len(x), x.mean(0)[None], (x.T @ x / len(x))[None])


def left(x: Doubles, value: Any, stored: Any, shift: Any = 0.0) -> float:
    """Mean squared error of the output that stored weights leave."""
    return float(np.square(x @ (stored - value) + shift).mean())


PRECISIONS = ("int8", "fp8", "w8a16", "w4a16")


class TestCompensation:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_errors_cancel_on_other_data(self, precision: str) -> None:
        w = np.random.default_rng(0).normal(0, 1, (64, 24)).astype(np.float32)
        fitted, other = correlated(4000, 64, seed=1), correlated(4000, 64, seed=2)
        rounded = round_weight(node("MatMul"), w, precision, ORIN).dequantized()
        found = compensate(node("MatMul"), w, precision, moments(fitted), has_bias=False)
        assert left(other, w, found.dequantized()) < 0.5 * left(other, w, rounded)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_a_bias_restores_the_mean(self, precision: str) -> None:
        w = np.random.default_rng(0).normal(0, 1, (64, 24)).astype(np.float32)
        fitted, other = (correlated(4000, 64, seed, mean=2.0) for seed in (1, 2))
        seen = moments(fitted)
        found = compensate(node("MatMul"), w, precision, seen)
        shift = mean_shift(node("MatMul"), w, found, seen)
        before = fitted @ (found.dequantized() - w)
        assert np.abs(before.mean(0) + shift).max() < 1e-4 * np.abs(fitted @ w).mean()
        stored = found.dequantized()
        assert left(other, w, stored, shift) < left(other, w, stored)
        without = compensate(node("MatMul"), w, precision, seen, has_bias=False).dequantized()
        assert left(other, w, stored, shift) < 1.1 * left(other, w, without)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_independent_inputs_are_no_worse_off_than_rounded_one_by_one(self, precision: str) -> None:
        w = np.random.default_rng(0).normal(0, 1, (64, 24)).astype(np.float32)
        x = np.random.default_rng(5).normal(0, 1, (8000, 64))
        rounded = round_weight(node("MatMul"), w, precision, ORIN).dequantized()
        found = compensate(node("MatMul"), w, precision, moments(x), has_bias=False).dequantized()
        assert left(x, w, found) < 1.05 * left(x, w, rounded)

    def test_what_noise_covers_is_not_relied_upon(self) -> None:
        """Two inputs that are nearly equal, but for a difference that their own rounding hides."""
        random = np.random.default_rng(0)
        base = random.normal(0, 1, (4000, 32))
        x = np.concatenate([base, base + random.normal(0, 1e-3, base.shape)], 1)
        w = random.normal(0, 1, (64, 8)).astype(np.float32)
        noisy = x + random.normal(0, 0.05, x.shape)
        blind = compensate(node("MatMul"), w, "int8", moments(x), has_bias=False)
        aware = compensate(
            node("MatMul"), w, "int8", moments(x), InputNoise(absolute=0.05**2), has_bias=False
        )
        assert left(noisy, w, aware.dequantized()) < left(noisy, w, blind.dequantized()) * 1.02

    def test_an_input_that_never_varied_and_few_vectors_give_finite_weights(self) -> None:
        x = correlated(5, 64, seed=1)
        x[:, 7] = 0
        x[:, 9] = 3
        w = np.random.default_rng(0).normal(0, 1, (64, 8)).astype(np.float32)
        for precision in PRECISIONS:
            found = compensate(node("MatMul"), w, precision, moments(x))
            assert np.isfinite(found.dequantized()).all()
            error = np.abs(found.dequantized() - w)
            assert error.max() < 1.0  # no weight wanders off

    def test_the_same_data_give_the_same_weights(self) -> None:
        w = np.random.default_rng(0).normal(0, 1, (200, 24)).astype(np.float32)
        x = correlated(4000, 200, seed=1)
        first, second = (compensate(node("MatMul"), w, "int8", moments(x)) for _ in range(2))
        assert np.array_equal(first.values, second.values) and np.array_equal(first.scales, second.scales)

    def test_panels_are_an_optimisation_and_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        w = np.random.default_rng(0).normal(0, 1, (200, 12)).astype(np.float32)
        x = correlated(4000, 200, seed=1)
        found = compensate(node("MatMul"), w, "int8", moments(x))
        monkeypatch.setattr("edge.precision.weights.PANEL", 1)
        one_by_one = compensate(node("MatMul"), w, "int8", moments(x))
        assert np.mean(found.values != one_by_one.values) < 1e-3  # sums in another order

    @pytest.mark.parametrize("zero", ["channel", "all"])
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_dead_channels_stay_zero(self, precision: str, zero: str) -> None:
        w = np.random.default_rng(0).normal(0, 1, (64, 8)).astype(np.float32)
        w[:, 3 if zero == "channel" else slice(None)] = 0
        found = compensate(node("MatMul"), w, precision, moments(correlated(4000, 64, seed=1)))
        assert not found.dequantized()[:, 3].any()
        assert (found.scales > 0).all()


class TestConvolutions:
    @pytest.mark.parametrize("group", [1, 4, 16])
    @pytest.mark.parametrize("precision", ["int8", "fp8", "w8a16"])
    def test_errors_cancel_group_by_group(self, precision: str, group: int) -> None:
        w = np.random.default_rng(0).normal(0, 1, (32, 16 // group, 3, 3)).astype(np.float32)
        depth = 9 * 16 // group
        fitted, other = (
            np.stack([correlated(3000, depth, seed + g) for g in range(group)]) for seed in (10, 50)
        )
        seen = Moments(3000, fitted.mean(1), fitted.transpose(0, 2, 1) @ fitted / 3000)
        conv = node("Conv", group=group)
        found = compensate(conv, w, precision, seen, has_bias=False)
        assert found.axis == 0 and found.scales.shape == (32,) and found.values.shape == w.shape

        def error(stored: Any) -> float:
            return float(np.square(other @ to_rows(conv, stored - w).transpose(0, 2, 1)).mean())

        rounded = round_weight(conv, w, precision, ORIN).dequantized()
        assert error(found.dequantized()) < 0.7 * error(rounded)


class TestRows:
    @given(st.sampled_from(["Conv", "Conv 4", "MatMul", "Gemm", "Gemm t"]), st.integers(0, 99))
    def test_there_and_back(self, kind: str, seed: int) -> None:
        op = kind.split()[0]
        shape = (8, 4, 3, 3) if op == "Conv" else (12, 20)
        made = node(
            op, **({"group": 4} if kind == "Conv 4" else {}), **({"transB": 1} if kind == "Gemm t" else {})
        )
        w = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
        assert np.array_equal(from_rows(made, to_rows(made, w), shape), w)


class TestScales:
    @settings(max_examples=30)
    @given(st.integers(0, 10**6), st.sampled_from(["int8", "fp8", "int4"]))
    def test_no_candidate_has_less_error(self, seed: int, kind: Any) -> None:
        random = np.random.default_rng(seed)
        rows = (random.normal(0, 1, (1, 5, 32)) ** 3).astype(np.float32)
        importance = random.uniform(0.1, 2, (1, 32))
        found = search_scales(rows, importance, kind)

        def error(scale: Any) -> Doubles:
            stored = numerics.quantize_weight(rows, scale, kind).astype(np.float64)
            return np.asarray((np.square(stored * np.float64(scale) - rows) * importance).sum(2))

        chosen = error(found)
        for factor in FACTORS[kind]:
            peak = np.abs(rows).max(2, keepdims=True)
            scale = numerics.round_bf16(peak * np.float32(factor / numerics.QMAX[kind]))
            assert (chosen <= error(scale) * (1 + 1e-5) + 1e-12).all()
        assert np.array_equal(numerics.round_bf16(found), found)

    def test_an_outlier_without_importance_is_clipped(self) -> None:
        rows = np.full((1, 1, 64), 0.4, np.float32)
        rows[0, 0] = np.linspace(-1, 1, 64)
        rows[0, 0, 5] = 1.8
        importance = np.ones((1, 64))
        importance[0, 5] = 1e-9
        assert search_scales(rows, importance, "int4")[0, 0, 0] < 0.75 * 1.8 / 7

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("peak", [1e-40, 1e-37, 1e37])
    def test_weights_next_to_nothing_and_huge_ones_have_a_scale(self, peak: float, precision: str) -> None:
        w = np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype(np.float32)
        w[:, 2] = (w[:, 2].astype(np.float64) * peak).astype(np.float32)
        for found in (
            round_weight(node("MatMul"), w, precision, ORIN),
            compensate(node("MatMul"), w, precision, moments(correlated(500, 64, seed=1))),
        ):
            assert (found.scales >= numerics.TINIEST).all()
            assert np.isfinite(found.dequantized()).all()
            assert np.abs(found.dequantized() - w)[:, 2].max() <= 0.3 * np.abs(w[:, 2]).max() + 1e-36


def test_what_is_stored_is_what_is_dequantized() -> None:
    index: Graph = graphs.good("classifier")
    hidden = next(n for n in index.nodes if n.name == "hidden")
    w = index.constant(hidden.input[1])
    assert w is not None
    found = round_weight(hidden, w, "w4a16", ORIN)
    assert (found.axis, found.block) == (1, 32)
    assert found.scales.shape == (64, 1)
    assert np.array_equal(found.dequantized(), found.values.astype(np.float32) * found.scales)
