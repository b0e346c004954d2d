"""A run that scores itself: results of frames whose right answer the source knows."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from edge.types import Array, Payload, Result


class Counts(Protocol):
    """Hits and misses that add up over frames."""

    def __add__(self, other: Any, /) -> Any: ...

    @property
    def f1(self) -> float: ...


@runtime_checkable
class Judge(Protocol):
    """A task that can compare a finding with the truth of a test pattern."""

    metric: str

    def score_truth(self, truth: Array, payload: Payload) -> Counts: ...


class Scoreboard:
    """A sink that keeps one score per feed, so that scoring runs beside the loop as any slow sink does."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._counts: dict[str, Counts] = {}

    def write(self, result: Result) -> None:
        truth = result.frame.truth
        if truth is None:
            return
        counts = self.judge.score_truth(truth, result.payload)
        feed = result.frame.feed
        self._counts[feed] = self._counts[feed] + counts if feed in self._counts else counts

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def score(self, feed: str) -> dict[str, float] | None:
        """The task's metric over all frames of a feed; None where no frame had a known answer."""
        if feed not in self._counts:
            return None
        return {self.judge.metric: round(float(self._counts[feed].f1), 4)}
