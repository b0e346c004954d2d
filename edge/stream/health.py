"""Whether a feed's pictures can be believed: frozen, black, overexposed, smeared."""

from __future__ import annotations

import math

from edge.stream.config import HealthConfig
from edge.stream.frozen import Frozen
from edge.stream.lens import Light, Usual, light, sharpness
from edge.stream.thumb import Glance
from edge.types import Array

FLAGS = ("frozen", "black", "overexposed", "smeared")
"""The worst first."""

GLANCE_S = 0.025
"""Of faster feeds not every picture is looked at."""
LOOK_S, LENS_S = 0.2, 0.5
"""Pauses between two looks at the light, and at the lens, which costs more than all the rest."""
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
    """Looks at the frames of one feed.

    - frozen (`edge.stream.frozen`): nothing new for `frozen_s`, and for three times as long as this feed has
      repeated pictures before (encoders at low bit rates do); or a still picture that has lost its noise.
      Not where black or white leaves no room for noise.
    - black: dark and without anything to be seen, caption apart. A camera that amplifies its noise in a dark
      room, or sees a few lights in it, is not black: it is night.
    - overexposed, smeared: compared with what is usual for this feed. A scene or light that stays becomes the
      usual one after three minutes; only a picture that is white all over does not.

    Attributes:
        flags: of the last picture.
    """

    def __init__(self, settings: HealthConfig) -> None:
        self._settings = settings
        self._now = self._next = self._next_lens = -math.inf
        self._shape: tuple[int, ...] = ()
        self._frozen = Frozen(settings.frozen_s)
        self._black, self._white, self._smeared = _Latch(), _Latch(), _Latch()
        self._usual = Usual()
        self._light = Light(0.0, 0, 0.0, 0.0)
        self._sharpness = 1.0
        self.flags: tuple[str, ...] = ()

    def look(self, glance: Glance, now: float) -> tuple[str, ...]:
        """What is wrong with a picture, the worst first; none: it is healthy.

        Args:
            now: seconds, on any clock that does not go back.
        """
        settings = self._settings
        if not (settings.frozen_s or settings.black or settings.lens):
            return ()
        if 0 <= now - self._now < GLANCE_S:
            return self.flags
        if now - self._now >= settings.stalled_s:
            self._begin_anew()
        self._now = now
        if glance.image.shape != self._shape:
            self._shape = glance.image.shape
            self._restart()
            self._frozen.restart()
        if settings.frozen_s:
            self._frozen.look(glance, now)
        if now >= self._next and (settings.black or settings.lens):
            self._next = now + LOOK_S
            self._check(glance, now)
        blank = self._black.on or (self._white.on and self._light.white >= BLOWN)
        on = (self._frozen.on and not blank, self._black.on, self._white.on, self._smeared.on)
        self.flags = tuple(flag for flag, is_on in zip(FLAGS, on, strict=True) if is_on)
        return self.flags

    @property
    def since(self) -> float | None:
        """When the worst of the flags began, on the clock of `look`; None where there is none."""
        starts = (self._frozen.start, self._black.start, self._white.start, self._smeared.start)
        return starts[FLAGS.index(self.flags[0])] if self.flags else None

    @property
    def reason(self) -> str:
        """What was seen of the worst of the flags; empty where there is none."""
        if not self.flags:
            return ""
        seen = self._light
        texts = (
            self._frozen.reason,
            f"brightness {seen.mean:.0f} of 255",
            f"{100 * seen.white:.0f} % is white, usual are {100 * self._usual.white:.0f} %",
            f"sharpness {100 * self._sharpness:.0f} % of usual",
        )
        return texts[FLAGS.index(self.flags[0])]

    def _begin_anew(self) -> None:
        """After a gap nothing is known of the time between: what was only suspected is dropped."""
        self._frozen.forget()
        for latch in (self._black, self._white, self._smeared):
            latch.doubt()

    def _check(self, glance: Glance, now: float) -> None:
        seen = self._light = light(glance.sample)
        if self._settings.black:
            dark = seen.median <= BLACK[0] and seen.apart <= BLACK[1]
            self._black.update(dark, seen.median > NOT_BLACK[0] or seen.apart > NOT_BLACK[1], now)
        if self._settings.lens and now >= self._next_lens:
            self._next_lens = now + LENS_S
            self._check_lens(glance.image, seen, now)

    def _check_lens(self, image: Array, seen: Light, now: float) -> None:
        sharp = sharpness(image)
        white = self._check_white(seen, now)
        smeared = self._check_sharpness(seen, sharp, white, now)
        healthy = not (self._frozen.on or self._black.on or self._white.on or self._smeared.on)
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
