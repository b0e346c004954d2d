"""What `edge bench` counts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from edge.cli import bench
from edge.cli.bench import Lane
from edge.types import Array


class Slot:
    """One of several that share a device: it copies, executes, and copies back."""

    def __init__(self, busy: list[Slot]) -> None:
        self._busy = busy
        self.most = 0
        self.inputs: Mapping[str, Array] = {}
        self.spans: Mapping[str, Any] = {}
        self.infer_seconds = 0.0001

    def submit(self, rows: int | None = None) -> None:
        self._busy.append(self)
        self.most = max(self.most, len(self._busy))

    def done(self) -> bool:
        return True

    def wait(self) -> Mapping[str, Array]:
        self._busy.remove(self)
        time.sleep(0.001)
        return {}


def lane(slots: int, batch: int = 1) -> Lane:
    busy: list[Slot] = []
    network: Any = SimpleNamespace(batch=batch)
    return Lane(SimpleNamespace(), network, [Slot(busy) for _ in range(slots)])  # type: ignore[arg-type]


def test_all_slots_are_in_flight_and_none_is_left_there() -> None:
    two = lane(2)
    bench._take_turn(two, 0.02)
    assert max(slot.most for slot in two.slots) == 2  # type: ignore[attr-defined]
    assert two.slots[0]._busy == []  # type: ignore[attr-defined]
    assert two.spent >= 0.001 * len(two.seconds)


@pytest.mark.parametrize("batch", [1, 4])
def test_of_several_in_flight_the_clock_counts(batch: int) -> None:
    """Executing takes a tenth of what a batch takes: by that alone the rate would be ten times as high."""
    two = lane(2, batch)
    bench._take_turn(two, 0.02)
    assert two.rate == batch * len(two.seconds) / two.spent
    assert two.rate <= batch * 1000


def test_of_one_its_execution_counts() -> None:
    one = lane(1)
    bench._take_turn(one, 0.005)
    assert one.rate == pytest.approx(1 / 0.0001)
