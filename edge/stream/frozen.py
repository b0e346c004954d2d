"""Whether a feed's pictures are still being taken: none is new, or the noise of the sensor is gone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from edge.stream.thumb import Glance
from edge.types import Array

RUN = 4
"""Fewest pictures without a new one that count as frozen, however far apart they come."""
REPEATS = 3.0
"""A feed is frozen when nothing new comes for this many times longer than ever while it was healthy."""
FORGET_S = 600.0
"""In this time half of the longest such time is forgotten, so that one hiccup does not count for ever."""
LONGEST_S = 30.0
"""However often a feed repeats pictures, one that stays this long is frozen."""
MEMORY_S = 10.0
"""A picture that was seen so long ago is new: longer than most encoders' time from key frame to key frame."""

LOOK_S = 0.2
"""Pause between two looks at the noise."""
SLACK_S = 0.03
"""So much earlier than the others a picture may come, and still be the one that is looked at."""
LOOKS = 6
"""Fewest looks that say something: feeds slower than three pictures a second are not judged by noise."""
TILES = (8, 6)
CALM = 0.25
"""The noise is that of the calmest tiles, this share of them: where nothing moves."""
GONE, BACK = 0.25, 0.5
"""Parts of the usual noise: it is gone below the first, and until it is above the second."""
LEAST = 0.25
"""Usual noise, in grey levels, below which an encoder may well swallow all of it in the next quiet minute."""
CLOSE = 8
"""Grey levels by which the thumbnails of one still picture differ, each time it is encoded anew."""
DELAY_S = 3.0
"""A still picture's noise is taken for usual after this time: first it has to be known not to be frozen."""
FALL, RISE = 0.1, 0.001
"""What a look below the usual noise, or above it, counts: usual is the least of some minutes."""
KNOWN_S = 5.0
"""From when on what is usual is known."""
FEW = 3
"""Looks after which it is certain that something moves, or that noise is back."""
BLINKS = 2
"""Looks of a still picture that may look like motion: at a key frame."""


class Frozen:
    """Looks at every picture of one feed.

    A camera whose sensor hangs, and which encodes its last picture for ever, gives either the same pictures
    over and over (one, or all those between two key frames), or ever better copies of one picture, in which
    nothing is left of the noise that the feed had.

    Attributes:
        on: whether the feed is frozen.
        start: when what led to it began.
    """

    def __init__(self, least: float) -> None:
        self._repeats, self._noise = _Repeats(least), _Noise(least)
        self.on, self.start = False, 0.0
        self._now = 0.0

    def look(self, glance: Glance, now: float) -> None:
        """The next picture, and when it came."""
        self._now = now
        self._noise.add(glance, now)
        self._repeats.add(glance, self._noise.thumb, now)
        self.on = self._repeats.frozen or self._noise.gone
        self.start = self._repeats.start if self._repeats.frozen else self._noise.start

    def forget(self) -> None:
        """After a gap nothing is known of the time between, and the encoder may be set otherwise."""
        self._repeats.forget()
        self._noise.restart()

    def restart(self) -> None:
        """Pictures come in another size: their noise is another one."""
        self._noise.restart()

    @property
    def reason(self) -> str:
        what = "nothing new" if self._repeats.varied else "identical"
        return f"{what if self._repeats.frozen else 'no noise'} for {self._now - self.start:.1f} s"


class _Seen(NamedTuple):
    """A picture that was seen: when last, and its thumbnail's cells once it has come again."""

    at: float
    cells: bytes | None


