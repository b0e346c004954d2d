"""The line on a terminal that follows a run."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.stream.feed import Feed
    from edge.stream.run import Run

SECONDS = 0.25
"""Between two looks."""
FEW = 3
"""So many feeds are told one by one, if there is room."""
CLEAR = "\r\033[K"
TROUBLES = ("failed", "reconnecting", "stalled", "frozen", "black", "connecting")
"""The worst first."""
PLAIN = ("stalled", "frozen", "black")
"""States that say enough without their reason."""


@contextmanager
def following(running: Run) -> Iterator[None]:
    """A line that follows the run, below what is logged; nothing when standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    finished = threading.Event()

    def follow() -> None:
        while not finished.wait(SECONDS):
            line = status(running.feeds, (os.get_terminal_size(2).columns or 80) - 1)
            print(CLEAR + line, end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=follow, name="status", daemon=True)
    log, handler = logging.getLogger("edge"), _Above()
    log.addHandler(handler)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        log.removeHandler(handler)
        print(CLEAR, end="", file=sys.stderr, flush=True)


def status(feeds: Sequence[Feed], columns: int) -> str:
    """What the feeds do, in so many columns at most."""
    alone = "  ".join(_alone(feed) for feed in feeds)
    if len(feeds) <= FEW and len(alone) <= columns:
        return alone
    states = [feed.life.state for feed in feeds]
    parts = [f"{states.count('live')} live"]
    parts += [_trouble(state, feeds) for state in TROUBLES if state in states]
    parts += [f"{states.count('ended')} ended"] if "ended" in states else []
    counts = [feed.account.counts() for feed in feeds]
    dropped = sum(sum(count.dropped.values()) for count in counts)
    end = (
        f"{sum(count.delivered for count in counts)}"
        + (f" (-{dropped})" if dropped else "")
        + f"  {_milliseconds(feeds):.0f} ms"
    )
    room = columns - len(end) - 2
    return f"{_cut(', '.join(parts), room)}  {end}" if room > len(parts[0]) else _cut(end, columns)


def _alone(feed: Feed) -> str:
    counts = feed.account.counts()
    if feed.life.state not in ("live", "ended"):
        why = _why(feed)
        return f"{feed.name} {feed.life.state}" + (f": {why}" if why else "")
    lost = sum(counts.failed.values())
    text = f"{feed.name} {counts.delivered}"
    text += f" (-{sum(counts.dropped.values())})" if counts.dropped else ""
    text += f" {lost} failed" if lost else ""
    return f"{text}  {_milliseconds([feed]):.0f} ms"


def _trouble(state: str, feeds: Sequence[Feed]) -> str:
    """`2 reconnecting (cam3: connection refused, cam4)`."""
    those = [feed for feed in feeds if feed.life.state == state]
    why = _why(those[0])
    first = f"{those[0].name}: {why}" if why else those[0].name
    return f"{len(those)} {state} ({', '.join([first, *(feed.name for feed in those[1:])])})"


def _why(feed: Feed) -> str:
    """The reason of its state in a few words: without address, advice and the time of the next attempt."""
    if feed.life.state in PLAIN:
        return ""
    reason = re.sub(r"; the next attempt in [\d.]+ s$", "", feed.life.now.reason)
    reason = re.sub(r" \([^()]*\)$", "", reason)
    return reason.partition(f"{feed.uri}: ")[2] or reason


def _milliseconds(feeds: Sequence[Feed]) -> float:
    """The slowest feed's usual time from frame to result."""
    return 1e3 * max((feed.times.histograms["total"].percentile(0.5) for feed in feeds), default=0.0)


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: max(0, columns - 1)] + "…"


class _Above(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes warnings where the line was; the next look draws it again below."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setLevel(logging.WARNING)

    def format(self, record: logging.LogRecord) -> str:
        return CLEAR + super().format(record)
