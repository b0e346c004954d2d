"""A sink behind its queue: slow, failing, hanging or gone, it holds nobody up, and all is counted."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from streaming import Collect

from edge.errors import RuntimeFault
from edge.sinks import Gone
from edge.stream import outlet as module
from edge.stream.faults import Faults
from edge.stream.network import Nothing
from edge.stream.outlet import DEPTH, FLUSH_EVERY, Outlet
from edge.types import EngineId, Frame, Result

IMAGE = np.zeros((2, 2, 3), np.uint8)


def result(seq: int) -> Result:
    return Result(Frame("a", seq, IMAGE, None, 1.0, 1.7e9), EngineId("m", "cpu", "fast", "k"), Nothing(), {})


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


class Moody(Collect):
    """Keeps what was flushed; fails while `broken`, waits while `gate` is shut, and can be opened again."""

    def __init__(self, policy: str = "block") -> None:
        super().__init__()
        self.policy = policy
        self.broken: Exception | None = None
        self.failed = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered, self.waiting, self.opened = threading.Semaphore(0), [], 1

    def write(self, result: Result) -> None:
        self.entered.release()
        self.gate.wait()
        if broken := self.broken:
            self.failed = True
            raise broken
        self.waiting.append(result)

    def flush(self) -> None:
        self.results += self.waiting
        self.waiting.clear()

    def close(self) -> None:
        self.closed = True
        if not self.failed:
            self.flush()
        self.waiting.clear()

    def reopen(self) -> None:
        self.opened += 1
        if isinstance(broken := self.broken, OSError):
            raise broken
        self.closed = self.failed = False

    @property
    def kept(self) -> list[int]:
        return self.sequence("a")


@pytest.fixture
def sink() -> Iterator[Moody]:
    sink = Moody()
    yield sink
    sink.gate.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is opened again soon."""
    monkeypatch.setattr(module, "PAUSES", (0.001,))


def hold(sink: Moody, outlet: Outlet) -> None:
    """The sink has result 0 in hand, and does not come back."""
    sink.gate.clear()
    outlet.put(result(0))
    assert sink.entered.acquire(timeout=30)


def test_a_live_sink_gets_the_newest_and_the_rest_is_counted() -> None:
    sink = Moody("drop-oldest")
    outlet = Outlet("live:", sink, Faults())
    hold(sink, outlet)
    for seq in range(1, 50):
        outlet.put(result(seq))
    sink.gate.set()
    counts = outlet.close()
    assert sink.kept == [0, *range(50 - DEPTH, 50)]
    assert counts.dropped == 49 - DEPTH
    assert (counts.written, counts.lost, counts.failing, counts.error) == (1 + DEPTH, 0, False, None)


def test_a_sink_of_record_gets_everything(sink: Moody) -> None:
    outlet = Outlet("record:", sink, Faults())
    for seq in range(500):
        outlet.put(result(seq))
    counts = outlet.close()
    assert sink.kept == list(range(500))
    assert (counts.written, counts.lost, counts.dropped, counts.retries) == (500, 0, 0, 0)


