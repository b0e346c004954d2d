"""Cameras whose sensor hangs behind an encoder: the same picture, encoded again and again, is no live one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest

from edge.config import assets
from edge.stream.config import HealthConfig
from edge.stream.health import Health
from edge.stream.thumb import Glance

av = pytest.importorskip("av")
if "libx264" not in av.codecs_available:
    pytest.skip("this FFmpeg cannot encode H.264", allow_module_level=True)

FPS = 20
HEIGHT, WIDTH = 180, 320
NOISE = np.random.default_rng(0).standard_normal((2 * HEIGHT, 2 * WIDTH, 1), np.float32)

Film = list[np.ndarray]


@cache
def backdrop() -> np.ndarray:
    """Smooth, with some edges."""
    random = np.random.default_rng(1)
    image = cv2.resize(
        random.integers(40, 200, (9, 12, 3), np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(12):
        left, top = int(random.integers(0, WIDTH - 40)), int(random.integers(0, HEIGHT - 30))
        colour = [int(value) for value in random.integers(0, 255, 3)]
        cv2.rectangle(image, (left, top), (left + 40, top + 30), colour, -1)
    return image


def noisy(image: np.ndarray, number: int, sigma: float) -> np.ndarray:
    top, left = number * 37 % HEIGHT, number * 91 % WIDTH
    noise = sigma * NOISE[top : top + HEIGHT, left : left + WIDTH]
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def still(seconds: float, sigma: float, first: int = 0) -> Film:
    return [noisy(backdrop(), first + number, sigma) for number in range(int(seconds * FPS))]


def moving(seconds: float, sigma: float, speed: float = 3.0) -> Film:
    """Something goes through the picture, `speed` pixels a frame."""
    film = []
    for number in range(int(seconds * FPS)):
        image = backdrop().copy()
        cv2.circle(
            image, (int(40 + 16 * speed * number) % (WIDTH * 16), 1600), 320, (40, 220, 250), -1, 16, 4
        )
        film.append(noisy(image, number, sigma))
    return film


def frozen(film: Film, seconds: float = 6.0) -> Film:
    """And then its last picture for ever."""
    return film + [film[-1]] * int(seconds * FPS)


def encoded(film: Film, gop: int, **options: Any) -> Iterator[np.ndarray]:
    """As a camera sends it."""
    stored = io.BytesIO()
    with av.open(stored, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = film[0].shape[:2]
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", gop
        stream.codec_context.thread_count = 1
        stream.bit_rate = options.pop("bit_rate", 0)
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", **options}
        for image in film:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    stored.seek(0)
    with av.open(stored) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="bgr24")


def times_frozen(pictures: Iterator[np.ndarray]) -> list[float]:
    """Seconds from the start at which the feed counts as frozen."""
    health, times = Health(HealthConfig(black=False, lens=False)), []
    for number, image in enumerate(pictures):
        if health.look(Glance(image), 100 + number / FPS):
            times.append(number / FPS)
    return times


@pytest.mark.parametrize("gop", [10, 60])
@pytest.mark.parametrize("name", ["moving", "still"])
def test_a_sensor_that_hangs_is_noticed_in_time_and_for_as_long_as_it_lasts(name: str, gop: int) -> None:
    film = moving(8, 4.0) if name == "moving" else still(8, 4.0)
    pictures = encoded(frozen(film), gop, bit_rate=1_500_000)
    times = times_frozen(pictures)
    assert 8 < times[0] <= 8 + 2.5
    assert len(times) >= 0.95 * (14 - times[0]) * FPS


@pytest.mark.parametrize("crf", ["20", "30"])
def test_key_frames_that_only_repeat_are_nothing_new_however_little_noise_there_was(crf: str) -> None:
    """Encoded with the same quality all along, every group of pictures is the one before."""
    film = frozen(still(6, 1.0), seconds=8)
    times = times_frozen(encoded(film, 10, crf=crf))
    assert times and 8 < times[0] <= 12
    assert len(times) == round((14 - times[0]) * FPS)


@pytest.mark.parametrize(
    "options",
    [
        {"bit_rate": 80_000},
        {"bit_rate": 300_000},
        {"bit_rate": 2_000_000},
        {"crf": "23"},
        {"crf": "32"},
        {"crf": "23", "preset": "veryfast"},
    ],
    ids=str,
)
@pytest.mark.parametrize("gop", [10, 60])
def test_a_still_scene_after_a_lively_one_is_not_frozen_whatever_its_encoder_makes_of_noise(
    options: dict[str, Any], gop: int
) -> None:
    sigma = 2.0 if gop == 10 else 4.0
    film = moving(6, sigma) + still(6, sigma) + moving(2, sigma, 9.0) + still(4, sigma, first=200)
    assert times_frozen(encoded(film, gop, **options)) == []


def test_slow_motion_is_not_frozen() -> None:
    """A quarter of a pixel a frame."""
    film = moving(6, 1.0) + moving(8, 1.0, speed=0.25)
    assert times_frozen(encoded(film, 20, bit_rate=500_000)) == []


def test_noise_that_goes_with_the_light_is_not_frozen() -> None:
    """A lamp is switched on, and the camera need not amplify any more."""
    dark = [noisy((backdrop() * 0.3).astype(np.uint8), number, 6.0) for number in range(8 * FPS)]
    assert times_frozen(encoded(dark + still(8, 0.7), 20, bit_rate=2_000_000)) == []


@pytest.mark.parametrize("clip", ["one-by-one-person-detection.mp4", "bottle-detection.mp4"])
def test_films_of_real_cameras_are_not_frozen(clip: str) -> None:
    path = assets() / "video" / clip
    if not path.exists():
        pytest.skip("the film is not here")
    with av.open(path) as container:
        pictures = (
            cv2.resize(frame.to_ndarray(format="bgr24"), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
            for frame in container.decode(video=0)
        )
        assert times_frozen(pictures) == []
