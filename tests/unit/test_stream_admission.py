"""Which frame comes next, which is dropped, and that every frame is accounted for."""

from __future__ import annotations

import random
import threading
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.stream.admission import PREFETCH, Account, Admission, Lane
from edge.types import Frame

IMAGE = np.zeros((2, 2, 3), np.uint8)


def frame(seq: int, feed: str = "a", age: float = 0.0) -> Frame:
    return Frame(feed, seq, IMAGE, None, time.perf_counter() - age, time.time())


def taken(admission: Admission) -> int | None:
    found = admission.take(wait=False)
    return None if found is None else found[1].seq


def test_of_a_live_feed_the_newest_frame_wins() -> None:
    lane = Lane(live=True)
    admission = Admission([lane])
    for seq in range(5):
        admission.offer(lane, frame(seq))
    assert taken(admission) == 4
    assert taken(admission) is None
    assert lane.account.counts().dropped == {"superseded": 4}


def test_a_feed_that_never_drops_lets_its_reader_wait() -> None:
    lane = Lane(live=False)
    admission = Admission([lane])
    reader = threading.Thread(target=lambda: [admission.offer(lane, frame(i)) for i in range(PREFETCH + 1)])
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    assert len(lane.waiting) == PREFETCH
    assert [taken(admission) for _ in range(PREFETCH)] == list(range(PREFETCH))
    reader.join(5)
    assert taken(admission) == PREFETCH
    assert lane.account.counts().dropped == {}


def test_an_old_frame_of_a_live_feed_is_stale() -> None:
    lane = Lane(live=True, max_age=0.05)
    admission = Admission([lane])
    admission.offer(lane, frame(0, age=1.0))
    assert taken(admission) is None
    admission.offer(lane, frame(1))
    assert taken(admission) == 1
    assert lane.account.counts().dropped == {"stale": 1}


def test_age_does_not_matter_to_a_file() -> None:
    lane = Lane(live=False, max_age=0.05)
    admission = Admission([lane])
    admission.offer(lane, frame(0, age=1.0))
    assert taken(admission) == 0


def test_feeds_take_turns_however_fast_one_of_them_is() -> None:
    fast, slow = Lane(live=False), Lane(live=False)
    admission = Admission([fast, slow])
    order = []
    for seq in range(6):
        for lane, name in ((fast, "fast"), (slow, "slow")):
            while len(lane.waiting) < (PREFETCH if name == "fast" else 1):
                admission.offer(lane, frame(seq, name))
        found = admission.take()
        assert found is not None
        order.append(found[1].feed)
    assert order == ["fast", "slow"] * 3


def test_take_ends_when_every_feed_has_ended_and_nothing_waits() -> None:
    lane = Lane(live=False)
    admission = Admission([lane])
    admission.offer(lane, frame(0))
    admission.finish(lane)
    assert admission.take() is not None
    assert admission.take() is None


def test_a_shutdown_drops_what_waits_and_what_comes_later_and_frees_a_waiting_reader() -> None:
    stop, lane = threading.Event(), Lane(live=False)
    admission = Admission([lane], stop)
    reader = threading.Thread(target=lambda: [admission.offer(lane, frame(i)) for i in range(PREFETCH + 2)])
    reader.start()
    stop.set()
    assert admission.take() is None
    reader.join(5)
    assert not reader.is_alive()
    counts = lane.account.counts()
    assert counts.dropped == {"shutdown": PREFETCH + 2}
    assert counts.in_flight == 0


