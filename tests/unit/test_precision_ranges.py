"""Clipping thresholds: what each method proposes, and which of them loses least."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.precision import numerics
from edge.precision.histogram import Histogram
from edge.precision.numerics import QuantType
from edge.precision.ranges import ALIKE, NARROWEST, Candidate, _Seen, candidates, choose, relative_noise

KINDS: tuple[QuantType, ...] = ("int8", "fp8")
Values = NDArray[np.float32]


def histogram(x: Values) -> Histogram:
    h = Histogram()
    h.add(x)
    return h


def normal(count: int = 100_000, scale: float = 1.0, seed: int = 0) -> Values:
    return np.random.default_rng(seed).normal(0, scale, count).astype(np.float32)


def laplace(count: int = 100_000) -> Values:
    return np.random.default_rng(0).laplace(0, 1, count).astype(np.float32)


def error(x: Values, kind: QuantType, threshold: float) -> float:
    """Mean squared rounding error, measured on the values themselves in float64."""
    scale = np.float32(threshold / numerics.QMAX[kind])
    return float(np.square(numerics.fake_quantize(x, scale, kind).astype(np.float64) - x).mean())


def by_method(x: Values, kind: QuantType) -> dict[str, float]:
    return {c.method: c.threshold for c in candidates(histogram(x), kind)}


def entropy(x: Values, kind: QuantType) -> float:
    seen = _Seen(histogram(x))
    return seen.least(seen.divergence(kind))


class TestMethods:
    @pytest.mark.parametrize("kind", KINDS)
    def test_max_is_the_largest_magnitude(self, kind: QuantType) -> None:
        x = normal()
        assert by_method(x, kind)["max"] == np.abs(x).max()
        x[17] = -9
        assert by_method(x, kind)["max"] == 9

    def test_percentiles_are_of_the_magnitudes(self) -> None:
        x = np.append(laplace(1_000_000), np.float32([40, 60]))
        found = by_method(x, "int8")
        for percent in (99.9, 99.99):
            assert found[f"percentile {percent:g}"] == pytest.approx(
                np.percentile(np.abs(x), percent), rel=0.02
            )

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("draw", [normal, laplace])
    def test_mse_is_the_threshold_with_the_least_squared_error(self, draw: object, kind: QuantType) -> None:
        x: Values = draw()  # type: ignore[operator]
        r = choose(histogram(x))
        threshold = r.int8 if kind == "int8" else r.fp8
        peak = float(np.abs(x).max())
        best = min(error(x, kind, t) for t in peak * np.geomspace(2 if kind == "fp8" else 1, NARROWEST, 200))
        assert error(x, kind, threshold) <= 1.03 * best

    def test_entropy_gives_up_a_few_outliers_for_the_rest(self) -> None:
        x = np.append(normal(), np.float32([60, -50]))
        assert 3 < entropy(x, "int8") < 6

    @pytest.mark.parametrize("kind", KINDS)
    def test_entropy_of_a_flat_distribution_keeps_all_of_it(self, kind: QuantType) -> None:
        """What is clipped piles up at the ends, where there was no pile."""
        x = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
        assert entropy(x, kind) > 0.9

    def test_entropy_does_not_mind_how_many_zeros_there_are(self) -> None:
        some = np.maximum(normal(), 0)
        many = np.append(some, np.zeros(10**6, np.float32))
        assert entropy(some, "int8") == entropy(many, "int8")

    def test_fp8_needs_less_clipping_than_int8(self) -> None:
        """A floating type's steps shrink with the values, so it can afford the tail."""
        x = np.append(laplace(), np.float32(60))
        r = choose(histogram(x))
        assert r.fp8 > 1.2 * r.int8

    def test_fp8_scales_are_chosen_for_its_own_spacing(self) -> None:
        """Just below a power of two its steps are the smallest part of a value."""
        x = (1.9 + np.random.default_rng(0).uniform(0, 0.2, 50_000)).astype(np.float32)
        threshold = choose(histogram(x)).fp8
        assert error(x, "fp8", threshold) < 0.9 * error(x, "fp8", float(x.max()))
        assert float(x.max()) < threshold < 2 * float(x.max())  # nothing is clipped for it


class TestCandidates:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.sampled_from(KINDS), st.floats(1e-10, 1e10))
    def test_they_are_apart_and_within_what_was_seen(self, seed: int, kind: QuantType, scale: float) -> None:
        x = (np.random.default_rng(seed).standard_t(2, 3000) * scale).astype(np.float32)
        found = candidates(histogram(x), kind)
        peak = float(np.abs(x).max())
        thresholds = [c.threshold for c in found]
        assert thresholds == sorted(thresholds, reverse=True)
        assert "max" in [c.method for c in found] or kind == "fp8"
        assert thresholds[0] >= peak and thresholds[-1] >= peak * NARROWEST * (1 - 1e-6)
        assert thresholds[0] < (2 * peak if kind == "fp8" else peak * (1 + 1e-9))
        for i, a in enumerate(thresholds):
            assert all(b / a - 1 > ALIKE for b in thresholds[:i])

    def test_a_constant_has_one(self) -> None:
        assert candidates(histogram(np.full(9, 3, np.float32)), "int8")[0] == Candidate("max", 3.0)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_tensor_of_zeros_has_none(self, kind: QuantType) -> None:
        assert candidates(histogram(np.zeros(9, np.float32)), kind) == ()


class TestNoise:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_the_error_over_the_power(self, kind: QuantType) -> None:
        x = normal()
        for threshold in (1.0, 3.0, 4.5):
            expected = error(x, kind, threshold) / float(np.square(x, dtype=np.float64).mean())
            assert relative_noise(histogram(x), kind, threshold) == pytest.approx(expected, rel=0.05)

    def test_a_tensor_of_zeros_has_none(self) -> None:
        assert relative_noise(histogram(np.zeros(3, np.float32)), "int8", 1.0) == 0


class TestAsymmetric:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10**6), st.floats(-5, 5))
    def test_it_holds_zero_and_lies_within_what_was_seen(self, seed: int, shift: float) -> None:
        x = (np.random.default_rng(seed).normal(0, 1, 2000) + shift).astype(np.float32)
        low, high = choose(histogram(x)).u8
        assert min(float(x.min()), 0.0) <= low <= 0 <= high <= max(float(x.max()), 0.0)

    def test_after_relu_it_has_twice_the_levels_of_the_symmetric_one(self) -> None:
        x = np.maximum(normal(), 0)
        r = choose(histogram(x))
        assert r.u8[0] == 0
        assert r.u8[1] / 255 < 0.62 * r.int8 / 127


def test_the_same_counts_give_the_same_choice() -> None:
    x = laplace()
    assert choose(histogram(x)) == choose(histogram(x[::-1]))
    assert candidates(histogram(x), "fp8") == candidates(histogram(x[::-1]), "fp8")
