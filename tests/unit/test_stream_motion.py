"""Which frames the motion gate lets through: changes at once, everything else hardly ever."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.stream.config import MotionConfig
from edge.stream.motion import MotionGate, region_mask
from edge.stream.thumb import thumbnail

FPS = 30
HEIGHT, WIDTH = 360, 640
NOISE = np.random.default_rng(0).standard_normal((2 * HEIGHT, 2 * WIDTH), np.float32)


def scene(seed: int = 0) -> np.ndarray:
    """Soft patches of every grey."""
    patches = np.random.default_rng(seed).integers(30, 200, (9, 16)).astype(np.uint8)
    return cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def noisy(picture: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    top, left = rng.integers(0, HEIGHT), rng.integers(0, WIDTH)
    return cv2.convertScaleAbs(
        cv2.max(cv2.scaleAdd(NOISE[top : top + HEIGHT, left : left + WIDTH], sigma, picture), 0)
    )


def with_object(
    picture: np.ndarray, x: float, y: float, contrast: float = 45.0, side: float = 0.02
) -> np.ndarray:
    """An object of `side` of the picture's width, its corner at x, y as parts of what is left."""
    size = round(side * WIDTH)
    left, top = round(x * (WIDTH - size)), round(y * (HEIGHT - size))
    out = picture.copy()
    out[top : top + size, left : left + size] += contrast
    return out


def run_all(gate: MotionGate, thumbs: Iterable[np.ndarray], start: int = 0) -> list[int]:
    """Numbers of the frames that are run."""
    run = []
    for number, thumb in enumerate(thumbs, start):
        if gate.decide(thumb, number / FPS).run:
            gate.ran(thumb, number / FPS)
            run.append(number)
    return run


def settled(picture: np.ndarray, rng: np.random.Generator, frames: int = 30, **keys: object) -> MotionGate:
    """A gate that has seen a scene with a sensor's noise for a while."""
    gate = MotionGate(MotionConfig.model_validate({"refresh_s": 1000, **keys}))
    run_all(gate, (thumbnail(noisy(picture, 3, rng)) for _ in range(frames)))
    return gate


def test_the_first_frame_is_run_and_a_still_picture_only_when_it_is_due() -> None:
    gate, thumb = MotionGate(MotionConfig(refresh_s=2)), thumbnail(scene().astype(np.uint8))
    assert run_all(gate, [thumb] * 150) == [0, 60, 120]


@pytest.mark.parametrize("sigma", [1, 3, 8, 15, 25])
def test_the_noise_of_a_sensor_is_no_change(sigma: float) -> None:
    rng, picture = np.random.default_rng(sigma), scene()
    gate = MotionGate(MotionConfig())
    run = run_all(gate, (thumbnail(noisy(picture, sigma, rng)) for _ in range(300)))
    assert len(run) <= 0.04 * 300


@pytest.mark.parametrize("rate", [-2.0, 1.0, 3.0])
def test_light_that_drifts_is_hardly_ever_a_change(rate: float) -> None:
    """Grey levels a second."""
    rng, picture = np.random.default_rng(1), scene()
    gate = MotionGate(MotionConfig())
    run = run_all(gate, (thumbnail(noisy(picture + rate * i / FPS, 3, rng)) for i in range(300)))
    assert len(run) <= 0.05 * 300


