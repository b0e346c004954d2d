"""Whether a feed's pictures can be believed: frozen, black, overexposed, smeared."""

from __future__ import annotations

import math

import numpy as np

from edge.stream.config import HealthConfig
from edge.stream.lens import Light, Usual, light, sharpness
from edge.stream.thumb import fingerprint
from edge.types import Array, Image

FLAGS = ("frozen", "black", "overexposed", "smeared")
"""The worst first."""

RUN = 4
"""Fewest identical pictures that count as frozen, however far apart they come."""
REPEATS = 3.0
"""A feed is frozen when a picture stays this many times longer than any did while it was healthy."""
FORGET_S = 600.0
"""In this time half of the longest such run is forgotten, so that one hiccup does not count for ever."""
LONGEST_S = 30.0
"""However often a feed repeats pictures, one that stays this long is frozen."""

LOOK_S = 0.2
"""Pause between two looks at lens and light."""
SET_S, CLEAR_S = 1.0, 0.5
"""How long a picture has to be bad until it is flagged, and good until it is not any more."""
ACCEPT_S = 180.0
"""After this time in another light or at another scene, that is what is usual."""

BLACK, NOT_BLACK = (20, 0.02), (28, 0.04)
"""Median and share of other values: black is at most both, not black any more what exceeds one."""
DARK = 30.0
"""Below this mean noise hides the edges: sharpness is neither judged nor learned."""
WHITER, WHITE_AT_LEAST, WHITE_BACK = 0.3, 0.4, 0.1
"""Overexposed: so much more of the picture is saturated than usual, but at least so much; and so much less
until it is not any more."""
BLOWN = 0.97
"""Saturated to this share it is overexposed whatever is usual."""
SMEARED, SHARP = 0.5, 0.65
"""Parts of the usual sharpness: smeared is less than the first, and until it is more than the second."""
SOFT = 4.0
"""Where the usual sharpness is less, nothing can be said of it: a scene without edges."""


class Health:
    """Looks at every frame of one feed.

    - frozen: the same picture, pixel for pixel, for `frozen_s` and for three times as long as this feed has
      repeated a picture before (encoders at low bit rates do), until the first that differs. Not where black
      or white leaves no room for noise.
    - black: dark and without anything to be seen, caption apart. A camera that amplifies its noise in a dark
      room, or sees a few lights in it, is not black: it is night.
    - overexposed, smeared: compared with what is usual for this feed. A scene or light that stays becomes the
      usual one after three minutes; only a picture that is white all over does not.

    Attributes:
        flags: of the last picture.
    """

    def __init__(self, settings: HealthConfig) -> None:
        self._settings = settings
        self._now = self._next = -math.inf
        self._shape: tuple[int, ...] = ()
        self._run = _Run(settings.frozen_s)
        self._black, self._white, self._smeared = _Latch(), _Latch(), _Latch()
        self._usual = Usual()
        self._light = Light(0.0, 0, 0.0, 0.0)
        self._sharpness = 1.0
        self.flags: tuple[str, ...] = ()

    def look(self, image: Image, thumb: Array, now: float) -> tuple[str, ...]:
        """What is wrong with a picture, the worst first; none: it is healthy.

        Args:
            thumb: `edge.stream.thumb.thumbnail` of it.
            now: seconds, on any clock that does not go back.
        """
        settings = self._settings
        if not (settings.frozen_s or settings.black or settings.lens):
            return ()
        if now - self._now >= settings.stalled_s:
            self._begin_anew()
        self._now = now
        sample = fingerprint(image)
        if settings.frozen_s:
            self._run.add(sample, thumb, now)
        if now >= self._next and (settings.black or settings.lens):
            self._next = now + LOOK_S
            self._check(image, sample, now)
        blank = self._black.on or (self._white.on and self._light.white >= BLOWN)
        on = (self._run.frozen and not blank, self._black.on, self._white.on, self._smeared.on)
        self.flags = tuple(flag for flag, is_on in zip(FLAGS, on, strict=True) if is_on)
        return self.flags

    @property
    def since(self) -> float | None:
        """When the worst of the flags began, on the clock of `look`; None where there is none."""
        starts = (self._run.start, self._black.start, self._white.start, self._smeared.start)
        return starts[FLAGS.index(self.flags[0])] if self.flags else None

    @property
    def reason(self) -> str:
        """What was seen of the worst of the flags; empty where there is none."""
        if not self.flags:
            return ""
        seen = self._light
        texts = (
            f"identical for {self._now - self._run.start:.1f} s",
            f"brightness {seen.mean:.0f} of 255",
            f"{100 * seen.white:.0f} % is white, usual are {100 * self._usual.white:.0f} %",
            f"sharpness {100 * self._sharpness:.0f} % of usual",
        )
        return texts[FLAGS.index(self.flags[0])]

    def _begin_anew(self) -> None:
        """After a gap nothing is known of the time between: what was only suspected is dropped."""
        self._run.forget()
        for latch in (self._black, self._white, self._smeared):
            latch.doubt()

    def _check(self, image: Image, sample: bytes, now: float) -> None:
        seen = self._light = light(sample)
        if self._settings.black:
            dark = seen.median <= BLACK[0] and seen.apart <= BLACK[1]
            self._black.update(dark, seen.median > NOT_BLACK[0] or seen.apart > NOT_BLACK[1], now)
        if not self._settings.lens:
            return
        if image.shape != self._shape:
            self._shape = image.shape
            self._restart()
        sharp = sharpness(image)
        white = self._check_white(seen, now)
        smeared = self._check_sharpness(seen, sharp, white, now)
        healthy = not (self._run.frozen or self._black.on or self._white.on or self._smeared.on)
        if healthy and not (white or smeared) and seen.mean >= DARK:
            self._usual.learn(seen, sharp, now)
        elif (self._white.lasts(now) or self._smeared.lasts(now)) and seen.white < BLOWN:
            self._restart()

    def _check_white(self, seen: Light, now: float) -> bool:
        limit = BLOWN
        if self._usual.known:
            limit = min(BLOWN, max(WHITE_AT_LEAST, self._usual.white + WHITER))
        self._white.update(seen.white >= limit, seen.white < limit - WHITE_BACK, now)
        return seen.white >= limit

    def _check_sharpness(self, seen: Light, sharp: float, white: bool, now: float) -> bool:
        """Edges fade with the light, so less of them is usual in less light."""
        usual = self._usual
        if not usual.known or usual.sharpness < SOFT or seen.mean < DARK or white:
            self._smeared.update(False, False, now)
            return False
        self._sharpness = sharp / usual.sharpness / min(1.0, seen.mean / usual.mean)
        self._smeared.update(self._sharpness < SMEARED, self._sharpness > SHARP, now)
        return self._sharpness < SMEARED

    def _restart(self) -> None:
        self._usual, self._white, self._smeared = Usual(), _Latch(), _Latch()


