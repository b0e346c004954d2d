"""A fault in one feed, frame or sink stops nothing else, is counted, and shows in summary and exit code."""

from __future__ import annotations

import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import Collect, Script, feed, heatmap_graph, lost, network_of, pictures

from edge.backends.null import NullEngine
from edge.errors import DeviceLost, InputError
from edge.sinks import open_sink
from edge.sources import Picture
from edge.stream.faults import Faults
from edge.stream.feed import Feed
from edge.stream.network import Network, null_network
from edge.stream.reader import LOST_AFTER
from edge.stream.run import Run


def by_name(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["feed"]: row for row in data["feeds"]}


def test_a_picture_that_cannot_be_prepared_fails_alone(tmp_path: Path) -> None:
    network = network_of(heatmap_graph(tmp_path / "tiny.onnx"))
    odd = Picture(np.zeros((8, 8, 5), np.uint8))
    shown = pictures(6)
    shown[2] = odd
    sink = Collect()
    summary = Run(network, [feed("a", Script(shown))], [("collect:", sink)]).go()
    assert sink.sequence("a") == [0, 1, 3, 4, 5]
    assert summary.data["feeds"][0]["failures"] == {"preprocess": 1}
    assert summary.exit_code == 5
    network.close()


def test_a_batch_that_fails_loses_its_frame_only_in_both_loops() -> None:
    for serial in (False, True):
        sink = Collect()
        run = Run(
            null_network("fail_every=4"), [feed("a", Script(pictures(12)))], [("c:", sink)], serial=serial
        )
        row = run.go().data["feeds"][0]
        assert (row["captured"], row["delivered"], row["failures"]) == (12, 9, {"infer": 3})
        assert sink.sequence("a") == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_a_finding_that_cannot_be_made_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = null_network(), []
    make = network.interpret

    def interpret(outputs: Any, placement: Any, index: int) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise IndexError("no such plane")
        return make(outputs, placement, index)

    monkeypatch.setattr(network, "interpret", interpret)
    row = Run(network, [feed("a", Script(pictures(4)))]).go().data["feeds"][0]
    assert (row["delivered"], row["failures"]) == (3, {"postprocess": 1})


def test_one_feed_that_breaks_leaves_the_others_alone() -> None:
    sink = Collect()
    broken = Script([*pictures(2), ZeroDivisionError("a bug in the source")])
    feeds = [feed("broken", broken), feed("sound", Script(pictures(20)))]
    summary = Run(null_network(), feeds, [("collect:", sink)]).go()
    rows = by_name(summary.data)
    assert (rows["broken"]["delivered"], rows["broken"]["ended"]) == (2, "fault")
    assert "a bug in the source" in rows["broken"]["error"]
    assert (rows["sound"]["delivered"], rows["sound"]["ended"]) == (20, "end")
    assert summary.exit_code == 5


def test_a_frame_that_cannot_be_read_is_counted_and_the_feed_goes_on() -> None:
    source = Script([*pictures(2), *lost(3), *pictures(2)])
    row = Run(null_network(), [feed("a", source)]).go().data["feeds"][0]
    assert (row["captured"], row["delivered"], row["failures"], row["ended"]) == (7, 4, {"capture": 3}, "end")


def test_a_source_that_only_fails_is_given_up() -> None:
    source = Script([*pictures(1), *lost(LOST_AFTER + 50)])
    row = Run(null_network(), [feed("a", source)]).go().data["feeds"][0]
    assert (row["ended"], row["failed"]) == ("fault", LOST_AFTER)


def test_a_camera_that_goes_away_is_a_fault_and_a_short_file_is_not() -> None:
    for live, ended, code in ((True, "lost", 5), (False, "truncated", 0)):
        source = Script(pictures(3), live=live)
        source.problem = "gives no more pictures"
        summary = Run(null_network(), [feed("a", source)]).go()
        assert (summary.data["feeds"][0]["ended"], summary.exit_code) == (ended, code)
        assert "no more pictures" in summary.data["feeds"][0]["error"]


