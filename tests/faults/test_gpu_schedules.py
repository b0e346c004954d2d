"""Thousands of schedules: whatever a GPU delays, results are those of the serial loop and no rule is broken.

Each seed picks a set-up (discrete or integrated, slots, batch, who preprocesses, CUDA graphs, runtime) and
the delays of every operation. Backend, pipeline and `edge.cuda` are the real ones. The device below them is
simulated; it finds races, poison, buffers that are freed or refilled in flight, and leaks (`fakes.cuda`).
"""

from __future__ import annotations

import pytest
from fakes.cuda import FakeCuda
from schedules import Setup, Workplace

SCHEDULES = 2000
CHUNK = 100


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("schedules"))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_every_schedule_gives_the_serial_results_and_breaks_no_rule(place: Workplace, first: int) -> None:
    for seed in range(first, first + CHUNK):
        place.check(seed, Setup.of(seed))


def test_the_schedules_differ_and_slots_overlap(place: Workplace) -> None:
    """Otherwise the test above would prove nothing: one set-up, other delays, another order of events."""
    setup, orders, overlapped = Setup(frames=(tuple(range(10)),)), set(), 0
    for delays in range(12):
        with FakeCuda(delays) as cuda:
            place.run(cuda, setup)
        trace = sorted(cuda.trace, key=lambda span: span.end)
        orders.add(tuple((span.name, span.stream) for span in trace))
        overlapped += any(
            a.stream != b.stream and a.start < b.start < a.end for a in trace for b in trace if a is not b
        )
    assert len(orders) > 6
    assert overlapped > 6
