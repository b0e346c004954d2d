"""What goes wrong in a soak: a schedule that follows from a seed, and who does it to real servers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feeds.stage import RtspServer

WHOLE = ("kill", "restart", "freeze")
"""Faults of a server, with all its feeds; the others are of one feed."""
KNOBS: Mapping[str, Mapping[str, Any]] = {
    "pause": {"pause": True},
    "slow": {"slow": 1.0},
    "static": {"static": True},
    "black": {"static": True, "black": True},
    "damage": {"damage": 5},
}
"""What is turned on the server's mount (tests/rtsp_server.py)."""
KINDS = (*WHOLE, *KNOBS)
SHOWS: Mapping[str, tuple[str, ...]] = {
    "kill": ("reconnecting",),
    "restart": ("reconnecting",),
    "freeze": ("stalled", "reconnecting"),
    "pause": ("stalled", "reconnecting"),
    "static": ("frozen",),
    "black": ("black",),
}
"""The states, any of which a feed has to come into. A slow feed and a damaged one stay live."""
MOUNTS: Mapping[str, int] = {"static": 1, "damage": 0}
"""Where these are done: to Motion JPEG, because an H.264 encoder that keeps to a bit rate repeats no picture
exactly, and to H.264."""
PAUSES, LENGTHS = (5.0, 20.0), (5.0, 14.0)
"""Shortest and longest seconds between the faults of a server, and of a fault."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is done to a server, or to one feed of it.

    Attributes:
        at, seconds: when it begins, counted from the start of the run, and how long it lasts.
        mount: of the server; None for all.
    """

    kind: str
    at: float
    seconds: float
    server: int
    mount: int | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A fault as it really was; UNIX seconds."""

    fault: Fault
    began: float
    ended: float


def schedule(
    seed: int, first: float, last: float, servers: int, mounts: int, pauses: tuple[float, float] = PAUSES
) -> list[Fault]:
    """Faults that begin after `first` and are over by `last`, in order; a server has one at a time.

    Every kind has had its turn before one comes again.
    """
    numbers = random.Random(seed)
    spans = []
    for server in range(servers):
        at = first + numbers.uniform(0, pauses[0])
        while at + (seconds := numbers.uniform(*LENGTHS)) <= last:
            spans.append((at, seconds, server))
            at += seconds + numbers.uniform(*pauses)
    faults, bag = [], list[str]()
    for at, seconds, server in sorted(spans):
        bag = bag or numbers.sample(KINDS, len(KINDS))
        kind = bag.pop()
        mount = None if kind in WHOLE else MOUNTS.get(kind, numbers.randrange(mounts))
        faults.append(Fault(kind, at, seconds, server, mount))
    return faults


class Weather(threading.Thread):
    """Does one server's faults to it.

    Attributes:
        done: those that are over.
        under_way: the one that is not.
        error: what went wrong with doing them.
    """

    def __init__(self, server: RtspServer, paths: Sequence[str], faults: Sequence[Fault]) -> None:
        super().__init__(name="weather", daemon=True)
        self._server, self._paths, self._faults = server, paths, faults
        self._start = 0.0
        self.stop = threading.Event()
        self.done: list[Done] = []
        self.under_way: Fault | None = None
        self.error: Exception | None = None

    def begin(self, start: float) -> None:
        """Faults are due from this moment on, `time.perf_counter()` seconds."""
        self._start = start
        self.start()

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            RuntimeError: a fault could not be done.
        """
        self.stop.set()
        self.join()
        if self.error is not None:
            raise RuntimeError("the faults came to an end") from self.error

    def run(self) -> None:
        try:
            for fault in self._faults:
                if self.stop.wait(max(0.0, self._start + fault.at - time.perf_counter())):
                    return
                self._do(fault)
        except Exception as e:
            self.error = e

    def _do(self, fault: Fault) -> None:
        server, began = self._server, time.time()
        self.under_way = fault
        if fault.kind == "restart":
            server.kill()
            server.start()
        elif fault.kind == "kill":
            server.kill()
            self.stop.wait(fault.seconds)
            server.start()
        elif fault.kind == "freeze":
            server.freeze()
            self.stop.wait(fault.seconds)
            server.thaw()
        else:
            path = self._paths[fault.mount or 0]
            server.turn(path, **KNOBS[fault.kind])
            self.stop.wait(fault.seconds)
            server.calm(path)
        self.done.append(Done(fault, began, time.time()))
        self.under_way = None
