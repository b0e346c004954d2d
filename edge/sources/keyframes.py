"""When a key frame has to come before anything else can be decoded."""

from __future__ import annotations

KEY_PATIENCE = 10.0
"""Seconds to wait for a key frame; a stream that refreshes its picture bit by bit has none."""


class KeyFrames:
    """Whether a key frame has to be waited for.

    Attributes:
        gap: seconds between the last two.
        cause: why what follows cannot be decoded, `started`, `damaged` or `skipped`; "" where it can.
    """

    def __init__(self, now: float) -> None:
        self.gap = float("inf")
        self.cause, self._since = "started", now
        self._last: float | None = None

    def wait(self, cause: str, now: float) -> None:
        """From now on a key frame is needed; damage stays the cause when more is left out."""
        self.cause = "damaged" if self.cause == "damaged" else cause
        self._since = now

    def restart(self, now: float) -> bool:
        """A key frame came; tells whether it was waited for."""
        self.gap = now - self._last if self._last is not None else self.gap
        waited, self.cause, self._last = bool(self.cause), "", now
        return waited

    def waiting(self, now: float) -> bool:
        if now > self._since + KEY_PATIENCE:
            self.cause = ""
        return bool(self.cause)
