"""Percentiles of any number of durations, in a fixed amount of memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.stream.metrics import STAGES, Histogram, StageTimes

durations = st.floats(min_value=1e-5, max_value=1e3, allow_nan=False)


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_two_percent_of_the_exact_one(values: list[float], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = np.quantile(values, q, method="inverted_cdf")
    assert histogram.percentile(q) == pytest.approx(exact, rel=0.02)


def test_count_mean_and_maximum_are_exact() -> None:
    histogram = Histogram()
    for value in (0.5, 0.25, 1.25):
        histogram.add(value)
    assert (histogram.count, histogram.maximum) == (3, 1.25)
    assert histogram.mean == pytest.approx(2 / 3)


def test_nothing_added_reads_as_zero() -> None:
    assert Histogram().percentile(0.5) == Histogram().mean == Histogram().maximum == 0.0


@pytest.mark.parametrize("odd", [0.0, -1.0, 1e9])
def test_odd_durations_land_in_the_outer_buckets(odd: float) -> None:
    histogram = Histogram()
    histogram.add(odd)
    assert sum(histogram.buckets) == 1
    assert histogram.total >= 0


def test_memory_does_not_grow_with_the_number_of_values() -> None:
    histogram = Histogram()
    before = len(histogram.buckets)
    for number in range(10_000):
        histogram.add(number * 1e-4)
    assert len(histogram.buckets) == before
    assert sum(histogram.buckets) == 10_000


def test_stage_times_are_reported_in_milliseconds() -> None:
    times = StageTimes()
    times.add(dict.fromkeys(STAGES, 0.002) | {"total": 0.010})
    assert times.means_ms() == pytest.approx(dict.fromkeys(STAGES, 2.0) | {"total": 10.0})
    assert times.latency_ms()["max"] == pytest.approx(10.0)
