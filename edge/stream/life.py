"""In which state a feed is, since when and why; how long to wait until the next attempt; how late it is."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any, Literal

from edge.stream.config import ReconnectConfig

State = Literal["connecting", "live", "stalled", "frozen", "black", "reconnecting", "ended", "failed"]
OVER: tuple[State, ...] = ("ended", "failed")
KEPT = 32
"""Changes of state that are remembered."""

JITTER = 0.3
"""Pauses differ by up to this share, so that sixteen cameras behind one switch do not come back at once."""
REFUSED_S = 60.0
"""Pause after an answer that will be the same next time; an account is locked by less."""

DRIFT = 200e-6
"""How fast a camera's clock may run off ours, seconds a second; a quartz is five times better."""
JUMP_S = 10.0
"""A timestamp that jumps by more than this, or back, begins a new count."""


@dataclass(frozen=True, slots=True)
class Change:
    """A feed came into a state.

    Attributes:
        at: UNIX seconds.
    """

    state: State
    at: float
    reason: str


class Life:
    """The state of one feed. Any thread may read; whoever watches or reads the feed changes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = Change("connecting", time.time(), "")
        self.changes: deque[Change] = deque([self.now], KEPT)
        self.counts: Counter[str] = Counter({"connecting": 1})

    @property
    def state(self) -> State:
        return self.now.state

    @property
    def over(self) -> bool:
        return self.now.state in OVER

    @property
    def trouble(self) -> str:
        """` while reconnecting: …`; empty for a feed that is live."""
        now = self.now
        if now.state in ("live", *OVER):
            return ""
        why = now.reason.partition("; the next attempt")[0]
        return f" while {now.state}" + (f": {why}" if why else "")

    def to(self, state: State, reason: str = "") -> bool:
        """Come into a state; whether that is another one than before. What is over stays so.

        A newer reason for the same state takes the place of the one before.
        """
        with self._lock:
            if self.over:
                return False
            if self.now.state == state:
                self.now = self.changes[-1] = replace(self.now, reason=reason or self.now.reason)
                return False
            self.now = Change(state, time.time(), reason)
            self.changes.append(self.now)
            self.counts[state] += 1
            return True

    def summary(self) -> dict[str, Any]:
        """State, reason and since when, and how often each state was entered."""
        now = self.now
        return {
            "state": now.state,
            "reason": now.reason or None,
            "since": round(now.at, 3),
            "states": dict(self.counts),
        }


class Backoff:
    """Pauses between attempts: doubling from the first to the longest, with jitter."""

    def __init__(self, settings: ReconnectConfig, numbers: random.Random | None = None) -> None:
        self._settings, self._numbers = settings, numbers or random.Random()
        self._pause = settings.first_s

    def next(self, refused: bool = False) -> float:
        """Seconds to wait before the next attempt.

        Args:
            refused: trying again soon is of no use.
        """
        pause = max(self._pause, REFUSED_S) if refused else self._pause
        self._pause = min(2 * self._pause, self._settings.longest_s)
        return pause * (1 + JITTER * (2 * self._numbers.random() - 1))

    def reset(self) -> None:
        """It worked."""
        self._pause = self._settings.first_s


class Lag:
    """How late frames come, against the one that came soonest after its timestamp.

    What waits in sockets and decoders is older than it looks: frames that come later and later after their
    timestamps are a queue that grows somewhere before the reader.
    """

    def __init__(self) -> None:
        self._soonest: float | None = None
        self._pts = self._arrived = 0.0

    def of(self, pts: float | None, arrived: float) -> float:
        """Seconds that a frame comes late; 0 for the first one and for frames without a timestamp.

        Args:
            pts: seconds on the feed's clock.
            arrived: seconds on ours, ascending.
        """
        if pts is None:
            return 0.0
        delay = arrived - pts
        if self._soonest is None or pts < self._pts or pts - self._pts > JUMP_S + arrived - self._arrived:
            self._soonest = delay
        else:
            self._soonest = min(delay, self._soonest + DRIFT * (arrived - self._arrived))
        self._pts, self._arrived = pts, arrived
        return delay - self._soonest
