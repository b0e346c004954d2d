"""What a soak notes every second, and what it must not find at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.stream.feed import Feed
from edge.stream.life import Change
from feeds.faults import SHOWS, Done
from feeds.stage import MIB, Interval, Size, unexplained

NOTICED_S = 2.5
"""From a fault to the state that shows it."""
SLACK_S = 1.0
"""Beyond that, before it is a violation: the machine has other work too."""
BACK_S = 15.0
"""From the end of a fault until the feed is live, at worst: a camera's pause after failures is 10 s."""
AFTER_S = 8.0
"""Seconds after a fault in which frames may still come late."""
OLDEST_MS = 500.0
"""Age of results, 99 of 100 calm feed-seconds, 99 of 100 results in each."""
CALM_ROWS = 10
"""Seconds at the beginning and at the end in which nothing is done."""
GROWTH_MIB, GROWTH_MIB_H = 16.0, 30.0
"""Memory that the second half of a run may add, and its slope, MiB an hour, in runs of `LONG_S` and more. The
first half is not judged: glibc keeps an arena for each of many threads, and each grows to what it once
needed. Shorter runs show no slope but noise."""
LONG_S = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One second.

    Attributes:
        at: seconds from the start of the run.
        ages_ms: p99 of each feed's results of this second; None where there were none.
        calm: whether nothing was wrong with a feed, now or shortly before.
    """

    at: float
    size: Size
    ages_ms: tuple[float | None, ...]
    states: tuple[str, ...]
    calm: tuple[bool, ...]


class Watcher:
    """Looks at feeds and process once a second."""

    def __init__(self, feeds: Sequence[Feed], start: float) -> None:
        self.feeds, self.start = feeds, start
        self.rows: list[Row] = []
        self.changes: dict[str, list[Change]] = {feed.name: [] for feed in feeds}
        self.miscounted: set[str] = set()
        self._intervals = [Interval(feed.times.histograms["total"]) for feed in feeds]
        self._troubled = dict.fromkeys((feed.name for feed in feeds), -AFTER_S)

    def look(self, troubled: set[str]) -> None:
        """Note one second.

        Args:
            troubled: the feeds that something is done to just now.
        """
        at = time.perf_counter() - self.start
        for name in troubled:
            self._troubled[name] = at
        ages = []
        for feed, interval in zip(self.feeds, self._intervals, strict=True):
            part = interval.next()
            ages.append(1e3 * part.percentile(0.99) if part.count else None)
            if feed.account.counts().in_flight not in range(8):
                self.miscounted.add(feed.name)
            self._note_changes(feed)
        calm = tuple(at - self._troubled[feed.name] >= AFTER_S for feed in self.feeds)
        states = tuple(feed.life.state for feed in self.feeds)
        self.rows.append(Row(at, Size.now(), tuple(ages), states, calm))

    def _note_changes(self, feed: Feed) -> None:
        known = self.changes[feed.name]
        last = known[-1].at if known else 0.0
        known += [change for change in list(feed.life.changes) if change.at > last]


@dataclass(frozen=True, slots=True)
class Reaction:
    """How a feed took a fault; seconds, None where it did not.

    Attributes:
        noticed: from its beginning to the state that shows it.
        back: from its end to being live.
    """

    kind: str
    feed: str
    noticed: float | None
    back: float | None


def reactions(done: Sequence[Done], names: Sequence[Sequence[str]], watcher: Watcher) -> list[Reaction]:
    """Every fault that shows, with every feed that it struck.

    Args:
        names: of the feeds, by server and mount.
    """
    found = []
    for event in done:
        fault = event.fault
        if fault.kind not in SHOWS:
            continue
        struck = names[fault.server] if fault.mount is None else [names[fault.server][fault.mount]]
        for name in struck:
            changes = watcher.changes[name]
            shown = [c.at for c in changes if c.at >= event.began and c.state in SHOWS[fault.kind]]
            after = [c.at for c in changes if c.at >= event.ended and c.state == "live"]
            state = [c.state for c in changes if c.at < event.ended][-1:]
            back = 0.0 if state == ["live"] else after[0] - event.ended if after else None
            found.append(Reaction(fault.kind, name, shown[0] - event.began if shown else None, back))
    return found


def growth(rows: Sequence[Row]) -> dict[str, float]:
    """What was held at the beginning and at the end, where nothing is done to feeds, and memory's slope."""
    warm = rows[len(rows) // 2 :]
    some = max(CALM_ROWS, len(warm) // 10)
    result = {
        "rss_mib_first": statistics.median(row.size.rss for row in rows[:CALM_ROWS]) / MIB,
        "rss_mib_half": statistics.median(row.size.rss for row in warm[:some]) / MIB,
        "rss_mib_last": statistics.median(row.size.rss for row in warm[-some:]) / MIB,
        "rss_slope_mib_h": 3600
        * statistics.linear_regression([r.at for r in warm], [r.size.rss / MIB for r in warm]).slope,
    }
    for key, part in (("first", rows[:CALM_ROWS]), ("last", rows[-CALM_ROWS:])):
        result[f"threads_{key}"] = statistics.median(row.size.threads for row in part)
        result[f"descriptors_{key}"] = statistics.median(row.size.descriptors for row in part)
    return result


def calm_ages_ms(rows: Sequence[Row]) -> list[float]:
    """Of every feed-second in which nothing was wrong, in the order of time."""
    ages = [pair for row in rows for pair in zip(row.ages_ms, row.calm, strict=True)]
    return [age for age, calm in ages if calm and age is not None]


def share_of(values: Sequence[float], q: float) -> float:
    """The value that a share `q` does not exceed; 0 without any."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else 0.0


def violations(
    watcher: Watcher, found: Sequence[Reaction], grown: dict[str, float], witnesses: Sequence[str]
) -> list[str]:
    """What must not be.

    Args:
        witnesses: feeds that nothing was done to.
    """
    rows, wrong = watcher.rows, [f"{name}: miscounted on the way" for name in sorted(watcher.miscounted)]
    for feed in watcher.feeds:
        if lost := unexplained(feed):
            wrong.append(f"{feed.name}: {lost} frames without a fate")
    for r in found:
        if r.noticed is None or r.noticed > NOTICED_S + SLACK_S:
            wrong.append(f"{r.feed}: {r.kind} was noticed after {_seconds(r.noticed)}")
        if r.back is None or r.back > BACK_S:
            wrong.append(f"{r.feed}: live {_seconds(r.back)} after {r.kind} had ended")
    for feed, state in zip(watcher.feeds, rows[-1].states, strict=True):
        if state != "live":
            wrong.append(f"{feed.name}: {state} at the end")
    for name in witnesses:
        left = [c.state for c in watcher.changes[name] if c.state not in ("connecting", "live", "ended")]
        wrong += [f"{name}: {state}, though nothing was done to it" for state in left]
    oldest = share_of(calm_ages_ms(rows), 0.99)
    if oldest > OLDEST_MS:
        wrong.append(f"results were {oldest:.0f} ms old in calm seconds")
    return wrong + _growth_violations(grown, rows[-1].at)


def _growth_violations(grown: dict[str, float], seconds: float) -> list[str]:
    wrong = []
    added = grown["rss_mib_last"] - grown["rss_mib_half"]
    if added > GROWTH_MIB:
        wrong.append(f"{added:.1f} MiB of memory more at the end than half-way")
    if seconds >= LONG_S and grown["rss_slope_mib_h"] > GROWTH_MIB_H:
        wrong.append(f"memory grows by {grown['rss_slope_mib_h']:.0f} MiB an hour")
    for key in ("threads", "descriptors"):
        if (more := grown[f"{key}_last"] - grown[f"{key}_first"]) > 0:
            wrong.append(f"{more:g} {key} more at the end")
    return wrong


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def columns(watcher: Watcher) -> dict[str, Any]:
    """The rows by column, as they are written."""
    rows = watcher.rows
    feeds = {
        feed.name: [None if row.ages_ms[i] is None else round(row.ages_ms[i] or 0.0, 1) for row in rows]
        for i, feed in enumerate(watcher.feeds)
    }
    return {
        "at_s": [round(row.at, 2) for row in rows],
        "rss_mib": [round(row.size.rss / MIB, 2) for row in rows],
        "threads": [row.size.threads for row in rows],
        "descriptors": [row.size.descriptors for row in rows],
        "age_p99_ms": feeds,
    }
