"""How many frames of a feed are looked at, and which part of its picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.stream.limit import RateLimit, crop

PART = st.floats(0, 1, allow_nan=False)


def moments(fps: float, seconds: float, jitter: float = 0.0, seed: int = 0) -> list[float]:
    """When frames come: late or early by up to `jitter` of their pause."""
    rng = np.random.default_rng(seed)
    frames = np.arange(round(fps * seconds))
    return list((frames + jitter * rng.uniform(-1, 1, len(frames))) / fps)


def allowed(limit: RateLimit, when: list[float]) -> list[float]:
    return [moment for moment in when if limit.allows(moment)]


def test_without_limits_every_frame_is_looked_at() -> None:
    when = moments(30, 2)
    assert allowed(RateLimit(None), when) == when


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_a_stride_takes_every_nth_frame(stride: int) -> None:
    when = moments(30, 2)
    assert allowed(RateLimit(None, stride), when) == when[::stride]


@pytest.mark.parametrize(("fps", "of"), [(20, 30), (15, 30), (25, 30), (29, 30), (7, 25), (24, 60), (1, 30)])
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_rate_below_the_feeds_is_met_exactly(fps: float, of: float, jitter: float) -> None:
    seconds = 20
    taken = allowed(RateLimit(fps), moments(of, seconds, jitter))
    assert len(taken) == pytest.approx(fps * seconds, abs=1)
    pauses = np.diff(taken)
    assert pauses.max() <= 1 / fps + (1 + 2 * jitter) / of + 1e-9
    assert pauses.min() >= 1 / fps - (1 + 2 * jitter) / of - 1e-9


def test_half_the_rate_is_every_second_frame_in_spite_of_jitter() -> None:
    when = moments(30, 20, jitter=0.2)
    assert allowed(RateLimit(15), when) == when[::2]


@pytest.mark.parametrize("of", [5, 29, 29.97, 30])
def test_a_feed_that_is_not_faster_loses_nothing(of: float) -> None:
    when = moments(of, 20, jitter=0.2)
    assert allowed(RateLimit(30), when) == when


def test_stride_and_rate_go_together() -> None:
    taken = allowed(RateLimit(10, stride=2), moments(60, 20))
    assert len(taken) == pytest.approx(200, abs=1)
    assert taken[1] == pytest.approx(6 / 60)


def test_a_pause_is_not_made_up_for() -> None:
    limit = RateLimit(10)
    allowed(limit, moments(30, 1))
    assert len(allowed(limit, [60 + moment for moment in moments(30, 1)])) <= 11


def test_a_clock_that_jumps_back_begins_anew() -> None:
    limit = RateLimit(10)
    allowed(limit, [1000 + moment for moment in moments(30, 1)])
    assert len(allowed(limit, moments(30, 1))) == 10


@given(
    pauses=st.lists(st.floats(0, 0.5), max_size=200),
    fps=st.sampled_from([1.0, 7.5, 20.0]),
    stride=st.integers(1, 3),
)
def test_never_more_than_the_rate_whatever_the_feed_does(
    pauses: list[float], fps: float, stride: int
) -> None:
    taken = np.array(allowed(RateLimit(fps, stride), list(np.cumsum(pauses))))
    for i in range(len(taken)):
        for j in range(i, len(taken)):
            assert j - i + 1 <= (taken[j] - taken[i]) * fps + 2.5 + 1e-6


@given(st.integers(1, 60), st.integers(1, 60), PART, PART, PART, PART)
def test_a_crop_lies_inside_and_has_at_least_one_pixel(
    height: int, width: int, left: float, top: float, right: float, bottom: float
) -> None:
    image = np.arange(height * width, dtype=np.uint32).reshape(height, width, 1)
    roi = (min(left, math.nextafter(1, 0)), min(top, math.nextafter(1, 0)), right, bottom)
    part = crop(image, (roi[0], roi[1], right * (1 - roi[0]), bottom * (1 - roi[1])))
    assert 1 <= part.shape[0] <= height and 1 <= part.shape[1] <= width
    assert np.shares_memory(part, image)


def test_a_crop_is_the_part_that_is_named() -> None:
    image = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    assert np.array_equal(crop(image, (0.25, 0.5, 0.5, 0.5)), image[5:, 5:15])
    assert crop(image, (0, 0, 1, 1)).shape == image.shape


def test_crops_side_by_side_share_no_pixel_and_leave_none_out() -> None:
    image = np.zeros((7, 11, 3), np.uint8)
    crop(image, (0, 0, 0.3, 1))[:] += 1
    crop(image, (0.3, 0, 0.7, 1))[:] += 1
    assert np.all(image == 1)