class _Run:
    """Identical pictures one after the other.

    Attributes:
        start: when the first of them came.
        frozen: whether they have been too many for too long.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._sample, self._thumb = b"", np.zeros(0, np.uint8)
        self._count, self._last = 0, 0.0
        self._longest, self._learned = 0.0, 0.0
        self.start, self.frozen = 0.0, False

    def add(self, sample: bytes, thumb: Array, now: float) -> None:
        if self._count and sample == self._sample and np.array_equal(thumb, self._thumb):
            self._count, self._last = self._count + 1, now
            self.frozen = self._count >= RUN and now - self.start >= self._limit(now)
            return
        if not self.frozen and self._last - self.start >= self._remembered(now):
            self._longest, self._learned = self._last - self.start, now
        self._sample, self._thumb = sample, thumb
        self._count, self.start, self._last, self.frozen = 1, now, now, False

    def forget(self) -> None:
        """The next picture is the first of its run."""
        self._count, self._last, self.frozen = 0, self.start, False

    def _limit(self, now: float) -> float:
        return max(self._least, min(LONGEST_S, REPEATS * self._remembered(now)))

    def _remembered(self, now: float) -> float:
        """The longest run while the feed was healthy, as far as it is not forgotten."""
        return self._longest * math.pow(0.5, (now - self._learned) / FORGET_S)


class _Latch:
    """A state that is entered and left only when it is certain.

    Attributes:
        on: whether it has been entered.
        start: when what led to it began.
    """

    def __init__(self) -> None:
        self.on, self.start = False, 0.0
        self._since: float | None = None

    def update(self, bad: bool, good: bool, now: float) -> None:
        """Where a picture is neither bad nor good, the state stays as it is."""
        if not (good if self.on else bad):
            self._since = None
            return
        if self._since is None:
            self._since = now
        if now - self._since >= (CLEAR_S if self.on else SET_S):
            self.start = self._since
            self.on, self._since = not self.on, None

    def doubt(self) -> None:
        """Begin to be certain anew."""
        self._since = None

    def lasts(self, now: float) -> bool:
        """Whether it has been on for so long that it is no exception any more."""
        return self.on and now - self.start >= ACCEPT_S