class _Repeats:
    """Pictures that have been seen before: their marks have, and what is between the rows of the marks is the
    same too, from the second time on.

    Attributes:
        start: when the last one came that had not.
        varied: whether there have been different ones since.
        frozen: whether there have been too many for too long.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._seen: dict[int, _Seen] = {}
        self._thumb = np.zeros(0, np.uint8)
        self._mark, self._count, self._last = 0, 0, 0.0
        self._longest, self._learned = 0.0, 0.0
        self.start, self.varied, self.frozen = 0.0, False, False

    def add(self, glance: Glance, usual: Array, now: float) -> None:
        """
        Args:
            usual: a thumbnail of what the feed has shown lately.
        """
        mark, seen = glance.mark, self._seen.get(glance.mark)
        same = self._count > 0 and mark == self._mark
        if seen is not None and self._count and self._is_old(seen, same, glance):
            self._count, self._last, self.varied = self._count + 1, now, self.varied or not same
            self.frozen = self._count >= RUN and now - self.start >= self._limit(now)
        else:
            if not self.frozen and self._last - self.start >= self._remembered(now):
                self._longest, self._learned = self._last - self.start, now
            self._thumb = usual if seen is None else glance.thumb
            self._count, self.start, self._last = 1, now, now
            self.varied = self.frozen = False
        self._mark = mark
        self._remember(mark, _Seen(now, None if seen is None else glance.thumb.tobytes()))

    def forget(self) -> None:
        """The next picture is new."""
        self._seen.clear()
        self._count, self._last, self.varied, self.frozen = 0, self.start, False, False

    def _is_old(self, seen: _Seen, same: bool, glance: Glance) -> bool:
        """Seen before, and it is no film that begins again: everything since was much the same."""
        if seen.cells is not None and seen.cells != glance.thumb.tobytes():
            return False
        return same or _close(glance.thumb, self._thumb)

    def _remember(self, mark: int, seen: _Seen) -> None:
        self._seen.pop(mark, None)  # the latest last
        self._seen[mark] = seen
        while seen.at - self._seen[oldest := next(iter(self._seen))].at > MEMORY_S:
            del self._seen[oldest]

    def _limit(self, now: float) -> float:
        return max(self._least, min(LONGEST_S, REPEATS * self._remembered(now)))

    def _remembered(self, now: float) -> float:
        """The longest time while the feed was healthy, as far as it is not forgotten."""
        return self._longest * math.pow(0.5, (now - self._learned) / FORGET_S)


class _Look(NamedTuple):
    at: float
    level: float
    thumb: Array
    moved: bool


class _Noise:
    """Noise that was usual for a feed, and is not there any more.

    An encoder that has to save bits swallows noise when something moves, and for a while after, so the usual
    noise is the least there was; where it swallows most of it, nothing can be told.

    Attributes:
        gone: whether the picture is still, and its noise gone.
        start: since when it is still.
        thumb: of the newest picture that was looked at.
    """

    def __init__(self, least: float) -> None:
        self._least = max(least - LOOK_S, least / 2)
        self._before: Array | None = None
        self._last = self._next = -math.inf
        self._looks: deque[_Look] = deque()
        self._pending: deque[tuple[float, float]] = deque()
        self._usual = 0.0
        self._first: float | None = None
        self._picture = np.zeros(0, np.uint8)
        self.thumb = np.zeros(0, np.uint8)
        self.gone, self.start = False, 0.0

    def add(self, glance: Glance, now: float) -> None:
        """The next picture. Now and then it is compared with the one before it, which alone says what is
        noise: neither is sampled otherwise."""
        before, pause, self._last = self._before, now - self._last, now
        look = now >= self._next and before is not None
        if look:
            self._next = now + LOOK_S
        self._before = glance.sample if now + pause >= self._next - SLACK_S else None
        if look and before is not None and before.shape == glance.sample.shape:
            self._look(noise(glance.sample, before), glance.thumb, now)

    def _look(self, level: float, thumb: Array, now: float) -> None:
        moved = bool(self._looks) and not _close(thumb, self._looks[-1].thumb)
        self._looks.append(_Look(now, level, thumb, moved))
        self.thumb = thumb
        while len(self._looks) > 1 and now - self._looks[1].at >= self._least:
            self._looks.popleft()
        if _another(thumb, self._looks[0].thumb):
            self.restart()
        else:
            self._judge(now)

    def restart(self) -> None:
        """Nothing is usual any more."""
        self._before, self._usual, self._first, self.gone = None, 0.0, None, False
        self._looks.clear()
        self._pending.clear()

    def _judge(self, now: float) -> None:
        first, *others = self._looks
        if self.gone:
            self.gone = not self._is_back(others[-FEW:])
            return
        lasts = now - first.at >= self._least and len(others) >= LOOKS
        levels = [look.level for look in self._looks]
        known = self._first is not None and now - self._first >= KNOWN_S and self._usual >= LEAST
        if lasts and known and self._is_still(first, others):
            third = len(levels) // 3
            parts = (levels[:third], levels[third:-third], levels[-third:])
            self.gone = all(_median(part) < GONE * self._usual for part in parts)
        if self.gone:
            self.start, self._picture = first.at, others[-1].thumb
            self._pending.clear()
        elif all(look.moved for look in others[-FEW:]):
            self._learn(_median(levels), now)
        elif lasts:
            self._pending.append((now, _median(levels)))
        while self._pending and now - self._pending[0][0] >= DELAY_S:
            self._learn(self._pending.popleft()[1], now)

    def _is_still(self, first: _Look, others: Sequence[_Look]) -> bool:
        """A key frame may look like motion, there and back."""
        return sum(look.moved for look in others) <= BLINKS and _close(others[-1].thumb, first.thumb)

    def _is_back(self, looks: Sequence[_Look]) -> bool:
        """Whether there is noise again, or another picture."""
        if _median([look.level for look in looks]) >= BACK * self._usual:
            return True
        return not any(_close(look.thumb, self._picture) for look in looks)

    def _learn(self, level: float, now: float) -> None:
        if self._first is None:
            self._first, self._usual = now, level
        self._usual += (FALL if level < self._usual else RISE) * (level - self._usual)


def noise(sample: Array, before: Array) -> float:
    """How much two samples of pictures differ where they differ least, in grey levels."""
    change = cv2.absdiff(sample, before).astype(np.float32)
    tiles = cv2.resize(change, TILES, interpolation=cv2.INTER_AREA)
    return float(np.sort(tiles, axis=None)[int(CALM * tiles.size)])


def _another(thumb: Array, other: Array) -> bool:
    """Whether it is another scene, or light: most of the picture is not what it was."""
    if thumb.shape != other.shape:
        return True
    return 2 * int(np.count_nonzero(cv2.absdiff(thumb, other) > CLOSE // 2)) > thumb.size


def _median(levels: Sequence[float]) -> float:
    return sorted(levels)[len(levels) // 2]


def _close(thumb: Array, other: Array) -> bool:
    return thumb.shape == other.shape and float(cv2.norm(thumb, other, cv2.NORM_INF)) <= CLOSE
