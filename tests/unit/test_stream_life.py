"""States of a feed, pauses between attempts, and how late frames come."""

from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.stream.config import ReconnectConfig
from edge.stream.life import DRIFT, JITTER, JUMP_S, KEPT, REFUSED_S, Backoff, Lag, Life


def test_a_feed_begins_as_connecting_and_remembers_what_it_went_through() -> None:
    life = Life()
    assert (life.state, life.over) == ("connecting", False)
    assert life.to("live")
    assert life.to("stalled", "no frame for 2.1 s")
    assert [change.state for change in life.changes] == ["connecting", "live", "stalled"]
    summary = life.summary()
    assert (summary["state"], summary["reason"]) == ("stalled", "no frame for 2.1 s")
    assert summary["states"] == {"connecting": 1, "live": 1, "stalled": 1}
    assert summary["since"] == pytest.approx(life.now.at, abs=1e-3)


def test_to_come_into_the_same_state_again_is_no_change() -> None:
    life = Life()
    life.to("reconnecting", "first")
    since = life.now.at
    assert not life.to("reconnecting", "second")
    assert not life.to("reconnecting")
    assert (life.now.at, life.now.reason, life.counts["reconnecting"]) == (since, "second", 1)
    assert [change.reason for change in life.changes] == ["", "second"], "the newest reason is what is told"


@pytest.mark.parametrize("end", ["ended", "failed"])
def test_what_is_over_stays_so(end: str) -> None:
    life = Life()
    assert life.to(end, "removed")  # type: ignore[arg-type]
    for state in ("live", "ended", "failed", "reconnecting"):
        assert not life.to(state)  # type: ignore[arg-type]
    assert (life.state, life.now.reason, life.over) == (end, "removed", True)


def test_only_the_newest_changes_are_kept_and_all_are_counted() -> None:
    life = Life()
    for _ in range(100):
        life.to("live")
        life.to("stalled")
    assert len(life.changes) == KEPT
    assert life.counts["live"] == life.counts["stalled"] == 100


def test_of_many_threads_one_makes_each_change() -> None:
    life = Life()
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(life.to("stalled"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == life.counts["stalled"] == 1


# ---- pauses


@given(
    seed=st.integers(0, 10**6),
    first=st.floats(0.01, 5),
    times=st.floats(1, 100),
    attempts=st.integers(1, 20),
)
def test_pauses_double_from_the_first_to_the_longest_with_jitter(
    seed: int, first: float, times: float, attempts: int
) -> None:
    longest = first * times
    settings = ReconnectConfig(first_s=first, longest_s=longest)
    backoff = Backoff(settings, random.Random(seed))
    for attempt in range(attempts):
        middle = min(first * 2**attempt, longest)
        assert middle * (1 - JITTER) * 0.999 <= backoff.next() <= middle * (1 + JITTER) * 1.001


def test_success_begins_anew_with_the_first_pause() -> None:
    backoff = Backoff(ReconnectConfig(first_s=0.2, longest_s=10), random.Random(1))
    for _ in range(9):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.2 * (1 + JITTER)


def test_sixteen_cameras_do_not_come_back_at_once() -> None:
    settings = ReconnectConfig()
    pauses = {round(Backoff(settings).next(), 4) for _ in range(16)}
    assert len(pauses) > 8


def test_what_was_refused_is_not_asked_again_soon() -> None:
    backoff = Backoff(ReconnectConfig(), random.Random(1))
    assert backoff.next(refused=True) >= REFUSED_S * (1 - JITTER)
    assert backoff.next() < 1, "another answer is another matter"


# ---- lateness


def lates(times: list[tuple[float | None, float]]) -> list[float]:
    lag = Lag()
    return [lag.of(pts, arrived) for pts, arrived in times]


def test_frames_that_come_when_they_should_are_not_late_and_jitter_is_seen_as_it_is() -> None:
    dice = random.Random(2)
    jitter = [0.0] + [dice.random() * 0.03 for _ in range(500)]
    found = lates([(i / 25, 100 + i / 25 + late) for i, late in enumerate(jitter)])
    for late, seen in zip(jitter, found, strict=True):
        assert seen == pytest.approx(late, abs=DRIFT * 500 / 25 + 1e-9)


def test_a_camera_whose_clock_runs_slow_or_fast_is_not_late_after_hours() -> None:
    for drift in (-100e-6, 100e-6):
        seconds = range(8 * 3600)
        found = lates([(t * (1 - drift), float(t)) for t in seconds])
        assert max(found) < 1e-3


def test_a_queue_that_grows_is_lateness() -> None:
    found = lates([(i / 25, i / 20) for i in range(400)])  # it sends 25 a second, 20 arrive
    assert found == sorted(found)
    assert found[-1] == pytest.approx(399 / 20 - 399 / 25, rel=0.01)


def test_a_queue_that_is_caught_up_with_is_not_late_any_more() -> None:
    behind = [(i / 25, i / 25 + min(i, 100 - i) / 20) for i in range(101)]
    found = lates(behind)
    assert max(found) > 2
    assert found[-1] < 0.01


@pytest.mark.parametrize("jump", [-3600.0, -1.0, JUMP_S + 1, 1e6])
def test_a_timestamp_that_jumps_begins_a_new_count(jump: float) -> None:
    before = [(i / 25, i / 25) for i in range(50)]
    after = [(i / 25 + jump, i / 25) for i in range(50, 100)]
    assert max(lates(before + after)) < 1e-3


def test_a_pause_of_the_camera_is_not_lateness() -> None:
    assert lates([(0.0, 5.0), (0.04, 5.04), (90.0, 95.0), (90.04, 95.04)])[-1] < 0.05


def test_frames_without_a_timestamp_are_never_late() -> None:
    assert lates([(None, 0.0), (None, 9.0), (1.0, 10.0), (None, 99.0)]) == [0.0] * 4


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 100)), min_size=1, max_size=30))
def test_nothing_comes_before_its_time(frames: list[tuple[float, float]]) -> None:
    arrived, lag = 0.0, Lag()
    for pts, pause in frames:
        arrived += pause
        assert lag.of(pts, arrived) >= 0
