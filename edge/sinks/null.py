"""`null:` takes results and keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.errors import UsageError
from edge.sinks import FeedInfo
from edge.types import Result


class NullSink:
    def write(self, result: Result) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def open(rest: str, feeds: Sequence[FeedInfo]) -> NullSink:
    if rest:
        raise UsageError(f"null:{rest}", "this sink has no place", "write null:")
    return NullSink()


def outputs(rest: str, feeds: Sequence[FeedInfo]) -> list[Path]:
    return []
