"""When a feed is watched closely."""

from __future__ import annotations

import math

from edge.stream.config import AlarmConfig
from edge.types import Payload


class Alarm:
    """Raised by what is found or by how much moves; lasts for `seconds` after the last trigger."""

    def __init__(self, settings: AlarmConfig) -> None:
        self._settings = settings
        self._until = -math.inf

    def seen(self, payload: Payload, now: float) -> None:
        """A result came: one of the classes with a sufficient score raises the alarm."""
        settings = self._settings
        if not settings.classes:
            return
        found = payload.found()
        if any(found.get(name, -1.0) >= settings.score for name in settings.classes):
            self._raise(now)

    def moved(self, share: float, now: float) -> None:
        """This part of the picture, 0 to 1, is in motion."""
        if self._settings.motion is not None and share >= self._settings.motion:
            self._raise(now)

    def active(self, now: float) -> bool:
        return now < self._until

    def _raise(self, now: float) -> None:
        self._until = max(self._until, now + self._settings.seconds)
