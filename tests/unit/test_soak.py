"""The soak: its faults follow from the seed, and what must not be is told."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from streaming import Script, feed

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from feeds.faults import KINDS, Done, Fault, schedule
from feeds.stage import MIB, Interval, Size
from feeds.watching import Reaction, Row, Watcher, growth, reactions, violations

from edge.stream.life import Change
from edge.stream.metrics import Histogram


def planned(seed: int = 1) -> list[Fault]:
    return schedule(seed, 10, 1000, servers=3, mounts=2)


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert planned(1) == planned(1) != planned(2)


def test_every_kind_has_its_turn_before_one_comes_again() -> None:
    kinds = [fault.kind for fault in planned()]
    assert len(kinds) > 2 * len(KINDS)
    assert set(kinds[: len(KINDS)]) == set(kinds[len(KINDS) : 2 * len(KINDS)]) == set(KINDS)


def test_a_server_has_one_fault_at_a_time_and_all_are_over_in_time() -> None:
    for server in range(3):
        spans = [(fault.at, fault.at + fault.seconds) for fault in planned() if fault.server == server]
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
        assert spans[0][0] >= 10 and spans[-1][1] <= 1000


def test_an_interval_tells_only_what_came_since() -> None:
    histogram = Histogram()
    histogram.add(1.0)
    interval = Interval(histogram)
    histogram.add(0.01)
    part = interval.next()
    assert part.count == 1 and part.percentile(0.99) == pytest.approx(0.01, rel=0.02)
    assert interval.next().count == 0


# ---- the verdict


def watched(seconds: int = 40, rss: float = 100.0, state: str = "live", age: float = 10.0) -> Watcher:
    """A feed whose seconds were all alike; memory grows from 100 MiB to `rss` in the second half."""
    watcher = Watcher([feed("a", Script([]))], 0.0)
    for second in range(seconds):
        grown = max(0.0, 2 * second / seconds - 1) * (rss - 100)
        size = Size(round((100 + grown) * MIB), 10, 20)
        watcher.rows.append(Row(float(second), size, (age,), (state,), (True,)))
    return watcher


def judged(watcher: Watcher, *found: Reaction, witnesses: tuple[str, ...] = ()) -> list[str]:
    return violations(watcher, found, growth(watcher.rows), witnesses)


def test_a_calm_run_violates_nothing() -> None:
    assert judged(watched(), Reaction("freeze", "a", 2.1, 0.5)) == []


@pytest.mark.parametrize(
    ("watcher", "told"),
    [
        (watched(rss=150), "MiB of memory more"),
        (watched(seconds=700, rss=108), "memory grows by"),
        (watched(state="stalled"), "a: stalled at the end"),
        (watched(age=600.0), "600 ms old"),
    ],
    ids=["much memory", "memory that grows", "a feed that is not back", "old results"],
)
def test_what_must_not_be_is_told(watcher: Watcher, told: str) -> None:
    (wrong,) = judged(watcher)
    assert told in wrong


@pytest.mark.parametrize(
    ("noticed", "back", "told"),
    [(None, 1.0, "noticed after never"), (9.0, 1.0, "noticed after 9.0 s"), (2.0, None, "live never after")],
)
def test_a_fault_that_is_not_seen_or_not_survived_is_told(
    noticed: float | None, back: float | None, told: str
) -> None:
    (wrong,) = judged(watched(), Reaction("freeze", "a", noticed, back))
    assert told in wrong


def test_a_frame_without_a_fate_is_told() -> None:
    watcher = watched()
    watcher.feeds[0].account.read()
    assert "a: 2 frames without a fate" in judged(watcher)


def test_a_witness_that_leaves_its_state_is_told() -> None:
    watcher = watched()
    watcher.changes["a"] = [Change("live", 1.0, ""), Change("stalled", 2.0, "")]
    assert judged(watcher, witnesses=("a",)) == ["a: stalled, though nothing was done to it"]


def test_reactions_are_counted_from_the_fault_to_the_state_and_from_its_end_to_being_live() -> None:
    watcher = watched()
    watcher.changes["a"] = [
        Change("live", 0.0, ""),
        Change("stalled", 12.0, ""),
        Change("reconnecting", 13.0, ""),
        Change("live", 21.5, ""),
    ]
    done = [Done(Fault("freeze", 10, 10, 0), 10.0, 20.0), Done(Fault("slow", 30, 5, 0, 0), 30.0, 35.0)]
    (found,) = reactions(done, [["a"]], watcher)
    assert (found.kind, found.noticed, found.back) == ("freeze", 2.0, 1.5)


def test_changes_of_state_are_kept_however_many_there_are() -> None:
    watcher, number = Watcher([feed("a", Script([]))], 0.0), 0
    life = watcher.feeds[0].life
    for _ in range(40):
        for state in ("live", "stalled", "reconnecting"):
            number += life.to(state)  # type: ignore[arg-type]
        watcher.look(set())
    changes = watcher.changes["a"]
    assert len(changes) == number + 1
    assert Counter(change.state for change in changes) == life.counts
