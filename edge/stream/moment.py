"""When the next frame of a live feed is to be taken: so late that it does not grow old in a slot, and so soon
that the engine does not wait for it."""

from __future__ import annotations

from collections.abc import Iterable

RISE = 1.05
"""How fast, from batch to batch, the execution time rises that is counted on, and the preparation falls. The
other way they change at once: too soon costs a little age, too late costs the engine's time."""
MARGIN = 1e-3
"""Seconds that a thread may wake up late."""
LONGEST = 1.0
"""Seconds after which the loop looks around in any case."""


class LastMoment:
    """Follows how long batches are prepared and executed, by the loop's clock (seconds)."""

    def __init__(self) -> None:
        self._prepare = self._execute = 0.0
        self._done = 0.0

    def learn(self, prepare: float, execute: float, done: float) -> None:
        """A batch took so long to be prepared, and to be executed, and its results were there at `done`."""
        self._prepare = max(prepare, self._prepare / RISE)
        self._execute = min(execute, RISE * self._execute) if self._execute else execute
        self._done = done

    def pause(self, submitted: Iterable[float], now: float) -> float:
        """Seconds until the next frame is to be taken; not above 0: at once.

        Args:
            submitted: when the batches in flight were given to the engine, the oldest first.
        """
        free = self._done
        for moment in submitted:
            free = max(free, moment) + self._execute
        return min(free - self._prepare - MARGIN - now, LONGEST)
