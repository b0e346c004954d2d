"""Feeds that hang: seen in time, given up, opened anew; what comes back late is thrown away."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from live import Hanging, Opener, Steady, adds_up, camera, delivered, going, live_feed, until
from streaming import Script, feed, pictures

from edge.errors import InputError
from edge.stream import watch as watching
from edge.stream.admission import Admission
from edge.stream.faults import Faults
from edge.stream.feed import Feed
from edge.stream.network import null_network
from edge.stream.reader import Reader
from edge.stream.run import Run
from edge.stream.watch import FIRST_FRAME, GRACE, LEFT_BEHIND, OPENING, Watch

QUICK = {"health": {"stalled_s": 0.05}}


class Bench:
    """A watch that looks when it is told to, at a reader that does not run."""

    def __init__(self, made: Feed) -> None:
        self.feed, self.replaced = made, 0
        self.stop = threading.Event()
        self.admission = Admission([made.lane], self.stop)
        self.watch = Watch(self.stop, self.replace)
        self.faults = Faults()
        self.reader = self.replace(None)
        self.replaced = 0
        self.watch.add(self.reader)

    def replace(self, reader: Any) -> Reader:
        self.replaced += 1
        self.reader = Reader(self.feed, self.admission, self.stop, self.faults)
        return self.reader

    def look(self, seconds: float) -> str:
        """The feed's state after a look, so many seconds after its last frame."""
        for reader in self.watch.readers():
            self.watch.look(reader, (self.feed.last_arrived or 0.0) + seconds)
        return self.feed.life.state


def silent(**settings: Any) -> Bench:
    """A feed that was live until the moment 1000."""
    bench = Bench(live_feed("a", Opener(InputError("gone")), **settings))
    bench.feed.life.to("live")
    bench.feed.begun, bench.feed.last_arrived = 900.0, 1000.0
    return bench


def test_a_feed_is_stalled_after_its_time_and_no_sooner() -> None:
    bench = silent(health={"stalled_s": 2.0})
    assert bench.look(1.9) == "live"
    assert bench.look(2.1) == "stalled"
    assert bench.feed.life.now.reason == "no frame for 2.1 s"
    assert bench.replaced == 0


def test_a_feed_that_stays_stalled_is_opened_anew_once_after_the_grace() -> None:
    bench = silent(health={"stalled_s": 2.0})
    bench.look(2.1)
    assert bench.look(1.9 + GRACE) == "stalled"
    first = bench.reader
    assert bench.look(2.1 + GRACE) == "reconnecting"
    assert first.given_up.is_set() and not bench.reader.given_up.is_set()
    bench.look(2.2 + GRACE)
    assert (bench.replaced, bench.feed.given_up) == (1, 1)


def test_a_feed_that_comes_back_by_itself_is_left_alone() -> None:
    bench = silent(health={"stalled_s": 2.0})
    bench.look(2.1)
    bench.feed.last_arrived = 1002.5
    bench.feed.life.to("live")
    assert bench.look(0.1) == "live"
    assert bench.replaced == 0


def test_opening_may_take_its_timeout_and_a_little_more() -> None:
    bench = silent(reconnect={"open_s": 5.0})
    bench.feed.life.to("reconnecting")
    bench.reader.since, bench.reader.opening = 1000.0, True
    assert bench.look(5.0 + OPENING - 0.1) == "reconnecting"
    assert bench.replaced == 0
    bench.look(5.0 + OPENING + 0.1)
    assert bench.replaced == 1
    assert bench.feed.life.now.reason == "opening it has not come back for 8 s"


def test_the_first_frame_may_have_to_wait_for_a_key_frame() -> None:
    bench = silent(reconnect={"open_s": 1.0})
    bench.feed.life.to("reconnecting")
    bench.reader.since = 1000.0
    bench.look(FIRST_FRAME - 0.1)
    assert bench.replaced == 0
    bench.look(FIRST_FRAME + 0.1)
    assert bench.replaced == 1


@pytest.mark.parametrize("why", ["file", "removed", "over"])
def test_files_and_feeds_that_are_over_are_not_watched(why: str) -> None:
    bench = silent() if why != "file" else Bench(feed("f", Script(pictures(1))))
    bench.feed.last_arrived = 1000.0
    if why == "removed":
        bench.feed.removed.set()
    if why == "over":
        bench.feed.life.to("ended")
    before = bench.feed.life.state
    assert bench.look(99.0) == before
    assert bench.replaced == 0


