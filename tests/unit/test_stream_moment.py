"""A live feed's frame is taken just before the engine is free for it."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest
from live import Opener, Steady, going, live_feed, until
from streaming import Collect

from edge.stream.moment import LONGEST, MARGIN, WINDOW, LastMoment
from edge.stream.network import null_network
from edge.stream.run import Run

PREPARE, EXECUTE = 0.002, 0.020


def known() -> LastMoment:
    """What a batch that was done at second 1 has shown."""
    moment = LastMoment()
    moment.learn(PREPARE, EXECUTE, done=1.0)
    return moment


def test_nothing_is_waited_for_before_anything_is_known() -> None:
    assert LastMoment().pause([5.0], now=5.0) <= 0


def test_a_frame_is_taken_as_long_before_the_engine_is_free_as_it_takes_to_prepare() -> None:
    assert known().pause([2.0], now=2.0) == pytest.approx(EXECUTE - PREPARE - MARGIN)
    assert known().pause([2.0], now=2.0 + EXECUTE) < 0


def test_batches_in_flight_are_executed_one_after_the_other() -> None:
    assert known().pause([2.0, 2.001], now=2.0) == pytest.approx(2 * EXECUTE - PREPARE - MARGIN)


def test_a_batch_that_was_given_early_begins_when_the_one_before_is_done() -> None:
    assert known().pause([0.99], now=1.0) == pytest.approx(EXECUTE - PREPARE - MARGIN)


def test_batches_that_take_longer_or_shorter_from_now_on_are_soon_counted_on() -> None:
    moment = known()
    for _ in range(WINDOW):
        moment.learn(2 * PREPARE, EXECUTE / 2, done=1.0)
    assert moment.pause([2.0], now=2.0) == pytest.approx(EXECUTE / 2 - 2 * PREPARE - MARGIN)
    for _ in range(WINDOW):
        moment.learn(PREPARE, 10 * EXECUTE, done=1.0)
    assert moment.pause([2.0], now=2.0) == pytest.approx(10 * EXECUTE - PREPARE - MARGIN)


def test_a_thread_that_waited_for_a_processor_now_and_then_changes_nothing() -> None:
    moment = known()
    for number in range(4 * WINDOW):
        hiccup = number % 5 == 0
        moment.learn(10 * PREPARE if hiccup else PREPARE, EXECUTE / 3 if hiccup else EXECUTE, done=1.0)
    assert moment.pause([2.0], now=2.0) == pytest.approx(EXECUTE - PREPARE - MARGIN)


def test_the_loop_looks_around_in_any_case() -> None:
    moment = LastMoment()
    moment.learn(0.0, 60.0, done=1.0)
    assert moment.pause([2.0], now=2.0) == LONGEST


def test_results_of_live_feeds_are_little_older_than_one_inference_however_many_frames_wait() -> None:
    feeds, sink, seconds = [live_feed(name, Opener(Steady)) for name in "abcd"], Collect(), 0.05
    network = null_network(f"delay_ms={1e3 * seconds}")
    with going(Run(network, feeds, [("collect:", sink)])) as run:
        until(lambda: len(sink.results) >= 24)
        run.end()
    ages = [result.stages["total"] for result in sink.results[4:]]
    assert seconds <= statistics.median(ages) < 1.7 * seconds


def test_the_engine_is_kept_busy_all_the_same() -> None:
    feeds, sink = [live_feed(name, Opener(Steady)) for name in "ab"], Collect()
    with going(Run(null_network("delay_ms=50"), feeds, [("collect:", sink)])) as run:
        until(lambda: len(sink.results) >= 24)
        run.end()
    ready = [result.frame.captured + result.stages["total"] for result in sink.results[4:]]
    pauses = [later - sooner for sooner, later in pairwise(ready)]
    assert statistics.median(pauses) < 0.0525