def test_what_failed_is_opened_again_and_goes_on(
    sink: Moody, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults()
    outlet = Outlet("record:", sink, faults)
    outlet.put(result(0))
    until(lambda: outlet.counts().written == 1)
    sink.broken = OSError(28, "No space left on device")
    outlet.put(result(1))
    until(lambda: outlet.counts().retries >= 3)
    assert outlet.failing
    for seq in range(2, 100):
        outlet.put(result(seq))
    sink.broken = None
    until(lambda: not sink.closed)
    until(lambda: not outlet._closed)
    outlet.put(result(100))
    until(lambda: not outlet.failing)
    counts = outlet.close()
    assert sink.kept[0] == 0
    assert sink.kept[-1] == 100
    assert (counts.written, counts.lost) == (len(sink.kept), 101 - len(sink.kept))
    assert counts.lost > 90
    assert "No space left" in (counts.error or "")
    assert faults.total == counts.retries
    assert "writes again" in caplog.text


def test_what_failed_does_not_hold_up_the_loop(sink: Moody, quick: None) -> None:
    """While it is closed, and while opening it takes for ever."""
    outlet, reopening, go_on = Outlet("record:", sink, Faults()), threading.Event(), threading.Event()

    def reopen() -> None:
        reopening.set()
        go_on.wait()

    sink.reopen = reopen  # type: ignore[method-assign]
    sink.broken = RuntimeFault("the folder is gone")
    outlet.put(result(0))
    assert reopening.wait(30)
    for seq in range(1, 1000):
        outlet.put(result(seq))
    assert outlet.counts().lost == 1000
    go_on.set()
    assert outlet.close().lost == 1000


def test_pauses_double_up_to_half_a_minute_until_it_works(sink: Moody) -> None:
    class Ending:
        """The run ends after the ninth pause."""

        pauses: list[float] = []  # noqa: RUF012

        def wait(self, seconds: float) -> bool:
            self.pauses.append(seconds)
            return len(self.pauses) > 8

        def set(self) -> None:
            pass

    outlet = Outlet("record:", sink, Faults())
    outlet._ending = Ending()  # type: ignore[assignment]
    sink.broken = OSError(5, "Input/output error")
    outlet.put(result(0))
    outlet._thread.join(30)
    assert Ending.pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert outlet.close().retries == 8


def test_opening_alone_does_not_count_as_working(sink: Moody, quick: None) -> None:
    """A full disk still lets files be opened."""
    outlet = Outlet("record:", sink, Faults())
    sink.broken = RuntimeFault("the disk is full")  # not of the kind that keeps it from being opened
    for attempt in range(1, 4):
        until(lambda: not outlet._closed)
        outlet.put(result(attempt))
        until(lambda failures=attempt: outlet._failures == failures and not outlet._closed)
        assert outlet.failing
    assert outlet.close().failing


def test_a_reader_that_is_gone_is_not_waited_for(sink: Moody, quick: None) -> None:
    outlet = Outlet("pipe:", sink, Faults())
    sink.broken = Gone("cannot write standard output", "its reader is gone")
    outlet.put(result(0))
    outlet._thread.join(30)
    outlet.put(result(1))
    counts = outlet.close()
    assert (sink.opened, counts.retries, counts.lost, counts.failing) == (1, 0, 2, True)


def test_a_sink_that_hangs_holds_the_loop_once_and_is_back_when_it_has_caught_up(
    sink: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_WRITE", 0.05)
    faults = Faults()
    outlet = Outlet("nfs:", sink, faults)
    hold(sink, outlet)
    for seq in range(1, 1 + DEPTH + 20):
        outlet.put(result(seq))
    assert outlet.failing
    assert (outlet.counts().lost, faults.total) == (20, 1)
    sink.gate.set()
    until(lambda: outlet.counts().written == 1 + DEPTH)
    outlet.put(result(100))
    counts = outlet.close()
    assert sink.kept == [*range(1 + DEPTH), 100]
    assert (counts.written, counts.lost, counts.failing) == (2 + DEPTH, 20, False)
    assert "hangs" in (counts.error or "")


@pytest.mark.parametrize("policy", ["block", "drop-oldest"])
def test_a_sink_that_hangs_does_not_keep_a_run_from_ending(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_CLOSE", 0.05)
    sink, faults = Moody(policy), Faults()
    outlet = Outlet("nfs:", sink, faults)
    hold(sink, outlet)
    outlet.put(result(1))
    counts = outlet.close()
    assert (counts.written, counts.lost, counts.failing, faults.total) == (0, 2, True, 1)
    sink.gate.set()


def test_a_slow_sink_is_waited_for_at_the_end_as_long_as_it_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Collect(lambda result: time.sleep(0.05))
    monkeypatch.setattr(module, "LONGEST_CLOSE", 0.3)
    outlet = Outlet("slow:", slow, Faults())
    for seq in range(8):
        outlet.put(result(seq))
    assert outlet.close().written == 8


def test_a_sink_that_is_never_idle_is_flushed_all_the_same(sink: Moody) -> None:
    outlet = Outlet("busy:", sink, Faults())
    sink.gate.clear()
    flushes: list[int] = []
    flush = sink.flush
    sink.flush = lambda: (flushes.append(len(sink.waiting)), flush())[1]  # type: ignore[method-assign]
    feeder = threading.Thread(target=lambda: [outlet.put(result(seq)) for seq in range(10 * FLUSH_EVERY)])
    feeder.start()
    until(lambda: outlet._queue.qsize() >= DEPTH)
    sink.gate.set()
    feeder.join()
    outlet.close()
    assert 0 < max(flushes) <= FLUSH_EVERY


def test_a_sink_with_a_pulse_is_flushed_while_nothing_comes() -> None:
    class Pulse(Collect):
        idle_s = 0.001
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    sink = Pulse()
    outlet = Outlet("pulse:", sink, Faults())
    until(lambda: sink.flushes >= 3)
    assert outlet.close().error is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("policy", ["block", "drop-oldest"])
def test_whatever_fails_when_the_account_is_exact(seed: int, policy: str, quick: None) -> None:
    """`written` is what the sink kept; written, lost and dropped are what it was given."""
    dice = random.Random(seed)
    sink = Moody(policy)
    outlet = Outlet("moody:", sink, Faults())
    for seq in range(2000):
        if dice.random() < 0.02:
            sink.broken = dice.choice([None, None, OSError(28, "full"), RuntimeFault("odd"), KeyError("bug")])
        outlet.put(result(seq))
    counts = outlet.close()
    kept = sink.kept
    assert counts.written + counts.lost + counts.dropped == 2000
    assert counts.written == len(kept) == len(set(kept))
    assert kept == sorted(kept)
