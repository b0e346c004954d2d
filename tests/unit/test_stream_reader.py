"""A feed that is lost is looked for again, and every one of its frames is accounted for meanwhile."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest
from live import Opener, Steady, adds_up, camera, delivered, going, live_feed, tape, until
from streaming import Collect, Script, feed, lost, pictures

from edge.errors import InputError, MissingPackage, UsageError
from edge.sources import Damaged, Picture, Refused
from edge.stream import knock
from edge.stream import reader as reading
from edge.stream.config import FeedSettings
from edge.stream.feed import Feed
from edge.stream.network import null_network
from edge.stream.run import Run


def absent(count: int) -> list[Exception]:
    return [InputError("cannot open a:", "Connection refused") for _ in range(count)]


# ---- reconnection


def test_a_feed_comes_back_as_often_as_it_is_lost() -> None:
    made = live_feed("a", Opener(*absent(2), camera(3), *absent(1), camera(3), camera(3), *absent(99)))
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.opener.attempts >= 9)  # type: ignore[union-attr]
        run.end()
    row = run.row("a")
    assert (row["captured"], row["ended"], row["failed"]) == (9, "shutdown", 0)
    assert row["states"]["live"] == 3
    assert adds_up(made)


def test_being_lost_is_told_with_a_reason_and_is_no_fault_of_the_run() -> None:
    made = live_feed(
        "a", Opener(camera(2, "it went dark"), *absent(1)), reconnect={"longest_s": 9, "first_s": 9}
    )
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.life.state == "reconnecting")
        assert "it went dark; the next attempt in" in made.life.now.reason
        assert run.end().exit_code == 0


def test_a_feed_that_is_absent_at_the_start_is_waited_for_while_others_run() -> None:
    there = threading.Event()

    def later() -> Any:
        return Steady() if there.is_set() else InputError("cannot open late:", "nobody there")

    late, sound = live_feed("late", Opener(later)), live_feed("sound", Opener(Steady))
    with going(Run(null_network(), [late, sound])) as run:
        until(lambda: delivered(sound) > 20 and late.opener.attempts > 3)  # type: ignore[union-attr]
        assert late.life.state == "connecting"
        there.set()
        until(lambda: delivered(late) > 2)
        assert late.life.state == "live"
        run.end()
    assert adds_up(late) and adds_up(sound)


def test_absence_is_logged_once_and_not_at_every_attempt(caplog: pytest.LogCaptureFixture) -> None:
    made = live_feed("a", Opener(*absent(1)))
    with caplog.at_level(logging.WARNING, "edge.stream"), going(Run(null_network(), [made])) as run:
        until(lambda: made.opener.attempts > 10)  # type: ignore[union-attr]
        run.end()
    assert len(caplog.records) == 1
    assert "a: cannot open a:: Connection refused" in caplog.text


def test_with_give_up_s_a_feed_that_stays_away_has_failed() -> None:
    made = live_feed("a", Opener(camera(2), *absent(1)), reconnect={"give_up_s": 0.1})
    with going(Run(null_network(), [made])) as run:
        summary = run.wait()
    row = run.row("a")
    assert (row["ended"], row["state"], row["captured"]) == ("failed", "failed", 2)
    assert "Connection refused" in row["error"]
    assert summary.exit_code == 5
    assert adds_up(made)


def test_with_give_up_s_a_feed_that_never_came_is_an_error_of_the_input() -> None:
    made = live_feed("a", Opener(*absent(1)), reconnect={"give_up_s": 0.05})
    with going(Run(null_network(), [made])) as run, pytest.raises(InputError, match="no frame could be read"):
        run.wait()


def test_an_unexpected_error_of_a_decoder_is_counted_and_the_feed_comes_back() -> None:
    broken = tape([*pictures(2), ZeroDivisionError("in native code")])
    made = live_feed("a", Opener(broken, RuntimeError("no device"), camera(3), Steady))
    with going(Run(null_network(), [made])) as run:
        until(lambda: delivered(made) >= 6)
        summary = run.end()
    assert broken.closed
    assert summary.exit_code == 5 and summary.data["faults"] == 2
    assert adds_up(made)


@pytest.mark.parametrize("error", [UsageError("no decoder 'x'"), MissingPackage("PyAV is not installed")])
def test_what_no_attempt_can_mend_ends_the_feed_alone(error: Exception) -> None:
    wrong, sound = live_feed("wrong", Opener(error)), feed("sound", Script(pictures(5)))
    with going(Run(null_network(), [wrong, sound])) as run:
        run.wait()
    assert (run.row("wrong")["state"], run.row("sound")["delivered"]) == ("failed", 5)
    assert str(error) in run.row("wrong")["error"]


def test_a_refusal_waits_longer_than_an_absence() -> None:
    made = live_feed("a", Opener(Refused("cannot open a:", "the password is wrong")))
    with going(Run(null_network(), [made])) as run:
        until(lambda: "next attempt" in made.life.now.reason)
        time.sleep(0.1)
        assert made.opener.attempts == 1  # type: ignore[union-attr]
        run.end()


@pytest.mark.parametrize("reconnect", [{"first_s": 30, "longest_s": 30}, {}])
def test_a_stop_while_a_feed_is_away_ends_at_once(reconnect: dict[str, float]) -> None:
    made = live_feed("a", Opener(camera(1), *absent(1)), reconnect=reconnect)
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.life.state == "reconnecting")
        start = time.perf_counter()
        run.end()
        assert time.perf_counter() - start < 1


def test_a_stop_while_opening_hangs_ends_within_a_second() -> None:
    opens, back = threading.Event(), threading.Event()

    def hang() -> Any:
        opens.set()
        back.wait(60)
        return InputError("too late")

    with going(Run(null_network(), [live_feed("a", Opener(hang))])) as run:
        assert opens.wait(10)
        start = time.perf_counter()
        run.end()
        seconds = time.perf_counter() - start
        back.set()
    assert seconds < 1


def test_a_host_that_answers_again_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knock, "KNOCK_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        place = probe.getsockname()[:2]
    made = live_feed("a", Opener(*absent(1), Steady), reconnect={"first_s": 60, "longest_s": 60})
    made.place = place
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.life.now.reason)
        time.sleep(0.1)
        assert made.opener.attempts == 1  # type: ignore[union-attr]
        with socket.create_server(place, reuse_port=False):
            assert until(lambda: delivered(made)) < 2
        run.end()


def test_a_host_that_always_answered_gets_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knock, "KNOCK_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as host:
        made = live_feed("a", Opener(*absent(1)), reconnect={"first_s": 60, "longest_s": 60})
        made.place = host.getsockname()[:2]
        with going(Run(null_network(), [made])) as run:
            until(lambda: made.life.now.reason)
            time.sleep(0.2)
            assert made.opener.attempts == 1  # type: ignore[union-attr]
            run.end()


# ---- frames


def test_a_limit_counts_over_connections() -> None:
    made = live_feed("a", Opener(camera(3)))
    with going(Run(null_network(), [made], limit=7)) as run:
        run.wait()
    assert (run.row("a")["captured"], run.row("a")["ended"]) == (7, "limit")


def test_a_new_connection_begins_a_new_clock() -> None:
    """Its first frame is not as late as the feed was away, whatever its timestamps count from."""
    again = tape([Picture(p.image, (p.pts or 0) + 0.1) for p in pictures(5)])
    made = live_feed("a", Opener(camera(1), lambda: time.sleep(0.4) or again, *absent(1)))
    with going(Run(null_network(), [made])) as run:
        until(lambda: made.reader_count >= 6)
        run.end()
    assert run.row("a")["lateness_ms"]["max"] < 200


@pytest.mark.parametrize(("settings", "kept"), [({"stride": 4}, 5), ({"fps": 5}, 4), ({"fps": 25}, 20)])
def test_frames_beyond_the_rate_are_counted_as_limited(settings: dict[str, Any], kept: int) -> None:
    """Twenty frames of a file at 25 a second: the limits go by the moments that frames fall due."""
    source = Script(pictures(20), paced=True)
    made = Feed("a", "a:", source, settings=FeedSettings.model_validate(settings))
    row = Run(null_network(), [made]).go().data["feeds"][0]
    assert row["captured"] == 20
    assert row["delivered"] == pytest.approx(kept, abs=1 if "fps" in settings else 0)
    assert row["delivered"] + row["dropped"].get("limited", 0) == 20


def test_a_region_of_interest_is_all_that_is_seen() -> None:
    shown, sink = pictures(2), Collect()
    settings = FeedSettings.model_validate({"roi": (0.25, 0.5, 0.5, 0.25)})
    Run(null_network(), [Feed("a", "a:", Script(shown), settings=settings)], [("c:", sink)]).go()
    for picture, result in zip(shown, sink.results, strict=True):
        np.testing.assert_array_equal(result.frame.image, picture.image[12:18, 10:30])


def test_damaged_frames_are_counted_and_the_connection_stays() -> None:
    damaged = [Damaged("a picture arrived damaged") for _ in range(3)]
    opener = Opener(tape([*pictures(2), *damaged, *pictures(2)]), *absent(1))
    made, sink = live_feed("a", opener), Collect()
    with going(Run(null_network(), [made], [("c:", sink)])) as run:
        until(lambda: opener.attempts >= 2)
        assert run.end().exit_code == 0
    row = run.row("a")
    assert (row["captured"], row["dropped"]["corrupt"]) == (7, 3)
    assert {r.frame.seq for r in sink.results} <= {0, 1, 5, 6}, "a damaged frame keeps its number"


def test_a_frame_that_cannot_be_read_fails_and_too_many_are_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "LOST_AFTER", 5)
    opener = Opener(tape([*lost(2), *pictures(1), *lost(5)]), *absent(1))
    made = live_feed("a", opener)
    with going(Run(null_network(), [made])) as run:
        until(lambda: opener.attempts >= 2)
        assert run.end().exit_code == 5
    assert run.row("a")["failures"] == {"capture": 7}
    assert run.row("a")["captured"] == 8


def test_a_feed_that_is_not_checked_is_live_all_the_same_and_pays_for_no_small_copies() -> None:
    checks = {"frozen_s": 0, "black": False, "lens": False}
    made, sink = live_feed("a", Opener(Steady), health=checks), Collect()
    with going(Run(null_network(), [made], [("collect:", sink)])) as run:
        until(lambda: len(sink.results) > 3)
        assert made.life.state == "live"
        run.end()
    assert all(result.frame.thumb is None for result in sink.results)


def test_unusable_pictures_are_withheld_where_the_config_says_so() -> None:
    black = [Picture(np.zeros((24, 40, 3), np.uint8), i / 25) for i in range(60)]
    steps: list[Any] = [step for picture in black for step in (picture, 0.03)]
    opener = Opener(tape(steps), *absent(1))
    made, sink = live_feed("a", opener, health={"withhold": True}), Collect()
    with going(Run(null_network(), [made], [("c:", sink)])) as run:
        until(lambda: made.life.state == "black")
        until(lambda: opener.attempts >= 2)
        run.end()
    row = run.row("a")
    assert row["dropped"]["unusable"] > 10
    assert not any("black" in result.flags for result in sink.results)
    assert row["captured"] == 60 and adds_up(made)


class Sender(Script):
    """Comes later and later until it is told to hurry; then leaves out nine of ten frames."""

    def __init__(self) -> None:
        super().__init__((), live=True)
        self.hurry, self.skipped, self.shown = False, 0, pictures(4)
        self.pts, self.start = 0.0, time.perf_counter()

    def read(self) -> Picture | None:
        time.sleep(0.002)
        self.read_count += 1
        now = time.perf_counter() - self.start
        if self.hurry:
            self.skipped += 9
            self.pts = min(now, self.pts + 0.2)
        else:
            self.pts = now / 4
        return Picture(self.shown[self.read_count % 4].image, self.pts)


def test_a_source_that_falls_behind_is_told_to_hurry_until_it_has_caught_up() -> None:
    source = Sender()
    made = live_feed("a", Opener(source))
    with going(Run(null_network(), [made])) as run:
        until(lambda: source.hurry)
        until(lambda: not source.hurry)
        run.end()
    row = run.row("a")
    assert row["dropped"]["behind"] == source.skipped > 0
    assert row["captured"] == source.read_count + source.skipped
    assert row["lateness_ms"]["max"] >= 1e3 * reading.LATE * 0.9


def test_a_feed_that_turns_slow_is_not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """H.264 comes a frame late over RTSP: a frame a second is a second late, and nothing has queued up."""
    monkeypatch.setattr(reading, "LATE", 0.05)

    class Slow(Script):
        def __init__(self) -> None:
            super().__init__((), live=True)
            self.hurry, self.hurried, self.skipped, self.shown = False, False, 0, pictures(4)
            self.sent = time.perf_counter()

        def read(self) -> Picture | None:
            time.sleep(0.002 if self.read_count < 10 else 0.1)
            self.read_count += 1
            self.hurried = self.hurried or self.hurry
            sent, self.sent = self.sent, time.perf_counter()
            return Picture(self.shown[self.read_count % 4].image, sent)

    source = Slow()
    made = live_feed("a", Opener(source))
    with going(Run(null_network(), [made])) as run:
        until(lambda: source.read_count >= 14)
        run.end()
    assert made.lateness.maximum > 0.08
    assert not source.hurried


def test_a_source_that_stays_late_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TOO_LATE_S", 0.2)

    class Hopeless(Sender):
        def read(self) -> Picture | None:
            picture = super().read()
            self.pts = (time.perf_counter() - self.start) / 4
            return picture

    opener = Opener(Hopeless, Steady)
    made = live_feed("a", opener)
    with going(Run(null_network(), [made])) as run:
        until(lambda: opener.attempts >= 2)
        until(lambda: made.life.counts["live"] == 2)
        run.end()
    assert any("came too late for 0.2 s" in change.reason for change in made.life.changes)
    assert adds_up(made)


def test_a_stream_that_says_it_is_at_its_end_is_not_opened_again() -> None:
    """A file on a server: it falls due at its own rate, and once is enough."""
    film = Script(pictures(5), live=True, paced=True)
    made = live_feed("a", Opener(tape(pictures(2)), film))
    with going(Run(null_network(), [made])) as run:
        assert run.wait().exit_code == 0
    row = run.row("a")
    assert (row["captured"], row["ended"], row["state"]) == (7, "end", "ended")
    assert film.closed and adds_up(made)


# ---- sources that are opened once


def test_a_limit_that_a_broken_frame_reaches_is_a_limit_and_no_fault_of_the_source() -> None:
    row = Run(null_network(), [feed("a", Script([*pictures(2), *lost(9)]))], limit=3).go().data["feeds"][0]
    assert (row["captured"], row["failures"], row["ended"]) == (3, {"capture": 1}, "limit")


@pytest.mark.parametrize("live", [True, False])
def test_a_source_is_closed_when_it_has_ended(live: bool) -> None:
    source = Script(pictures(3), live=live)
    Run(null_network(), [feed("a", source)]).go()
    assert source.closed
