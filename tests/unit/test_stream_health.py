"""Pictures that a feed still gives and that cannot be believed; healthy ones are never flagged."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.stream.config import HealthConfig
from edge.stream.frozen import FORGET_S, LONGEST_S
from edge.stream.health import ACCEPT_S, FLAGS, Health
from edge.stream.thumb import Glance

FPS = 10
HEIGHT, WIDTH = 180, 320
NOISE = np.random.default_rng(0).standard_normal((2 * HEIGHT, 2 * WIDTH, 1), np.float32)

Shot = Callable[[int], np.ndarray]


def scene(seed: int = 0, side: int = 20) -> np.ndarray:
    """Patches of every grey with sharp edges."""
    patches = (
        np.random.default_rng(seed).integers(20, 230, (HEIGHT // side, WIDTH // side, 3)).astype(np.uint8)
    )
    return cv2.resize(patches, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST).astype(np.float32)


SCENE = scene()
BLACK = np.zeros((HEIGHT, WIDTH, 3), np.float32)


def shot(picture: np.ndarray, sigma: float = 2.0) -> Shot:
    """Pictures of it with a sensor's noise."""

    def take(number: int) -> np.ndarray:
        top, left = number * 37 % HEIGHT, number * 91 % WIDTH
        noise = sigma * NOISE[top : top + HEIGHT, left : left + WIDTH]
        return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)

    return take


def still(picture: np.ndarray) -> Shot:
    image = picture.astype(np.uint8)
    return lambda number: image.copy()


class Camera:
    """A feed's health over time.

    Attributes:
        changes: when the flags changed, and to what.
    """

    def __init__(self, fps: float = FPS, **keys: object) -> None:
        self.health = Health(HealthConfig.model_validate(keys))
        self.fps, self.now, self.number = fps, 100.0, 0
        self.flags: tuple[str, ...] = ()
        self.changes: list[tuple[float, tuple[str, ...]]] = []

    def watch(self, take: Shot, seconds: float) -> tuple[str, ...]:
        """The flags of the last picture."""
        for _ in range(round(seconds * self.fps)):
            image = take(self.number)
            flags = self.health.look(Glance(image), self.now)
            if flags != self.flags:
                self.flags = flags
                self.changes.append((self.now, flags))
            self.number += 1
            self.now += 1 / self.fps
        return self.flags

    def delay(self, take: Shot) -> float:
        """Seconds of it until the flags changed; long if they did not."""
        start, before = self.now, len(self.changes)
        self.watch(take, 4)
        return self.changes[before][0] - start if len(self.changes) > before else 1e9


def camera(seconds: float = 10, fps: float = FPS, **keys: object) -> Camera:
    """One that has seen its scene for a while."""
    feed = Camera(fps, **keys)
    assert feed.watch(shot(SCENE), seconds) == ()
    return feed