def test_a_live_source_that_cannot_be_opened_again_only_counts_as_stalled() -> None:
    bench = Bench(feed("a", Script(pictures(1), live=True)))
    bench.feed.life.to("live")
    bench.feed.last_arrived = 1000.0
    assert bench.look(99.0) == "stalled"
    assert bench.replaced == 0


def test_a_feed_that_hangs_for_longer_than_give_up_s_has_failed() -> None:
    bench = silent(reconnect={"give_up_s": 30.0})
    assert bench.look(29.0) == "reconnecting"
    bench.feed.life.to("live")
    assert bench.look(31.0) == "failed"
    assert bench.feed.ended == "failed"
    assert bench.feed.lane.finished, "nobody waits for its frames"
    assert bench.faults.total == 1


# ---- threads


def test_a_read_that_hangs_is_replaced_and_what_it_brings_later_is_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "GRACE", 0.02)
    hanging = Hanging(2, late=5)
    made = live_feed("a", Opener(hanging, Steady), **QUICK)
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.life.counts["stalled"])
        until(lambda: made.life.counts["live"] == 2)
        before = delivered(made)
        hanging.back.set()
        until(lambda: hanging.closed)
        until(lambda: delivered(made) > before + 5)
        run.end()
    row = run.row("a")
    assert (row["given_up_reads"], row["failed"]) == (1, 0)
    assert adds_up(made)
    assert not [t for t in threading.enumerate() if t.name in ("reader-a", "watch")]


def test_one_feed_that_hangs_stalls_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GRACE", 0.02)
    hanging = Hanging(1)
    feeds = [live_feed("dead", Opener(hanging), **QUICK), live_feed("sound", Opener(Steady))]
    with going(Run(null_network(), feeds)) as run:
        until(lambda: feeds[0].given_up >= 1)
        before = delivered(feeds[1])
        until(lambda: delivered(feeds[1]) > before + 20)
        start = time.perf_counter()
        run.end()
        seconds = time.perf_counter() - start
        hanging.back.set()
    assert seconds < 1
    assert run.row("sound")["states"].get("stalled") is None
    assert all(adds_up(made) for made in feeds)


def test_only_so_many_threads_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GRACE", 0.01)
    monkeypatch.setattr(watching, "EVERY", 0.01)
    sources = [Hanging(1) for _ in range(3 * LEFT_BEHIND)]
    made = live_feed("a", Opener(*sources), health={"stalled_s": 0.02})
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.given_up == LEFT_BEHIND)
        until(lambda: sources[LEFT_BEHIND].hangs.is_set())
        time.sleep(0.15)
        assert made.opener.attempts == LEFT_BEHIND + 1  # type: ignore[union-attr]
        sources[0].back.set()  # one comes back, and another may take its place
        until(lambda: made.opener.attempts == LEFT_BEHIND + 2)  # type: ignore[union-attr]
        run.end()
        for source in sources:
            source.back.set()
    assert adds_up(made)


def test_an_opening_that_hangs_is_replaced_and_closed_when_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "OPENING", 0.05)
    back, late = threading.Event(), Steady()

    def slow() -> Any:
        assert back.wait(60)
        return late

    made = live_feed("a", Opener(slow, camera(3), InputError("gone")), reconnect={"open_s": 0.05})
    with going(Run(null_network(), [made])) as run:
        until(lambda: delivered(made) + sum(made.account.counts().dropped.values()) >= 3)
        back.set()
        until(lambda: late.closed)
        run.end()
    assert late.read_count == 0
    assert run.row("a")["given_up_reads"] == 1


def test_openings_that_all_hang_end_when_the_feed_is_to_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "OPENING", 0.01)
    back = threading.Event()
    made = live_feed("a", Opener(lambda: back.wait(60)), reconnect={"open_s": 0.02, "give_up_s": 0.3})
    sound = feed("sound", Script(pictures(1)))
    try:
        with going(Run(null_network(), [made, sound])) as run:
            run.wait()
        assert run.row("a")["ended"] == "failed"
        assert 1 <= made.given_up <= LEFT_BEHIND + 1
    finally:
        back.set()
