"""Counts in bounded memory; that order and grouping do not matter is in test_precision_calibrate.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.precision.histogram import BINS, CHUNK, SMALLEST_EDGE, Histogram


def histogram(*parts: NDArray[np.float32]) -> Histogram:
    h = Histogram()
    for part in parts:
        h.add(part)
    return h


def normal(count: int, scale: float = 1.0) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, scale, count).astype(np.float32)


def test_at_least_half_of_the_bins_lie_within_what_was_seen() -> None:
    for peak in (1e-6, 0.3, 1.0, 1.5, 250.0):
        h = histogram(np.array([-peak, peak / 3], np.float32))
        inside = np.abs(h.centers) <= h.peak
        assert inside.sum() >= BINS  # of 2 · BINS
        assert h.peak == np.float32(peak)


def test_there_are_bins_enough_for_what_the_types_tell_apart() -> None:
    assert BINS >= 2048


def test_more_values_than_a_chunk_are_all_counted() -> None:
    x = normal(3 * CHUNK + 17)
    assert histogram(x).counts.sum() == x.size
    assert histogram(x) == histogram(*np.array_split(x, 7))


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_an_empty_tensor_changes_nothing(shape: tuple[int, ...]) -> None:
    h = histogram(np.zeros(shape, np.float32))
    assert h == Histogram() and h.counts.sum() == 0


@pytest.mark.parametrize("shape", [(4, 5), (2, 2, 5), ()])
def test_shape_does_not_matter(shape: tuple[int, ...]) -> None:
    x = normal(int(np.prod(shape)))
    assert histogram(x.reshape(shape)) == histogram(x)


def test_a_tensor_that_is_not_contiguous_is_counted_as_it_is() -> None:
    x = normal(600).reshape(20, 30)
    assert histogram(x.T) == histogram(x) and histogram(x[::2]) == histogram(x[::2].copy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_nan_and_infinity_are_refused_wherever_they_are(bad: float, place: int) -> None:
    x = normal(2 * CHUNK)
    x[place] = bad
    with pytest.raises(FloatingPointError):
        histogram(x)


def test_an_outlier_takes_no_resolution_but_by_its_size() -> None:
    """It doubles the edge until it is inside; each doubling halves what is told apart."""
    x = normal(5000)
    before, after = histogram(x), histogram(x, np.array([1000.0], np.float32))
    assert after.exponent == 10 and before.exponent <= 3
    assert after.counts.sum() == x.size + 1
    assert np.count_nonzero(after.counts) > 20


def test_zeros_alone_keep_the_smallest_edge() -> None:
    h = histogram(np.zeros(7, np.float32))
    assert (h.exponent, h.low, h.high, h.peak) == (SMALLEST_EDGE, 0, 0, 0)


def test_the_extremes_are_exact_and_the_counts_add_up_over_parts() -> None:
    a, b = normal(1000), normal(1000, 50)
    whole = histogram(a, b)
    assert (whole.low, whole.high) == (min(a.min(), b.min()), max(a.max(), b.max()))
    assert whole.counts.sum() == 2000


def test_what_was_counted_before_goes_on_counting() -> None:
    a, b = normal(1000), normal(1000, 9)
    first = histogram(a)
    again = Histogram.of(first.exponent, first.counts.copy(), first.low, first.high)
    again.add(b)
    assert again == histogram(a, b)
    assert again != first and first.__eq__("something else") is NotImplemented