@settings(max_examples=25, deadline=None)
@given(
    live=st.lists(st.booleans(), min_size=1, max_size=3),
    frames=st.integers(0, 30),
    seed=st.integers(0, 10**6),
    stop_after=st.one_of(st.none(), st.integers(0, 20)),
)
def test_the_account_adds_up_at_every_moment(
    live: list[bool], frames: int, seed: int, stop_after: int | None
) -> None:
    """captured == delivered + failed + Σ dropped, seen by a thread that keeps on looking; nothing in flight
    at the end; no more in flight at any time than can be."""
    stop = threading.Event()
    lanes = [Lane(alive, 0.002 if alive else None) for alive in live]
    admission = Admission(lanes, stop)
    watching, wrong = threading.Event(), []

    def watch() -> None:
        while not watching.is_set():
            for lane in lanes:
                counts = lane.account.counts()
                decided = counts.delivered + sum(counts.failed.values()) + sum(counts.dropped.values())
                if counts.captured != decided or not 0 <= counts.in_flight <= PREFETCH + 2:
                    wrong.append(counts)

    def read(lane: Lane, dice: random.Random) -> None:
        for seq in range(frames):
            if dice.random() < 0.2:
                time.sleep(dice.random() * 1e-3)
            admission.offer(lane, frame(seq))
        admission.finish(lane)

    def process(dice: random.Random) -> None:
        done = 0
        while (found := admission.take()) is not None:
            if dice.random() < 0.2:
                time.sleep(dice.random() * 2e-3)
            account = found[0].account
            account.fail("infer") if dice.random() < 0.3 else account.deliver()
            done += 1
            if done == stop_after:
                stop.set()
        admission.close()

    threads = [
        threading.Thread(target=read, args=(lane, random.Random(seed + i))) for i, lane in enumerate(lanes)
    ]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    process(random.Random(seed))
    for thread in threads:
        thread.join()
    watching.set()
    watcher.join()
    assert not wrong
    for lane in lanes:
        counts = lane.account.counts()
        assert (counts.read, counts.in_flight, counts.captured) == (frames, 0, frames)


def test_a_snapshot_is_a_copy() -> None:
    account = Account()
    account.read()
    account.drop("stale")
    counts = account.counts()
    account.read()
    account.drop("stale")
    assert (counts.read, counts.dropped) == (1, {"stale": 1})


def test_of_the_feeds_that_have_a_frame_the_one_served_longest_ago_is_next() -> None:
    lanes = [Lane(live=True) for _ in range(4)]
    admission = Admission(lanes)
    order: list[str] = []

    def turn(*names: str) -> None:
        for name in names:
            admission.offer(lanes["abcd".index(name)], frame(0, name))
        found = admission.take(wait=False)
        assert found is not None
        order.append(found[1].feed)

    turn("a", "b")
    turn("a")
    turn("a", "c")
    turn("b", "d")
    turn()
    turn()
    assert order == ["a", "b", "c", "d", "a", "b"]


def test_a_slow_feed_is_served_at_once_among_fast_ones() -> None:
    lanes = [Lane(live=True) for _ in range(16)]
    admission = Admission(lanes)
    waits = []
    for number in range(200):
        for lane in lanes[1:]:
            admission.offer(lane, frame(number, "fast"))
        if number % 20 == 0:
            admission.offer(lanes[0], frame(number, "slow"))
            waited = 0
        found = admission.take(wait=False)
        assert found is not None
        waited += 1
        if found[0] is lanes[0]:
            waits.append(waited)
    assert len(waits) == 10
    assert max(waits) == 1


def test_a_lane_that_is_added_takes_its_turn_and_no_more() -> None:
    old, new = Lane(live=False), Lane(live=False)
    admission = Admission([old])
    for seq in range(50):
        admission.offer(old, frame(seq, "old"))
        admission.take()
    admission.add(new)
    order = []
    for _ in range(8):
        for lane, name in ((old, "old"), (new, "new")):
            while len(lane.waiting) < PREFETCH:
                admission.offer(lane, frame(0, name))
        found = admission.take()
        assert found is not None
        order.append(found[1].feed)
    assert order.count("new") == 4


def test_a_lane_that_is_removed_drops_what_waits_and_what_comes_and_frees_its_reader() -> None:
    lane, other = Lane(live=False), Lane(live=True)
    admission = Admission([lane, other])
    reader = threading.Thread(target=lambda: [admission.offer(lane, frame(i)) for i in range(PREFETCH + 3)])
    reader.start()
    while len(lane.waiting) < PREFETCH:
        time.sleep(0.001)
    admission.remove(lane)
    reader.join(5)
    assert not reader.is_alive()
    assert lane.account.counts().dropped == {"removed": PREFETCH + 3}
    admission.offer(other, frame(7))
    assert taken(admission) == 7
    admission.remove(lane)


def test_with_an_open_end_take_waits_for_a_lane_that_may_be_added() -> None:
    admission = Admission([], open_end=True)
    lane = Lane(live=False)

    def later() -> None:
        admission.add(lane)
        admission.offer(lane, frame(3))

    timer = threading.Timer(0.05, later)
    timer.start()
    found = admission.take()
    timer.join()
    assert found is not None and found[1].seq == 3
    assert Admission([]).take() is None, "without one, no lanes are the end"
