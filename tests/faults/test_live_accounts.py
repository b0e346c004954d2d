"""Whatever live feeds do, by dice: every frame has one fate, results stay in order, and no thread is left."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import SOON, Opener, adds_up, going, live_feed, tape, until
from streaming import Collect, lost, pictures

from edge.errors import InputError
from edge.sources import Damaged
from edge.stream import watch as watching
from edge.stream.network import null_network
from edge.stream.run import Run

STALLED_S = 0.05
"""Shorter than the longest stall of a tape: some reads are given up, and come back late."""


@pytest.fixture(autouse=True, scope="module")
def hasty() -> Any:
    """A watch that gives up soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "EVERY", 0.005)
        patch.setattr(watching, "GRACE", 0.01)
        patch.setattr(watching, "OPENING", 0.05)
        yield


def connections(dice: random.Random) -> list[Callable[[], Any]]:
    """What one attempt after the other meets."""
    return [_connection(dice.randrange(10**6)) for _ in range(6)]


def _connection(seed: int) -> Callable[[], Any]:
    def connect() -> Any:
        dice = random.Random(seed)
        roll = dice.random()
        if roll < 0.2:
            return InputError("cannot open it", "nobody there")
        if roll < 0.3:
            return RuntimeError("a fault in a driver")
        if roll < 0.4:
            time.sleep(0.12)  # opening hangs
        steps: list[Any] = []
        for picture in pictures(dice.randrange(8), seed, (4, 4)):
            roll = dice.random()
            steps += [0.15] if roll < 0.05 else [dice.random() * 2e-3]
            steps += [Damaged("damaged")] if roll < 0.25 else lost() if roll < 0.35 else [picture]
        return tape([*steps, ZeroDivisionError("in a decoder")] if dice.random() < 0.2 else steps)

    return connect


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 5),
    serial=st.booleans(),
    batch=st.sampled_from([1, 4]),
    fail_every=st.sampled_from([0, 5]),
    limit=st.one_of(st.none(), st.integers(1, 12)),
    more=st.sampled_from([{}, {"stride": 2}, {"fps": 100}, {"motion": {}}, {"max_age_ms": 1}]),
)
def test_every_frame_has_one_fate(
    seed: int, count: int, serial: bool, batch: int, fail_every: int, limit: int | None, more: dict[str, Any]
) -> None:
    dice, sink, watched = random.Random(seed), Collect(), threading.Event()
    quick = {"health": {"stalled_s": STALLED_S}, "reconnect": {**SOON, "open_s": 0.02}}
    feeds = [live_feed(f"{seed}-{i}", Opener(*connections(dice)), **quick, **more) for i in range(count)]
    network = null_network(f"delay_ms=0.2&fail_every={fail_every}", batch, 1e-3)
    wrong = []

    def look() -> None:
        while not watched.wait(1e-3):
            for feed in feeds:
                counts = feed.account.counts()
                decided = counts.delivered + sum(counts.failed.values()) + sum(counts.dropped.values())
                if counts.captured != decided or not 0 <= counts.in_flight <= 4 * batch + 4:
                    wrong.append(counts)

    looking = threading.Thread(target=look)
    looking.start()
    run = Run(network, feeds, [("c:", sink)], limit, serial)
    with going(run) as started:
        end = time.perf_counter() + 0.3
        until(lambda: time.perf_counter() > end or all(feed.life.over for feed in feeds))
        try:
            started.end()
        except InputError:  # nothing at all could be read
            assert not sink.results
    watched.set()
    looking.join()
    assert not wrong
    for feed in feeds:
        counts = feed.account.counts()
        assert adds_up(feed)
        assert limit is None or counts.captured <= limit
        order = sink.sequence(feed.name)
        assert order == sorted(set(order))
        assert len(order) == counts.delivered
    names = {f"reader-{feed.name}" for feed in feeds}
    until(lambda: not [t for t in threading.enumerate() if t.name in names])