def test_when_nothing_at_all_could_be_read_the_input_is_at_fault() -> None:
    with pytest.raises(InputError, match="no frame could be read from a:, b:"):
        Run(null_network(), [feed("a", Script(lost(2))), feed("b", Script([]))]).go()


def test_a_sink_that_fails_is_closed_and_the_others_get_everything() -> None:
    def trouble(result: Any) -> None:
        if result.frame.seq == 5:
            raise OSError(28, "No space left on device")

    bad, good = Collect(trouble), Collect()
    summary = Run(null_network(), [feed("a", Script(pictures(50)))], [("bad:", bad), ("good:", good)]).go()
    assert good.sequence("a") == list(range(50))
    assert bad.closed
    first, second = summary.data["sinks"]
    assert first["written"] + first["lost"] == 50
    assert first["lost"] >= 45
    assert "No space left" in first["error"]
    assert (second["written"], second["lost"], second["error"]) == (50, 0, None)
    assert summary.exit_code == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_and_nothing_counts_as_written() -> None:
    summary = Run(
        null_network(), [feed("a", Script(pictures(30)))], [("j", open_sink("jsonl:/dev/full", []))]
    ).go()
    row = summary.data["sinks"][0]
    assert "No space left" in row["error"]
    assert (row["written"], row["lost"]) == (0, 30)
    assert (summary.data["feeds"][0]["delivered"], summary.exit_code) == (30, 5)


def test_a_slow_sink_slows_a_file_and_loses_nothing() -> None:
    slow = Collect(lambda result: time.sleep(0.001))
    Run(null_network(), [feed("a", Script(pictures(60)))], [("slow:", slow)]).go()
    assert slow.sequence("a") == list(range(60))


def test_a_slow_sink_makes_a_live_feed_drop_not_lag() -> None:
    slow = Collect(lambda result: time.sleep(0.004))
    source = Script([step for picture in pictures(150) for step in (picture, 0.0005)], live=True)
    row = Run(null_network(), [feed("a", source)], [("slow:", slow)]).go().data["feeds"][0]
    assert row["dropped"]["superseded"] > 0
    assert slow.sequence("a") == sorted(slow.sequence("a"))
    assert row["captured"] == 150 == row["delivered"] + row["dropped"]["superseded"]


def test_a_cause_that_repeats_is_logged_once_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edge.stream"):
        run = Run(null_network("fail_every=1"), [feed("a", Script(pictures(40)))])
        assert run.go().data["faults"] == 40
    assert len(caplog.records) == 1
    assert "a: infer failed" in caplog.text


def test_two_causes_are_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    with caplog.at_level(logging.WARNING, "edge.stream"):
        for error in (ValueError("x"), ValueError("y"), KeyError("z")):
            faults.report("feed", "infer", error)
    assert len(caplog.records) == 2
    assert faults.total == 3


def test_stopping_drains_what_is_in_a_slot_and_accounts_for_the_rest() -> None:
    stop, sink = threading.Event(), Collect()
    sink.trouble = lambda result: stop.set() if result.frame.seq == 10 else None
    source = Script(pictures(5000))
    summary = Run(null_network("delay_ms=0.2"), [feed("a", source)], [("c:", sink)], stop=stop).go()
    row = summary.data["feeds"][0]
    assert row["ended"] == "shutdown"
    assert row["in_flight"] == 0
    assert row["captured"] == source.read_count < 5000
    assert row["delivered"] == len(sink.results)
    assert set(row["dropped"]) <= {"shutdown"}
    assert (summary.exit_code, sink.closed, source.closed) == (0, True, True)


def test_a_source_that_hangs_does_not_keep_a_run_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.stream.run.PATIENCE", 0.05)
    stop, back = threading.Event(), threading.Event()

    class Dead(Script):
        def read(self) -> Picture | None:
            if self.read_count == 2:
                stop.set()
                back.wait(30)
            return super().read()

    source = Dead(pictures(9), live=True)
    try:
        row = Run(null_network(), [feed("a", source)], stop=stop).go().data["feeds"][0]
        assert (row["captured"], row["ended"], source.closed) == (2, "shutdown", False)
    finally:
        back.set()