@pytest.mark.parametrize("pulse", [4.0, 10.0, 20.0])
def test_the_pulse_of_key_frames_is_hardly_ever_a_change(pulse: float) -> None:
    """Each key frame is a little brighter, and what follows forgets it frame by frame."""
    rng, picture = np.random.default_rng(2), scene()
    gate = MotionGate(MotionConfig())
    thumbs = (thumbnail(noisy(picture + pulse * 0.6 ** (i % 50), 2, rng)) for i in range(400))
    assert len(run_all(gate, thumbs)) <= 0.1 * 400


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    contrast=st.floats(30, 50) | st.floats(-30, -29),
    seed=st.integers(0, 20),
)
def test_a_small_object_is_seen_in_the_frame_in_which_it_appears_wherever_it_is(
    x: float, y: float, contrast: float, seed: int
) -> None:
    """Two hundredths of the picture's width."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH), 60 + 5 * seed, np.float32)
    gate = settled(picture, rng)
    assert not gate.decide(thumbnail(noisy(picture, 3, rng)), 2.0).run
    thumb = thumbnail(noisy(with_object(picture, x, y, contrast), 3, rng))
    motion = gate.decide(thumb, 2.0 + 1 / FPS)
    assert motion.run
    assert 0 < motion.share < 0.01


@settings(max_examples=20, deadline=None)
@given(waits=st.integers(1, 40), x=st.floats(0, 1), y=st.floats(0, 1))
def test_a_change_stays_one_until_a_frame_that_shows_it_is_run(waits: int, x: float, y: float) -> None:
    """Frames that were to be run and were superseded: the gate is not told that they ran."""
    rng, picture = np.random.default_rng(waits), scene()
    gate, changed = settled(picture, rng), with_object(picture, x, y)
    for number in range(waits):
        thumb = thumbnail(noisy(changed, 3, rng))
        assert gate.decide(thumb, 2 + number / FPS).run
    gate.ran(thumb, 2 + waits / FPS)
    later = (thumbnail(noisy(changed, 3, rng)) for _ in range(30))
    assert run_all(gate, later, 2 * FPS + waits + 1) == []


def test_an_object_that_leaves_is_a_change_too_however_long_it_stood_there() -> None:
    rng, picture = np.random.default_rng(3), scene()
    gate, occupied = settled(picture, rng), with_object(picture, 0.5, 0.5)
    stood = run_all(gate, (thumbnail(noisy(occupied, 3, rng)) for _ in range(200)), 40)
    assert stood == [40]
    assert gate.decide(thumbnail(noisy(picture, 3, rng)), 240 / FPS).run


def test_an_object_that_moves_slowly_is_followed() -> None:
    rng, picture = np.random.default_rng(4), scene()
    gate = settled(picture, rng)
    steps = (thumbnail(noisy(with_object(picture, 0.1 + i / 3000, 0.5), 3, rng)) for i in range(300))
    run = run_all(gate, steps, 40)
    assert run[0] == 40
    assert max(np.diff([*run, 340])) <= 60  # within one cell's width, 10 pixels


def test_a_busy_place_does_not_grow_blind() -> None:
    """Something passes in every fifth frame, for a minute; each time it is seen."""
    rng, picture = np.random.default_rng(5), thumbnail(scene().astype(np.uint8))
    passing = picture.copy()
    passing[10:20, 10:20] += 50
    thumbs = [
        (passing if i % 5 == 0 else picture) + rng.integers(0, 3, picture.shape, np.uint8)
        for i in range(1800)
    ]
    gate = MotionGate(MotionConfig())
    run = set(run_all(gate, thumbs))
    assert run >= set(range(0, 1800, 5))


def test_only_motion_inside_the_regions_counts() -> None:
    rng, picture = np.random.default_rng(6), scene()
    gate = settled(picture, rng, regions=[(0.0, 0.0, 0.5, 1.0)])
    elsewhere = gate.decide(thumbnail(noisy(with_object(picture, 0.8, 0.5, side=0.1), 3, rng)), 2.0)
    assert (elsewhere.run, elsewhere.share) == (False, 0.0)
    assert gate.decide(thumbnail(noisy(with_object(picture, 0.2, 0.5), 3, rng)), 2.1).run


def test_a_share_that_is_set_higher_takes_more_motion() -> None:
    rng, picture = np.random.default_rng(7), scene()
    gate = settled(picture, rng, share=0.05)
    small = gate.decide(thumbnail(noisy(with_object(picture, 0.5, 0.5, side=0.05), 3, rng)), 2.0)
    assert not small.run and 0 < small.share < 0.05
    large = gate.decide(thumbnail(noisy(with_object(picture, 0.5, 0.5, side=0.3), 3, rng)), 2.1)
    assert large.run and large.share == pytest.approx(0.3 * 0.3 * 16 / 9, rel=0.25)


def test_another_size_of_picture_begins_anew() -> None:
    gate = MotionGate(MotionConfig())
    assert run_all(gate, [np.zeros((36, 64), np.uint8)] * 3) == [0]
    assert run_all(gate, [np.zeros((48, 64), np.uint8)] * 3, 3) == [3]


def test_a_frame_that_was_run_unasked_is_what_changes_are_measured_against() -> None:
    gate = MotionGate(MotionConfig())
    gate.ran(np.zeros((36, 64), np.uint8), 0.0)
    assert not gate.decide(np.zeros((36, 64), np.uint8), 0.1).run
    assert gate.decide(np.full((36, 64), 50, np.uint8), 0.2).run


def test_regions_are_rasterised_onto_cells_each_at_least_one() -> None:
    mask = region_mask([(0.0, 0.0, 0.25, 0.5), (0.99, 0.99, 0.001, 0.001)], (4, 8))
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [3, 7]]
    assert region_mask([], (4, 8)).all()
