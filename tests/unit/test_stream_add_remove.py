"""Feeds that come and go while a run goes on, from any thread."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from live import Hanging, Opener, Steady, adds_up, camera, delivered, going, live_feed, until
from streaming import Collect, Script, feed, pictures

from edge.errors import InputError, UsageError
from edge.stream.feed import Feed
from edge.stream.network import null_network
from edge.stream.run import Run


def readers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("reader-") or t.name == "watch"]


def test_a_feed_that_is_added_is_streamed_and_one_that_is_removed_ends() -> None:
    first, second, sink = live_feed("first", Opener(Steady)), live_feed("second", Opener(Steady)), Collect()
    with going(Run(null_network(), [first], [("c:", sink)])) as run:
        until(lambda: delivered(first) > 3)
        run.run.add(second)
        until(lambda: delivered(second) > 3)
        run.run.remove("first")
        seen = delivered(second)
        until(lambda: delivered(second) > seen + 10)
        run.end()
    assert (run.row("first")["ended"], run.row("first")["state"]) == ("removed", "ended")
    assert run.row("second")["ended"] == "shutdown"
    assert adds_up(first) and adds_up(second)
    assert sink.sequence("second") == sorted(sink.sequence("second"))
    assert not readers()


@pytest.mark.parametrize("live", [True, False])
def test_a_source_that_was_opened_before_is_closed_when_its_feed_is_removed(live: bool) -> None:
    source = Steady()
    source.live = live
    made = feed("a", source)
    with going(Run(null_network(), [made], open_end=True)) as run:
        until(lambda: delivered(made) > 3)
        run.run.remove("a")
        until(lambda: source.closed)
        run.end()
    assert run.row("a")["ended"] == "removed"
    assert adds_up(made)


def test_a_file_whose_reader_waits_can_be_removed() -> None:
    hold = threading.Event()
    made, sink = feed("a", Script(pictures(50))), Collect(lambda result: hold.wait(30) and None)
    with going(Run(null_network(), [made], [("c:", sink)], open_end=True)) as run:
        until(lambda: len(made.lane.waiting) == 2)
        run.run.remove("a")
        hold.set()
        run.end()
    counts = made.account.counts()
    assert counts.dropped["removed"] >= 2
    assert adds_up(made)


def test_a_feed_can_be_removed_while_it_is_away_or_hangs() -> None:
    hanging = Hanging(1)
    gone = live_feed(
        "gone", Opener(camera(1), InputError("gone")), reconnect={"first_s": 60, "longest_s": 60}
    )
    hangs, sound = live_feed("hangs", Opener(hanging)), live_feed("sound", Opener(Steady))
    with going(Run(null_network(), [gone, hangs, sound])) as run:
        until(lambda: gone.life.state == "reconnecting" and hanging.hangs.is_set())
        run.run.remove("gone")
        run.run.remove("hangs")
        until(lambda: "reader-gone" not in readers())
        seen = delivered(sound)
        until(lambda: delivered(sound) > seen + 5)
        hanging.back.set()
        until(lambda: "reader-hangs" not in readers())
        run.end()
    assert [run.row(name)["ended"] for name in ("gone", "hangs")] == ["removed", "removed"]
    assert adds_up(hangs) and adds_up(gone)


def test_a_live_feed_added_to_files_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging(1)
    made = live_feed("camera", Opener(hanging), health={"stalled_s": 0.05})
    file = feed("file", Steady())
    file.live = file.lane.live = False
    with going(Run(null_network(), [file])) as run:
        until(lambda: delivered(file) > 1)
        run.run.add(made)
        until(lambda: made.life.counts["stalled"] == 1)
        hanging.back.set()
        run.end()


def test_names_are_unique_for_the_whole_run_and_an_unknown_one_names_the_nearest() -> None:
    run = Run(null_network(), [feed("front", Script(pictures(3)))])
    with pytest.raises(UsageError, match="there is one of this name"):
        run.add(feed("front", Script(pictures(1))))
    with pytest.raises(UsageError, match="did you mean 'front'"):
        run.remove("frant")
    run.remove("front")
    with pytest.raises(UsageError, match="there is one of this name"):
        run.add(feed("front", Script(pictures(1))))


def test_what_is_added_before_the_run_is_streamed_and_what_is_removed_before_is_not() -> None:
    run = Run(null_network(), [feed("a", Script(pictures(3))), feed("b", Script(pictures(3)))])
    run.add(feed("c", Script(pictures(5))))
    run.remove("a")
    rows = {row["feed"]: row for row in run.go().data["feeds"]}
    assert [rows[name]["delivered"] for name in "abc"] == [0, 3, 5]
    assert rows["a"]["ended"] == "removed"


def test_a_run_with_an_open_end_waits_for_feeds() -> None:
    run = Run(null_network(), [], open_end=True)
    with going(run) as started:
        time.sleep(0.05)
        assert started.thread.is_alive()
        made = feed("a", Script(pictures(5)))
        run.add(made)
        until(lambda: made.life.over and delivered(made) == 5)
        assert started.thread.is_alive()
        assert started.end().exit_code == 0
    assert started.row("a")["delivered"] == 5


def test_many_threads_add_and_remove_at_random() -> None:
    """Accounts are exact, no result comes after its feed's end was seen, and no thread is left."""
    run = Run(null_network(batch=4, patience=1e-3), [live_feed("base", Opener(Steady))], open_end=True)
    sink = Collect()
    run._sinks.append(("c:", sink))
    made: list[Feed] = []

    def come_and_go(number: int) -> None:
        dice = random.Random(number)
        mine: list[str] = []
        for turn in range(12):
            if mine and dice.random() < 0.4:
                run.remove(mine.pop(dice.randrange(len(mine))))
            else:
                made.append(one(f"{number}-{turn}", dice))
                mine.append(made[-1].name)
                run.add(made[-1])
            time.sleep(dice.random() * 0.02)

    def one(name: str, dice: random.Random) -> Feed:
        kinds: list[Any] = [
            lambda: live_feed(name, Opener(camera(2), InputError("gone"), Steady)),
            lambda: live_feed(name, Opener(Steady), fps=50, motion={}),
            lambda: feed(name, Script(pictures(20))),
            lambda: feed(name, Steady()),
        ]
        return dice.choice(kinds)()  # type: ignore[no-any-return]

    with going(run) as started:
        threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        summary = started.end()
    assert summary.exit_code == 0
    for each in made:
        assert adds_up(each), each.name
        assert sink.sequence(each.name) == sorted(set(sink.sequence(each.name)))
        assert len(sink.sequence(each.name)) == delivered(each)
        assert each.life.over or each.ended == "shutdown"
    assert not readers()