class Unsteady(Network):
    """A network that fails by dice at each stage."""

    def __init__(self, dice: random.Random, rate: float) -> None:
        null = null_network()
        super().__init__(null.id, null.engine)
        self.dice, self.rate = dice, rate

    def prepare(self, frame: Any, slot: Any, index: int = 0) -> Any:
        self._roll()
        return super().prepare(frame, slot, index)

    def interpret(self, outputs: Any, placement: Any, index: int = 0) -> Any:
        self._roll()
        return super().interpret(outputs, placement, index)

    def _roll(self) -> None:
        if self.dice.random() < self.rate:
            raise RuntimeError("by dice")
        if self.dice.random() < self.rate:
            time.sleep(self.dice.random() * 1e-3)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lives=st.lists(st.booleans(), min_size=1, max_size=3),
    rate=st.sampled_from([0.0, 0.1, 0.5]),
    serial=st.booleans(),
    stop_at=st.one_of(st.none(), st.integers(0, 25)),
)
def test_every_frame_is_accounted_for_whatever_goes_wrong(
    seed: int, lives: list[bool], rate: float, serial: bool, stop_at: int | None
) -> None:
    """Under stalls, faults, drops and a shutdown at any moment: captured == delivered + failed + Σ dropped in
    every snapshot, nothing is left in flight, and the account agrees with what the sources gave."""
    dice, stop, watched = random.Random(seed), threading.Event(), threading.Event()

    def steps() -> list[Any]:
        made: list[Any] = []
        for picture in pictures(20, size=(2, 2)):
            roll = dice.random()
            made += [dice.random() * 1e-3] if roll < 0.2 else lost() if roll < 0.2 + rate / 2 else []
            made.append(picture)
        return made

    feeds = [
        Feed(f"f{i}", "script:", Script(steps(), live), 0.002 if live else None)
        for i, live in enumerate(lives)
    ]
    sink = Collect(lambda result: stop.set() if result.frame.seq == stop_at else None)
    run = Run(Unsteady(dice, rate), feeds, [("collect:", sink)], serial=serial, stop=stop)
    wrong = []

    def watch() -> None:
        while not watched.is_set():
            for each in feeds:
                c = each.account.counts()
                if (
                    c.captured != c.delivered + sum(c.failed.values()) + sum(c.dropped.values())
                    or c.in_flight < 0
                ):
                    wrong.append(c)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        rows = run.go().data["feeds"]
    except InputError:  # nothing could be read at all
        rows = []
    finally:
        watched.set()
        watcher.join()
    assert not wrong
    for row, each in zip(rows, feeds, strict=False):
        assert row["captured"] == row["delivered"] + row["failed"] + sum(row["dropped"].values())
        assert row["captured"] == each.source.read_count  # type: ignore[attr-defined]
        assert row["in_flight"] == 0
        order = sink.sequence(each.name)
        assert order == sorted(set(order))
        assert len(order) == row["delivered"]


def test_frames_gathered_while_a_finished_batch_turns_out_lost_are_counted() -> None:
    class Dying(NullEngine):
        def slot(self) -> Any:
            slot = super().slot()

            def wait() -> Any:
                raise DeviceLost("the context is dead")

            slot.wait = wait  # type: ignore[method-assign]
            return slot

    network = Network(
        null_network().id, Dying(batch=3), reopen=lambda: NullEngine(batch=3), slots=3, patience=0.2
    )
    slow = Script([0.5, *pictures(1)])  # may still give a frame: the fourth of the others waits for it
    sink = Collect()
    feeds = [feed("a", Script(pictures(2))), feed("b", slow), feed("c", Script(pictures(2)))]
    data = Run(network, feeds, [("collect:", sink)]).go().data
    rows = by_name(data)
    assert data["rebuilds"] == 1 and rows["b"]["delivered"] == 1
    assert [rows[name]["failed"] for name in "ac"] == [2, 2]
    assert all(row["in_flight"] == 0 for row in data["feeds"])
