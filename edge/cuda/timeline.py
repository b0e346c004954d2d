"""When things happened on the device, on one clock for all streams."""

from __future__ import annotations

import time

from edge.cuda.device import Device, Event

_REBASE_SECONDS = 20.0
"""CUDA gives distances between events in float32 milliseconds: 20 s is known to 2 µs, an hour to 0.25 ms."""


class Timeline:
    """Turns events into seconds since it was made, by their distance to a reference that moves along."""

    def __init__(self, device: Device) -> None:
        self._stream = device.stream()
        self._reference, self._next = device.event(), device.event()
        self._mark(self._reference)
        self._offset = 0.0

    def refresh(self) -> None:
        """Before events are recorded: keep the reference near."""
        if time.perf_counter() - self._marked > _REBASE_SECONDS:
            previous = self._reference
            self._mark(self._next)
            self._offset += self._next.since(previous)
            self._reference, self._next = self._next, previous

    def at(self, events: tuple[Event, ...]) -> list[float]:
        """Seconds at which these events happened; all of them have."""
        return [self._offset + event.since(self._reference) for event in events]

    def free(self) -> None:
        for resource in (self._reference, self._next, self._stream):
            resource.free()

    def _mark(self, event: Event) -> None:
        event.record(self._stream)
        event.synchronize()
        self._marked = time.perf_counter()
