"""`null:` takes results and keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.errors import UsageError
from edge.sinks import Address, FeedInfo
from edge.types import Result


class NullSink:
    instant = True

    def write(self, result: Result) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def open(address: Address, feeds: Sequence[FeedInfo]) -> NullSink:
    if address.place:
        raise UsageError(address.uri, "this sink has no place", "write null:")
    address.settings({})
    return NullSink()


def outputs(address: Address, feeds: Sequence[FeedInfo]) -> list[Path]:
    return []
