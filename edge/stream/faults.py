"""Faults that must not end a run: each is counted where it happens and told here, and logged sparingly."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from edge.privacy import Privacy

log = logging.getLogger("edge.stream")

QUIET_SECONDS = 10.0
"""A cause that keeps on happening is told this often."""


@dataclass(slots=True)
class _Cause:
    told: float
    count: int = 1
    untold: int = 0


@dataclass
class Faults:
    """The faults of one run by cause; any thread may report.

    Attributes:
        privacy: what may be said of the files that errors name.
    """

    privacy: Privacy = field(default_factory=Privacy)
    causes: dict[tuple[str, str], _Cause] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, where: str, what: str, error: BaseException) -> None:
        """Log a fault: at once when its cause is new, else at most every `QUIET_SECONDS`, with a count.

        Args:
            where: the feed or sink.
            what: the stage that failed.
        """
        now, key = time.monotonic(), (where, f"{what}/{type(error).__name__}")
        with self._lock:
            cause = self.causes.get(key)
            if cause is None:
                self.causes[key] = _Cause(now)
                more = ""
            else:
                cause.count += 1
                cause.untold += 1
                if now - cause.told < QUIET_SECONDS:
                    return
                more = f" (and {cause.untold - 1} times since)" if cause.untold > 1 else ""
                cause.told, cause.untold = now, 0
        log.warning("%s: %s failed: %s%s", where, what, self.describe(error), more)

    def describe(self, error: BaseException) -> str:
        """The error in one line, as it may be told."""
        return self.privacy.conceal(describe(error), error)

    @property
    def total(self) -> int:
        with self._lock:
            return sum(cause.count for cause in self.causes.values())


def describe(error: BaseException) -> str:
    """The error in one line; the type's name where it says nothing itself."""
    from edge.errors import EdgeError

    text = " ".join(str(error).split())
    if isinstance(error, EdgeError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
