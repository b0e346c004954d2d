"""One run: readers, loop and sinks brought together, and the summary of what happened."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge.errors import InputError, RuntimeFault
from edge.sinks import Sink
from edge.stream.admission import Admission
from edge.stream.faults import Faults
from edge.stream.feed import Feed, Reader
from edge.stream.network import Network
from edge.stream.outlet import Outlet, OutletCounts
from edge.stream.pipeline import Pipeline
from edge.stream.score import Judge, Scoreboard
from edge.types import Result

PATIENCE = 2.0
"""Seconds that the end of a run waits for a source to come back from a read."""

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
    """

    def __init__(
        self,
        network: Network,
        feeds: Sequence[Feed],
        sinks: Sequence[tuple[str, Sink]] = (),
        limit: int | None = None,
        serial: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        self.network, self.feeds = network, list(feeds)
        self.limit, self.serial = limit, serial
        self.stop = stop or threading.Event()
        self.faults = Faults()
        self.admission = Admission([feed.lane for feed in feeds], self.stop)
        self.scoreboard = self._make_scoreboard()
        self._sinks = list(sinks)

    def go(self) -> Summary:
        """Run to the end of all feeds.

        Raises:
            InputError: no feed gave a single frame, and not because the run was stopped.
        """
        outlets = [Outlet(uri, sink, self.faults) for uri, sink in self._sinks]
        score = [Outlet(SCORE, self.scoreboard, self.faults)] if self.scoreboard else []
        pipeline = Pipeline(
            self.network,
            self.admission,
            {f.name: f for f in self.feeds},
            _fan_out(outlets + score),
            self.faults,
        )
        readers = [Reader(feed, self.admission, self.stop, self.faults, self.limit) for feed in self.feeds]

        def lend() -> None:
            for reader in readers:
                reader.lend(self.network.lender())

        lend()
        pipeline.on_rebuild = lend
        wall, cpu = time.perf_counter(), time.process_time()
        for reader in readers:
            reader.start()
        try:
            pipeline.serial() if self.serial else pipeline.overlapped()
        finally:
            self.stop.set()  # a reader that still waits for its camera has nobody to read for
            self.admission.close()
            counts = [outlet.close() for outlet in outlets]
            for outlet in score:
                outlet.close()
            self._close_readers(readers)
        return self._summary(pipeline, wall, cpu, list(zip((o.uri for o in outlets), counts, strict=True)))

    def _make_scoreboard(self) -> Scoreboard | None:
        task = self.network.task
        known = any(task and feed.source.truth_kind == task.kind for feed in self.feeds)
        return Scoreboard(task) if known and isinstance(task, Judge) else None

    def _close_readers(self, readers: list[Reader]) -> None:
        for reader in readers:
            reader.join(PATIENCE)
            if not reader.is_alive():  # a source that hangs in a read is left to the end of the process
                reader.feed.source.close()

    def _summary(
        self, pipeline: Pipeline, wall: float, cpu: float, sinks: list[tuple[str, OutletCounts]]
    ) -> Summary:
        feeds = [self._feed_summary(feed, wall) for feed in self.feeds]
        unreadable = all(feed["captured"] == feed["failures"].get("capture", 0) for feed in feeds)
        if unreadable and all(feed["ended"] in ("end", "truncated", "lost", "fault") for feed in feeds):
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
            "source": feed.uri,
            "live": feed.source.live,
            "captured": counts.captured,
            "delivered": counts.delivered,
            "failed": sum(counts.failed.values()),
            "failures": counts.failed,
            "dropped": counts.dropped,
            "in_flight": counts.in_flight,
            "flags": dict(feed.flags),
            "fps": round(counts.delivered / seconds, 2) if seconds > 0 else 0.0,
            "latency_ms": feed.times.latency_ms(),
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


def _fan_out(outlets: Sequence[Outlet]) -> Callable[[Result], None]:
    """One function that hands a result to every sink."""
    if len(outlets) == 1:
        return outlets[0].put
    puts = [outlet.put for outlet in outlets]

    def deliver(result: Result) -> None:
        for put in puts:
            put(result)

    return deliver


def _sink_summary(uri: str, counts: OutletCounts) -> dict[str, Any]:
    return {"sink": uri, **asdict(counts)}


def peak_rss_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
