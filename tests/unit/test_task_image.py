"""Image-to-image: degraded inputs, pictures out, PSNR."""

import cv2
import numpy as np
import pytest

from edge.config import InputConfig, SamplesConfig
from edge.errors import InputError
from edge.preprocess import Preprocess
from edge.tasks import Sample
from edge.tasks.image import create, psnr_y, shrink


def place(height, width, **options):
    _, places = Preprocess(InputConfig(**{"size": (16, 16), **options})).batch(
        [np.zeros((height, width, 3), np.uint8)]
    )
    return places[0]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_psnr_is_that_of_luma_without_the_border():
    a = np.full((20, 20, 3), 100, np.uint8)
    b = a.copy()
    b[:4] = 255  # the border does not count
    assert psnr_y(a, b) == 100.0
    b[4:, :, 1] = 110  # green: 10 · 128.553/255 levels of luma
    assert psnr_y(a, b) == pytest.approx(20 * np.log10(255 / (10 * 128.553 / 255)))


def test_shrinking_is_an_antialiased_bicubic():
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert np.array_equal(shrink(flat, 4), np.full((4, 4, 3), 77))
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    inner = shrink(ramp, 4)[5, 2:-2, 0].astype(float)
    np.testing.assert_allclose(inner, np.arange(2, 14) * 16 + 6, atol=0.5)
    checker = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    assert np.abs(shrink(np.dstack([checker] * 3).astype(np.uint8), 4).astype(int) - 127).max() <= 8


def test_the_input_is_the_centre_made_smaller(tmp_path):
    image = noise(70, 90)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    task = create({"scale": 4, "crop": 64}, "here")
    (sample,) = task.samples(SamplesConfig(images=tmp_path))
    assert np.array_equal(task.network_image(sample), shrink(image[3:67, 13:77], 4))


def test_pictures_smaller_than_the_crop_are_left_out(tmp_path):
    for name, side in (("a", 40), ("b", 64), ("c", 63), ("d", 65)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), noise(80, side))
    task = create({"crop": 64}, "here")
    assert [s.path.stem for s in task.samples(SamplesConfig(images=tmp_path, limit=5))] == ["b", "d"]
    with pytest.raises(InputError, match="large enough"):
        create({"crop": 100}, "here").samples(SamplesConfig(images=tmp_path))


def test_a_perfect_network_restores_the_original(tmp_path):
    image = noise(64, 64)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    task = create({"scale": 4, "crop": 64}, "here")
    output = image[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    payload = task.score_payload({"out": output}, 0, place(16, 16))
    assert np.array_equal(payload.image, image)
    scorer = task.scorer()
    scorer.add(Sample(tmp_path / "a.png"), payload)
    assert scorer.value() == 100.0


def test_values_beyond_white_and_black_are_cut():
    output = np.float32([-0.5, 0.5, 1.5]).reshape(1, 3, 1, 1) * np.ones((1, 3, 16, 16), np.float32)
    picture = create({"color": "bgr"}, "here").postprocess({"out": output}, 0, place(16, 16)).image
    assert picture[0, 0].tolist() == [0, 128, 255]


def test_the_output_range_and_grey_outputs_are_understood():
    output = np.full((1, 1, 16, 16), 128, np.float32)
    picture = create({"range": 255}, "here").postprocess({"out": output}, 0, place(16, 16)).image
    assert picture.shape == (16, 16, 3) and np.all(picture == 128)


def test_letterbox_padding_is_cut_off():
    payload = create({"scale": 2}, "here").postprocess(
        {"out": np.zeros((1, 3, 32, 32), np.float32)}, 0, place(10, 20)
    )
    assert payload.image.shape == (16, 32, 3)
    assert payload.to_json() == {"image": {"width": 32, "height": 16}}
    assert payload.found() == {}


def test_before_and_after_share_the_picture():
    payload = create({"range": 1}, "here").postprocess(
        {"out": np.ones((1, 3, 16, 16), np.float32)}, 0, place(16, 16)
    )
    picture = np.full((3, 80, 40), 10, np.uint8).transpose(2, 1, 0)  # a view, as decoders may give one
    drawn = payload.draw(picture)
    assert np.all(drawn[:, :30] == 10) and np.all(drawn[:, 50:] == 255)


def test_an_output_that_does_not_fit_the_original_is_explained(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), noise(64, 64))
    task = create({"crop": 64}, "here")
    payload = task.score_payload({"out": np.zeros((1, 3, 16, 16), np.float32)}, 0, place(16, 16))
    with pytest.raises(InputError, match="64×64"):
        task.scorer().add(Sample(tmp_path / "a.png"), payload)
