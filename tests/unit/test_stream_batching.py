"""How many frames share an inference: more under load, fewer when the target is missed, and no flip-flop."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edge.stream.batching import MOST_PATIENT, PATIENT, WINDOW, BatchSize


def window(size: BatchSize, seconds: float, waiting: int = 5) -> int:
    """As many results as are judged at once, in full batches; the limit afterwards."""
    for _ in range(WINDOW):
        size.took(size.limit, waiting)
        size.gave(seconds)
    return size.limit


def test_without_a_target_batches_are_as_large_as_the_engine_takes() -> None:
    size = BatchSize(8)
    assert size.limit == 8
    assert window(size, 1e6) == 8


def test_under_load_it_grows_to_the_most_and_no_further() -> None:
    size = BatchSize(6, target=0.1)
    assert [size.limit, *(window(size, 0.01) for _ in range(4))] == [1, 2, 4, 6, 6]


def test_without_load_it_stays_small() -> None:
    size = BatchSize(8, target=0.1)
    assert [window(size, 0.01, waiting=0) for _ in range(9)] == [1] * 9


def test_a_missed_target_shrinks_it_and_is_counted() -> None:
    size = BatchSize(8, target=0.1)
    for _ in range(3):
        window(size, 0.01)
    assert [window(size, 0.2) for _ in range(4)] == [4, 2, 1, 1]
    assert size.missed == 4


def test_close_to_the_target_it_stays_as_it_is() -> None:
    size = BatchSize(8, target=0.1)
    window(size, 0.01)
    assert [window(size, 0.09) for _ in range(20)] == [2] * 20


def test_a_few_slow_results_are_no_miss() -> None:
    size = BatchSize(8, target=0.1)
    window(size, 0.01)
    for i in range(WINDOW):
        size.took(2, 5)
        size.gave(9.0 if i == 0 else 0.09)
    assert (size.limit, size.missed) == (2, 0)


def changes(size: BatchSize, windows: int, latency: dict[int, float]) -> list[int]:
    """Windows after which the limit was another one."""
    found = []
    for number in range(windows):
        before = size.limit
        if window(size, latency[before]) != before:
            found.append(number)
    return found


def test_where_the_next_size_misses_the_target_it_is_tried_less_and_less() -> None:
    """Two at a time are well within the target, four are above it: no flip-flop."""
    found = changes(BatchSize(8, target=0.1), 1000, {1: 0.02, 2: 0.04, 4: 0.15, 8: 0.3})
    tries = found[1::2]  # it grows, and shrinks in the window after
    pauses = [b - a for a, b in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= PATIENT and pauses[-1] >= MOST_PATIENT
    assert len(found) < 50


@given(
    most=st.integers(1, 64),
    target=st.one_of(st.none(), st.floats(1e-3, 10)),
    seed=st.integers(0, 10**6),
)
def test_the_limit_is_always_between_one_and_the_most(most: int, target: float | None, seed: int) -> None:
    size, dice = BatchSize(most, target), random.Random(seed)
    for _ in range(300):
        size.took(dice.randint(1, size.limit), dice.randint(0, 3))
        size.gave(dice.random() * 2 * (target or 1))
        assert 1 <= size.limit <= most
