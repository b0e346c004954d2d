"""Picture → network input, against the plain formulas that the networks were trained with."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import InputConfig
from edge.errors import InputError
from edge.preprocess import Preprocess

sides = st.integers(1, 90)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def one(config: InputConfig, image: np.ndarray):
    batch, (placement,) = Preprocess(config).batch([image])
    return batch[0], placement


@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides)
def test_letterbox_is_the_rule_of_yolox(height, width):
    image = picture(height, width)
    scale = min(48 / height, 64 / width)
    h, w = max(1, int(height * scale)), max(1, int(width * scale))
    canvas = np.full((48, 64, 3), 114, np.uint8)
    canvas[:h, :w] = cv2.resize(image, (w, h))

    got, _ = one(InputConfig(size=(48, 64), anchor="top-left", pad=114, color="bgr", scale=1.0), image)

    assert np.array_equal(got, canvas.transpose(2, 0, 1).astype(np.float32))


@settings(deadline=None, max_examples=40)
@given(height=sides, width=sides)
def test_crop_is_the_rule_of_imagenet(height, width):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = picture(height, width)
    scale = 40 / min(height, width)
    resized = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale)
    top, left = (resized.shape[0] - 32) // 2, (resized.shape[1] - 32) // 2
    rgb = resized[top : top + 32, left : left + 32, ::-1].astype(np.float32) / 255

    got, _ = one(InputConfig(size=(32, 32), fit="crop", shorter_side=40, mean=mean, std=std), image)

    assert np.array_equal(got, ((rgb - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1))


def test_stretch_ignores_the_aspect_ratio():
    image = picture(30, 50)
    got, placement = one(InputConfig(size=(20, 20), fit="stretch"), image)
    want = cv2.resize(image, (20, 20))[:, :, ::-1].transpose(2, 0, 1) / 255
    assert np.array_equal(got, want.astype(np.float32))
    assert (placement.scale_x, placement.scale_y) == (20 / 50, 20 / 30)


def test_a_centred_letterbox_pads_both_sides_with_the_normalised_pad():
    config = InputConfig(size=(40, 40), pad=255, mean=(0.5,), std=(0.25,))
    got, placement = one(config, np.zeros((10, 20, 3), np.uint8))
    assert (placement.left, placement.top) == (0, 10)
    assert np.all(got[:, 10:30] == -2.0)
    assert np.all(got[:, :10] == 2.0) and np.all(got[:, 30:] == 2.0)


@settings(deadline=None, max_examples=60)
@given(height=sides, width=sides, fit=st.sampled_from(["letterbox", "stretch", "crop"]))
def test_the_placement_says_where_the_picture_lies(height, width, fit):
    _, place = one(InputConfig(size=(24, 40), fit=fit), picture(height, width))
    right, bottom = place.left + width * place.scale_x, place.top + height * place.scale_y
    assert (place.network_height, place.network_width) == (24, 40)
    inside = place.left >= 0 and place.top >= 0 and right <= 40.001 and bottom <= 24.001
    covers = place.left <= 0 and place.top <= 0 and right >= 39.5 and bottom >= 23.5
    assert covers if fit == "crop" else inside


def test_channels_come_in_the_order_the_network_wants():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:] = (10, 20, 30)  # blue, green, red
    rgb, _ = one(InputConfig(size=(4, 4), color="rgb", scale=1.0), image)
    bgr, _ = one(InputConfig(size=(4, 4), color="bgr", scale=1.0), image)
    assert rgb[:, 0, 0].tolist() == [30, 20, 10]
    assert bgr[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("channels", [0, 1])
def test_a_grey_picture_fills_all_channels(channels):
    grey = picture(8, 8, channels)
    got, _ = one(InputConfig(size=(8, 8), scale=1.0), grey)
    assert np.array_equal(got, np.stack([grey.reshape(8, 8)] * 3).astype(np.float32))


def test_a_colour_picture_becomes_luma_for_a_grey_network():
    image = picture(8, 8)
    got, _ = one(InputConfig(size=(8, 8), channels=1, scale=1.0), image)
    assert np.array_equal(got[0], cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))


def test_one_instance_takes_pictures_of_any_size_in_turn():
    config = InputConfig(size=(32, 48))
    pictures = [picture(20, 30), picture(64, 16, 0), picture(32, 48), picture(20, 30, seed=1)]
    together, places = Preprocess(config).batch(pictures)
    for image, got, place in zip(pictures, together, places, strict=True):
        alone, alone_place = one(config, image)
        assert np.array_equal(got, alone) and place == alone_place


def test_the_whole_buffer_is_overwritten():
    out = np.full((3, 40, 40), np.nan, np.float32)
    Preprocess(InputConfig(size=(40, 40), pad=7)).into(picture(13, 29), out)
    assert np.isfinite(out).all()


def test_a_view_is_as_good_as_a_copy():
    image = picture(60, 80)
    view = image[5:50:2, ::-1]
    config = InputConfig(size=(32, 32))
    assert np.array_equal(one(config, view)[0], one(config, view.copy())[0])


def test_a_frame_allocates_nothing_big_once_its_size_is_known():
    preprocess, image = Preprocess(InputConfig(size=(256, 256))), picture(300, 500)
    out = np.empty((3, 256, 256), np.float32)
    preprocess.into(image, out)
    tracemalloc.start()
    preprocess.into(image, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_384


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        ([[1, 2], [3, 4]], "list"),
        (np.zeros((4, 4, 4), np.uint8), "4×4×4"),
        (np.zeros((4, 4, 2), np.uint8), "4×4×2"),
        (np.zeros((2, 4, 4, 3), np.uint8), "2×4×4×3"),
        (np.zeros(4, np.uint8), "4"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 0), np.uint8), "empty"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(image, why):
    with pytest.raises(InputError, match=why):
        Preprocess(InputConfig(size=(8, 8))).batch([image])


def test_a_buffer_of_another_shape_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="float32"):
        Preprocess(InputConfig(size=(8, 8))).into(picture(4, 4), np.empty((3, 8, 9), np.float32))
