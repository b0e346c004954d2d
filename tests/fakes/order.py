"""Which operation is known to come before which, whatever the timing was: vector clocks.

An operation of stream 2 that carries the clock {1: 7, 2: 3} is the third of its stream and starts after the
seventh of stream 1 has ended. Two accesses to the same bytes, one of them a write, need such an order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Clock = dict[int, int]
"""Stream → how many of its operations have ended."""


class Access(NamedTuple):
    """Bytes that operation `time` of stream `stream` reads or writes."""

    start: int
    end: int
    write: bool
    stream: int
    time: int
    label: str

    def ended(self, clock: Clock) -> bool:
        """Whether whoever holds this clock knows that the access is over."""
        return clock.get(self.stream, 0) >= self.time


def learn(clock: Clock, other: Clock) -> None:
    """Add to `clock` what `other` knows."""
    for stream, time in other.items():
        if clock.get(stream, 0) < time:
            clock[stream] = time


def race(accesses: Iterable[Access], start: int, end: int, write: bool, clock: Clock) -> Access | None:
    """An access that conflicts with this one and has no order with it."""
    for access in accesses:
        overlaps = access.start < end and start < access.end
        if overlaps and (write or access.write) and not access.ended(clock):
            return access
    return None
