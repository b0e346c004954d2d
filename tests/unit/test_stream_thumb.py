"""Small grey copies of pictures, and what tells two pictures apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.stream.thumb import SIDE, Glance, sample, thumbnail


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((360, 640), (36, 64)),
        ((1080, 1920), (36, 64)),
        ((480, 640), (48, 64)),
        ((1920, 1080), (64, 36)),
        ((100, 100), (64, 64)),
        ((10, 20), (10, 20)),
        ((2, 1000), (1, 64)),
    ],
)
def test_proportions_are_kept_in_at_most_64_columns_and_rows(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    small = thumbnail(noise(*size))
    assert small.shape == cells
    assert small.dtype == np.uint8


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 255), st.booleans())
def test_a_picture_of_one_grey_stays_that_grey(height: int, width: int, grey: int, color: bool) -> None:
    small = thumbnail(np.full((height, width, 3) if color else (height, width), grey, np.uint8))
    assert max(small.shape) <= SIDE
    assert np.all(small == grey)


def test_a_cell_is_the_mean_of_many_pixels_of_its_own_place() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    image[100:110, 200:210] = 200
    small = thumbnail(image)
    assert small[10, 20] == 200
    assert np.count_nonzero(small) == 1
    assert thumbnail(noise(360, 640)).std() < 20  # that of single pixels is 74


def test_a_cropped_view_is_a_picture_like_any_other() -> None:
    image = noise(200, 300)
    view = image[50:150, 30:230]
    assert np.array_equal(thumbnail(view), thumbnail(view.copy()))
    assert np.array_equal(sample(view), sample(view.copy()))


def test_a_thumbnail_and_a_sample_are_no_views_of_the_picture() -> None:
    image = np.zeros((20, 20), np.uint8)
    small, pixels = thumbnail(image), sample(image)
    image[:] = 255
    assert not small.any() and not pixels.any()


@pytest.mark.parametrize("size", [(1, 1), (30, 40), (360, 640), (1080, 1920)])
def test_a_sample_has_a_few_kilobytes(size: tuple[int, int]) -> None:
    assert 0 < sample(noise(*size)).nbytes <= 64 * 40


@given(st.integers(0, 10**6))
def test_the_faintest_noise_of_a_sensor_changes_sample_and_mark(seed: int) -> None:
    """One grey level in one of a hundred pixels."""
    rng = np.random.default_rng(seed)
    image = np.full((360, 640, 3), 128, np.uint8)
    noisy = image + (rng.random((360, 640, 1)) < 0.01)
    before, after = Glance(image), Glance(noisy.astype(np.uint8))
    assert not np.array_equal(before.sample, after.sample)
    assert before.mark != after.mark


def test_the_same_picture_has_the_same_mark_wherever_it_lies_in_memory() -> None:
    image = noise(200, 300)
    assert Glance(image[50:150, 30:230]).mark == Glance(image[50:150, 30:230].copy()).mark


def test_brightness_in_the_range_of_video_is_seen_as_the_picture_it_makes() -> None:
    narrow = Glance(np.array([[16, 126, 235, 0, 255]], np.uint8), narrow=True)
    assert narrow.sample.tolist() == [[0, 128, 255, 0, 255]]
    assert narrow.thumb.tolist() == [[0, 128, 255, 0, 255]]
