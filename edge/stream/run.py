"""One run: readers, loop and sinks brought together, and the summary of what happened."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge.build.resources import few_heaps
from edge.errors import InputError, RuntimeFault, UsageError, nearest
from edge.machine import usable_cores
from edge.privacy import Privacy
from edge.sinks import Sink
from edge.stream.admission import PREFETCH, Admission
from edge.stream.faults import Faults
from edge.stream.feed import Feed
from edge.stream.network import Network
from edge.stream.outlet import Outlet, OutletCounts, StraightOutlet, open_outlet
from edge.stream.pipeline import Pipeline
from edge.stream.reader import Reader
from edge.stream.score import Judge, Scoreboard
from edge.stream.watch import Watch
from edge.types import Result

PATIENCE = 2.0
"""Seconds that the end of a run waits for files to come back from a read, all together."""
LIVE_PATIENCE = 0.5
"""The same for live feeds: nothing of theirs is lost."""

OF_ITSELF = ("end", "truncated", "lost", "failed", "fault")
"""How feeds end when nobody ended them."""
SCORE = "score:"
"""What the scoreboard is called among the sinks when it fails; it is not listed otherwise."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What happened, as `--summary` writes it, and the exit code it means."""

    data: dict[str, Any]
    exit_code: int


class Run:
    """Streams `feeds` through `network` into `sinks`.

    Args:
        sinks: opened, by the address they were opened with; closed here.
        limit: frames to read from each feed; None for all.
        serial: one frame after the other instead of two slots.
        stop: set it to end the run early; what is in a slot is finished, sinks are flushed.
        latency: seconds from frame to result that batches are kept small for.
        open_end: go on when all feeds have ended, because others may be added.
        privacy: what sinks, summary and log are told of DICOM objects.

    Attributes:
        feeds: all there ever were, those that were removed too.
    """

    def __init__(
        self,
        network: Network,
        feeds: Sequence[Feed],
        sinks: Sequence[tuple[str, Sink]] = (),
        limit: int | None = None,
        serial: bool = False,
        stop: threading.Event | None = None,
        latency: float | None = None,
        open_end: bool = False,
        privacy: Privacy | None = None,
    ) -> None:
        self.network, self.feeds = network, list(feeds)
        self.limit, self.serial = limit, serial
        self.stop = stop or threading.Event()
        self.privacy = privacy or Privacy()
        self.faults = Faults(self.privacy)
        ahead = max(PREFETCH, network.batch)
        self.admission = Admission([feed.lane for feed in feeds], self.stop, open_end, ahead)
        self.scoreboard = self._make_scoreboard()
        self.outlets: list[Outlet | StraightOutlet] = []
        self.latency = latency
        self._sinks = list(sinks)
        self._by_name = {feed.name: feed for feed in self.feeds}
        self._watch = Watch(self.stop, self._reader_instead)
        self._changing = threading.Lock()
        self._running = False

    # ------------------------------------------------------------------ feeds that come and go

    def add(self, feed: Feed) -> None:
        """One feed more, now or before the run; from any thread.

        Raises:
            UsageError: another feed has its name.
        """
        with self._changing:
            if feed.name in self._by_name:
                raise UsageError(f"feed '{feed.name}'", "there is one of this name", "give it another name")
            self._by_name[feed.name] = feed
            self.feeds.append(feed)
            self.admission.add(feed.lane)
            if self._running:
                self._start(self._reader(feed))

    def remove(self, name: str) -> None:
        """End a feed; what is in a slot is finished, what waits is dropped. Its name stays taken.

        Raises:
            UsageError: there is no such feed.
        """
        feed = self._by_name.get(name)
        if feed is None:
            raise UsageError(f"no feed '{name}'", "", nearest(name, self._by_name))
        feed.removed.set()
        self.admission.remove(feed.lane)
        feed.ended = feed.ended or "removed"
        feed.life.to("ended", "removed")

    def _reader(self, feed: Feed) -> Reader:
        reader = Reader(feed, self.admission, self.stop, self.faults, self.limit)
        reader.lend(self.network.lender())
        return reader

    def _start(self, reader: Reader) -> None:
        self._watch.add(reader)
        reader.start()
        if reader.feed.live and self._watch.ident is None:
            self._watch.start()

    def _reader_instead(self, reader: Reader) -> Reader:
        another = self._reader(reader.feed)
        another.start()
        return another

    # ------------------------------------------------------------------ the run

    def go(self) -> Summary:
        """Run to the end of all feeds.

        Raises:
            InputError: no feed gave a single frame, and not because the run was stopped.
        """
        few_heaps(max(2, usable_cores()))
        outlets = self.outlets = [open_outlet(uri, sink, self.faults) for uri, sink in self._sinks]
        score = [Outlet(SCORE, self.scoreboard, self.faults)] if self.scoreboard else []
        deliver = _shown(_fan_out([*outlets, *score]), self.privacy)
        pipeline = Pipeline(self.network, self.admission, self._by_name, deliver, self.faults, self.latency)
        pipeline.on_rebuild = self._lend_again
        wall, cpu = time.perf_counter(), time.process_time()
        with self._changing:
            readers = [self._reader(feed) for feed in self.feeds if not feed.removed.is_set()]
            for reader in readers:
                self._start(reader)
            self._running = True
        try:
            pipeline.serial() if self.serial else pipeline.overlapped()
        finally:
            with self._changing:
                self._running = False
            self.stop.set()  # a reader that still waits for its camera has nobody to read for
            if self._watch.is_alive():
                self._watch.join(LIVE_PATIENCE)
            self.admission.close()
            counts = [outlet.close() for outlet in outlets]
            for outlet in score:
                outlet.close()
            self._close_readers(self._watch.readers())
            self._close_feeds()
        return self._summary(pipeline, wall, cpu, list(zip((o.uri for o in outlets), counts, strict=True)))

    def _lend_again(self) -> None:
        for reader in self._watch.readers():
            reader.lend(self.network.lender())

    def _make_scoreboard(self) -> Scoreboard | None:
        task = self.network.task
        known = any(task and feed.truth_kind == task.kind for feed in self.feeds)
        return Scoreboard(task) if known and isinstance(task, Judge) else None

    def _close_readers(self, readers: list[Reader]) -> None:
        """Wait a little; a source that hangs in a read is left to the end of the process."""
        now = time.perf_counter()
        for reader in sorted(readers, key=lambda r: not r.feed.live):
            patience = LIVE_PATIENCE if reader.feed.live else PATIENCE
            reader.join(max(0.0, now + patience - time.perf_counter()))
            if reader.is_alive():
                with reader.feed.lock:  # what it brings later is not counted any more
                    reader.give_up()

    def _close_feeds(self) -> None:
        """Whoever is told of outcomes has heard all of them."""
        for feed in self.feeds:
            try:
                feed.close()
            except Exception as e:  # the others are closed too
                self.faults.report(feed.name, "closing", e)

    def _summary(
        self, pipeline: Pipeline, wall: float, cpu: float, sinks: list[tuple[str, OutletCounts]]
    ) -> Summary:
        feeds = [self._feed_summary(feed, wall) for feed in self.feeds]
        unreadable = all(feed["captured"] == feed["failures"].get("capture", 0) for feed in feeds)
        if feeds and unreadable and all(feed["ended"] in OF_ITSELF for feed in feeds):
            raise InputError(
                "no frame could be read from " + ", ".join(feed["source"] for feed in feeds),
                next((feed["error"] for feed in feeds if feed["error"]), "the source is empty"),
                "check the source",
            )
        data = {
            "feeds": feeds,
            "sinks": [_sink_summary(uri, counts) for uri, counts in sinks],
            "loop": "serial" if self.serial else "overlapped",
            "slots": len(pipeline.slots),
            "batch": {
                "most": pipeline.size.most,
                "now": pipeline.size.limit,
                "latency_ms": None if self.latency is None else round(1e3 * self.latency, 3),
                "missed": pipeline.size.missed,
            },
            "device": pipeline.device_summary(),
            "rebuilds": pipeline.rebuilds,
            "stopped": str(pipeline.stopped) if pipeline.stopped else None,
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_rss_bytes": peak_rss_bytes(),
            "faults": self.faults.total,
        }
        return Summary(data, RuntimeFault.exit_code if self.faults.total else 0)

    def _feed_summary(self, feed: Feed, start: float) -> dict[str, Any]:
        counts = feed.account.counts()
        if counts.in_flight or counts.read != feed.reader_count:
            message = (
                f"{feed.reader_count} frames read, {counts.read} handed in, {counts.in_flight} without a fate"
            )
            self.faults.report(feed.name, "accounting", RuntimeFault(message))
        engine = self.network.id
        seconds = (feed.last_delivered or start) - start
        return {
            "feed": feed.name,
            "source": self.privacy.place(feed.uri) if feed.private else feed.uri,
            "live": feed.live,
            **feed.life.summary(),
            "given_up_reads": feed.given_up,
            "captured": counts.captured,
            "delivered": counts.delivered,
            "failed": sum(counts.failed.values()),
            "failures": counts.failed,
            "dropped": counts.dropped,
            "in_flight": counts.in_flight,
            "flags": dict(feed.flags),
            "fps": round(counts.delivered / seconds, 2) if seconds > 0 else 0.0,
            "latency_ms": feed.times.latency_ms(),
            "age_ms": feed.times.latency_ms() if feed.live else None,
            "lateness_ms": feed.lateness.spread_ms() if feed.lateness.count else None,
            "stages_ms": feed.times.means_ms(),
            "engine": {
                "model": engine.model,
                "target": engine.target,
                "variant": engine.variant,
                "key": engine.key,
                "runtime": self.network.runtime,
            },
            "score": self.scoreboard.score(feed.name) if self.scoreboard else None,
            "ended": feed.ended or "shutdown",
            "error": feed.error,
        }


def _fan_out(outlets: Sequence[Outlet | StraightOutlet]) -> Callable[[Result], None]:
    """One function that hands a result to every sink."""
    if len(outlets) == 1:
        return outlets[0].put
    puts = [outlet.put for outlet in outlets]

    def deliver(result: Result) -> None:
        for put in puts:
            put(result)

    return deliver


def _shown(deliver: Callable[[Result], None], privacy: Privacy) -> Callable[[Result], None]:
    """Hands on what sinks may see of a result; whoever owes an answer has had it as it is."""
    return lambda result: deliver(privacy.result(result))


def _sink_summary(uri: str, counts: OutletCounts) -> dict[str, Any]:
    return {"sink": uri, **asdict(counts)}


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
