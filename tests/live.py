"""Feeds that come and go without a camera: openers with a script, sources that hang, runs in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from streaming import Script, pictures

from edge.errors import EdgeError
from edge.sources import Picture, Source
from edge.stream.config import FeedSettings
from edge.stream.feed import Feed
from edge.stream.run import Run, Summary

SOON = {"first_s": 0.005, "longest_s": 0.02}
"""Pauses between attempts that no test has to wait for."""


class Opener:
    """One step an attempt: a source, an exception to raise, or what makes one of them; the last for ever."""

    def __init__(self, *steps: Any) -> None:
        self.steps, self.attempts = steps, 0

    def __call__(self) -> Source:
        step = self.steps[min(self.attempts, len(self.steps) - 1)]
        self.attempts += 1
        made = step() if callable(step) else step
        if isinstance(made, Exception):
            raise made
        return made


def camera(count: int = 3, problem: str = "the cable was pulled", seed: int = 0) -> Callable[[], Script]:
    """A live source that gives so many pictures and is gone then."""

    def connect() -> Script:
        return tape(pictures(count, seed), problem)

    return connect


def tape(steps: Iterable[Any], problem: str = "the cable was pulled") -> Script:
    """A live source that plays these steps and is gone then."""
    source = Script(steps, live=True)
    source.problem = problem
    return source


class Hanging(Script):
    """Gives its pictures, then hangs in a read until `back` is set; then gives `late`."""

    def __init__(self, count: int = 2, late: int = 1) -> None:
        super().__init__(pictures(count), live=True)
        self.late = iter(pictures(late, seed=9))
        self.hangs, self.back = threading.Event(), threading.Event()

    def read(self) -> Picture | None:
        if (picture := super().read()) is not None:
            return picture
        self.hangs.set()
        self.back.wait(60)
        return next(self.late, None)


class Steady(Script):
    """A live source without an end, one picture every `every` seconds."""

    def __init__(self, every: float = 0.002, seed: int = 0) -> None:
        super().__init__((), live=True)
        self.every, self.shown = every, pictures(16, seed)
        self.cut = threading.Event()
        self.problem = "the cable was pulled"

    def read(self) -> Picture | None:
        if self.cut.wait(self.every) or self.closed:
            return None
        self.read_count += 1
        return self.shown[self.read_count % len(self.shown)]


def live_feed(name: str, opener: Callable[[], Source], **settings: Any) -> Feed:
    """A feed that is looked for again at once; `settings` as in a stream's config."""
    settings["reconnect"] = SOON | settings.get("reconnect", {})
    made = FeedSettings.model_validate(settings)
    return Feed(name, f"{name}:", None, settings=made, opener=opener)


class Going:
    """A run in a thread of its own."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.summary: Summary | None = None
        self.error: EdgeError | None = None
        self.thread = threading.Thread(target=self._go, name="going")
        self.thread.start()

    def _go(self) -> None:
        try:
            self.summary = self.run.go()
        except EdgeError as e:
            self.error = e

    def end(self) -> Summary:
        """Stop it; what happened."""
        self.run.stop.set()
        return self.wait()

    def wait(self) -> Summary:
        """Until it ends by itself; what happened."""
        self.thread.join(60)
        assert not self.thread.is_alive(), "the run does not end"
        if self.error:
            raise self.error
        assert self.summary
        return self.summary

    def row(self, name: str) -> dict[str, Any]:
        """A feed's part of the summary, after the end."""
        assert self.summary
        return next(row for row in self.summary.data["feeds"] if row["feed"] == name)


@contextmanager
def going(run: Run) -> Iterator[Going]:
    """The run, until the block ends or stops it."""
    started = Going(run)
    try:
        yield started
    finally:
        run.stop.set()
        started.thread.join(60)


def until(fact: Callable[[], Any], seconds: float = 30.0) -> float:
    """Wait for something to become true; how long that took."""
    start = time.perf_counter()
    while not fact():
        assert time.perf_counter() - start < seconds, "it does not become true"
        time.sleep(0.002)
    return time.perf_counter() - start


def delivered(feed: Feed) -> int:
    return feed.account.counts().delivered


def adds_up(feed: Feed) -> bool:
    """Whether every frame that was read has one fate, and the reader counted as many."""
    counts = feed.account.counts()
    decided = counts.delivered + sum(counts.failed.values()) + sum(counts.dropped.values())
    return counts.in_flight == 0 and decided == counts.read == feed.reader_count