def blurred(sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(SCENE, (0, 0), sigma)


BAD: dict[str, tuple[str, Shot]] = {
    "the last picture again and again": ("frozen", still(SCENE)),
    "no signal": ("black", still(BLACK)),
    "a cap before the lens": ("black", shot(BLACK + 6, 2.0)),
    "a glaring light": ("overexposed", shot(SCENE * 3 + 120)),
    "nothing but white": ("overexposed", still(BLACK + 255)),
    "grease on the lens": ("smeared", shot(blurred(5.0))),
    "a hand before the lens": ("smeared", shot(BLACK + np.float32([90, 110, 160]), 3.0)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_flagged_within_two_and_a_half_seconds_and_not_for_longer(name: str) -> None:
    flag, take = BAD[name]
    feed = camera()
    assert feed.delay(take) <= 2.5
    assert feed.flags == (flag,)
    assert feed.delay(shot(SCENE)) <= 1.0
    assert feed.flags == ()
    assert len(feed.changes) == 2


@pytest.mark.parametrize("fps", [5, 25, 30, 60, 100])
@pytest.mark.parametrize("name", ["the last picture again and again", "no signal", "grease on the lens"])
def test_the_feed_may_be_slow_or_fast(name: str, fps: float) -> None:
    flag, take = BAD[name]
    feed = camera(6, fps=fps)
    assert feed.delay(take) <= 2.5
    assert feed.flags == (flag,)
    assert feed.delay(shot(SCENE)) <= 1.5


HEALTHY: dict[str, Shot] = {
    "half the light": shot(SCENE * 0.5),
    "more light": shot(SCENE + 60),
    "night that a camera amplifies": shot(BLACK + 12, 8.0),
    "night with a few lights": shot(np.where(scene(3) > 210, 120.0, 5.0)),
    "another scene": shot(scene(1)),
    "an almost empty scene": shot(np.where(np.arange(WIDTH)[:, None] < WIDTH // 3, SCENE, 128.0)),
    "much noise": shot(SCENE, 15.0),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_only_different_is_not_flagged(name: str) -> None:
    feed = camera()
    feed.watch(HEALTHY[name], 20)
    feed.watch(shot(SCENE), 5)
    assert feed.changes == []


@pytest.mark.parametrize("name", BAD)
def test_a_moment_of_it_is_not_flagged(name: str) -> None:
    feed = camera()
    for _ in range(5):
        feed.watch(BAD[name][1], 0.8)
        feed.watch(shot(SCENE), 1)
    assert feed.changes == []


def test_a_frozen_picture_says_since_when_and_for_how_long() -> None:
    feed = camera()
    last = feed.now
    feed.watch(still(SCENE), 2.6)
    assert feed.health.since == pytest.approx(last)
    assert feed.health.reason == "identical for 2.5 s"
    feed.watch(shot(SCENE), 0.6)
    assert (feed.health.flags, feed.health.since, feed.health.reason) == ((), None, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no signal", "brightness 0 of 255"),
        ("nothing but white", "100 % is white, usual are 0 %"),
        ("grease on the lens", "sharpness "),
    ],
)
def test_the_reason_tells_what_was_seen(name: str, reason: str) -> None:
    feed = camera()
    event = feed.now
    feed.watch(BAD[name][1], 2)
    assert feed.health.reason.startswith(reason)
    assert feed.health.since == pytest.approx(event, abs=0.3)


def test_a_feed_that_repeats_pictures_while_it_is_healthy_is_frozen_after_three_times_as_long() -> None:
    """An encoder at a low bit rate: each picture stays for 1.5 s."""
    feed = Camera()
    for number in range(20):
        feed.watch(still(scene(number)), 1.5)
    assert feed.changes == []
    feed.watch(still(scene(99)), 4)
    assert feed.flags == ()
    feed.watch(still(scene(99)), 0.5)
    assert feed.flags == ("frozen",)


def test_one_hiccup_is_forgotten() -> None:
    feed = camera()
    feed.watch(still(SCENE), 1.9)
    feed.number += int(3 * FORGET_S * FPS)
    feed.health.look(Glance(still(scene(1))(0)), feed.now)
    feed.now += 3 * FORGET_S
    feed.watch(shot(SCENE), 2)
    assert feed.delay(still(SCENE)) <= 2.5


def test_however_often_pictures_are_repeated_one_that_stays_is_frozen_in_the_end() -> None:
    feed = Camera()
    for seconds in (1.5, 4, 10, 25):
        feed.watch(still(scene(int(seconds))), seconds)
        assert feed.flags == ()
    feed.watch(still(SCENE), LONGEST_S + 1)
    assert feed.flags == ("frozen",)


def test_a_slow_feed_needs_some_identical_pictures_and_not_only_time() -> None:
    feed = Camera(fps=0.6, stalled_s=5)
    feed.watch(shot(SCENE), 60)
    feed.watch(still(SCENE), 3 / 0.6)
    assert feed.flags == ()
    feed.watch(still(SCENE), 1 / 0.6)
    assert feed.flags == ("frozen",)


def test_time_without_pictures_is_not_time_with_identical_ones() -> None:
    """A source that begins with the same picture after a gap."""
    feed = camera()
    feed.watch(still(SCENE), 0.5)
    feed.now += 60
    assert feed.watch(still(SCENE), 1.5) == ()
    assert feed.watch(still(SCENE), 1) == ("frozen",)


def test_the_smallest_difference_ends_it() -> None:
    feed = camera()
    assert feed.watch(still(SCENE), 3) == ("frozen",)
    other = SCENE.copy()
    other[100:110, 100:110] += 20
    assert feed.watch(still(other), 0.8) == ()


def test_frozen_can_be_switched_off_and_so_can_the_others() -> None:
    assert camera(frozen_s=0).watch(still(SCENE), 60) == ()
    assert camera(black=False, frozen_s=0).watch(still(BLACK), 5) == ()
    assert camera(lens=False).watch(shot(blurred(8.0)), 5) == ()
    assert Camera(frozen_s=0, black=False, lens=False).watch(still(BLACK), 5) == ()


def test_black_pictures_are_identical_and_no_more_frozen_for_that() -> None:
    feed = camera()
    feed.watch(still(BLACK), 20)
    assert [flags for _, flags in feed.changes] == [("black",)]


def test_a_caption_does_not_hide_that_a_picture_is_black() -> None:
    captioned = BLACK.copy()
    cv2.putText(captioned, "CAM 1", (10, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255))
    assert camera().watch(shot(captioned), 2) == ("black",)


def test_a_light_that_stays_becomes_the_usual_one() -> None:
    feed = camera()
    glare = shot(SCENE * 3 + 60)
    assert feed.watch(glare, 2) == ("overexposed",)
    assert feed.watch(glare, ACCEPT_S - 4) == ("overexposed",)
    assert feed.watch(glare, 10) == ()
    assert feed.watch(shot(SCENE), 10) == ()


def test_a_scene_that_stays_becomes_the_usual_one() -> None:
    feed = camera()
    soft = shot(blurred(5.0))
    assert feed.watch(soft, ACCEPT_S - 2) == ("smeared",)
    assert feed.watch(soft, 10) == ()
    assert len(feed.changes) == 2


def test_white_all_over_never_does() -> None:
    feed = camera()
    feed.watch(shot(BLACK + 255), 2 * ACCEPT_S)
    assert [flags for _, flags in feed.changes] == [("overexposed",)]


def test_what_is_bad_is_not_learned() -> None:
    feed = camera()
    for _ in range(4):
        assert feed.watch(shot(blurred(5.0)), 40) == ("smeared",)
        assert feed.watch(shot(SCENE), 2) == ()


def test_fog_that_comes_within_minutes_is_followed() -> None:
    feed = camera()
    for step in range(300):
        feed.watch(shot(SCENE * (1 - step / 500) + step / 3), 1)
    assert feed.changes == []


def test_a_document_camera_sees_much_white_from_the_start() -> None:
    page = np.full_like(SCENE, 255.0)
    page[40:60, 40:280] = 0
    feed = Camera()
    feed.watch(shot(page), 60)
    assert feed.changes == []


def test_another_size_of_picture_is_judged_by_itself() -> None:
    feed = camera()
    large = cv2.resize(SCENE, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)

    def take(number: int) -> np.ndarray:
        return np.clip(
            large + NOISE.repeat(2, 0).repeat(2, 1)[: 3 * HEIGHT, number : number + 3 * WIDTH], 0, 255
        ).astype(np.uint8)

    feed.watch(take, 3)
    assert feed.changes == []


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (40, 3), (5, 300)])
def test_tiny_pictures_do_no_harm(size: tuple[int, int]) -> None:
    feed, rng = Camera(), np.random.default_rng(0)
    feed.watch(lambda number: rng.integers(100, 110, (*size, 3)).astype(np.uint8), 10)
    assert set(feed.flags) <= {"frozen"}


@settings(max_examples=15, deadline=None)
@given(parts=st.lists(st.tuples(st.sampled_from([*BAD, "good"]), st.floats(0.1, 4)), max_size=8))
def test_states_do_not_flicker_and_flags_are_in_order(parts: list[tuple[str, float]]) -> None:
    """Whatever happens when: two changes at most for each thing that happens."""
    feed = camera()
    for name, seconds in parts:
        feed.watch(BAD[name][1] if name in BAD else shot(SCENE), seconds)
    feed.watch(shot(SCENE), 3)
    assert feed.flags == ()
    assert len(feed.changes) <= 3 * len(parts)
    for _, flags in feed.changes:
        assert list(flags) == sorted(flags, key=FLAGS.index)
