"""When the next frame of a live feed is to be taken: so late that it does not grow old in a slot, and so soon
that the engine does not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

WINDOW = 15
"""Batches that are remembered. Of their preparations it counts on a slow one, of their executions on a quick
one, but not on the worst: a thread that had to wait once for a processor says nothing of the next batch, and
who counts on it has every frame grow old in a slot."""
SLOW, QUICK = 0.75, 0.25
MARGIN = 1e-3
"""Seconds that a thread may wake up late."""
LONGEST = 1.0
"""Seconds after which the loop looks around in any case."""


class LastMoment:
    """Follows how long batches are prepared and executed, by the loop's clock (seconds)."""

    def __init__(self) -> None:
        self._prepared: deque[float] = deque(maxlen=WINDOW)
        self._executed: deque[float] = deque(maxlen=WINDOW)
        self._prepare = self._execute = self._done = 0.0

    def learn(self, prepare: float, execute: float, done: float) -> None:
        """A batch took so long to be prepared, and to be executed, and its results were there at `done`."""
        self._prepared.append(prepare)
        self._executed.append(execute)
        self._prepare, self._execute = _at(SLOW, self._prepared), _at(QUICK, self._executed)
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


def _at(share: float, values: Iterable[float]) -> float:
    """The value that this share of them is below."""
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1) + 0.5)]
