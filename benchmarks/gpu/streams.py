"""Feeds from memory and sinks that remember: what comparing and measuring share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from edge.backends import PictureEngine
from edge.sinks import Sink
from edge.sources import Picture
from edge.stream.feed import Feed
from edge.stream.network import Network
from edge.stream.run import Run
from edge.types import Image, Result

BUFFERS = 6
"""Frames that a feed goes round in: more than are in flight and waiting at a time."""


class Memory:
    """Frames that are already there; reading one costs nothing.

    Args:
        fps: frames fall due at this rate; None: as soon as they are wanted.
    """

    label, live, truth_kind, problem = "memory", False, None, None

    def __init__(self, images: Sequence[Image], fps: float | None = None) -> None:
        self.images, self.fps, self.paced = images, fps, fps is not None
        self._read = 0

    def read(self) -> Picture:
        index = self._read
        self._read += 1
        return Picture(self.images[index % len(self.images)], index / self.fps if self.fps else None)

    def close(self) -> None:
        pass


def noise(size: tuple[int, int], count: int, seed: int = 0) -> list[Image]:
    """Pictures that differ in every pixel."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def page_locked(network: Network, images: Sequence[Image]) -> list[Image]:
    """The same pictures in the engine's own frame buffers, where it has such."""
    if not network.engine.takes_pictures:
        return list(images)
    frames: Any = cast(PictureEngine, network.engine).frames
    lender = frames.lend(len(images))
    lender(images[0].shape)  # asks for buffers of this size
    frames.provide_wanted()
    return [lender.copy(image) for image in images]


@dataclass
class Results:
    """A sink that keeps what is compared and measured, and lets go of the pictures."""

    findings: list[tuple[str, int, Any]] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    """Seconds from a frame being there to its result, less the engine's own."""
    total: list[float] = field(default_factory=list)
    keep: bool = True

    def write(self, result: Result) -> None:
        if self.keep:
            frame = result.frame
            self.findings.append((frame.feed, frame.seq, result.payload.to_json()))
        self.total.append(result.stages["total"])
        self.added.append(result.stages["total"] - result.stages["infer"])

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Streamed:
    """What a run took.

    Attributes:
        data: the runner's own summary.
        cpu: processor seconds, all threads together.
    """

    data: dict[str, Any]
    seconds: float
    cpu: float
    delivered: int

    @property
    def fps(self) -> float:
        return self.delivered / self.seconds if self.seconds else 0.0

    @property
    def cpu_us(self) -> float:
        """Processor microseconds a frame."""
        return 1e6 * self.cpu / max(1, self.delivered)


def stream(
    network: Network, sources: Sequence[Memory], frames: int, sink: Sink | None = None, serial: bool = False
) -> Streamed:
    """`frames` of each source through the network."""
    if sink is None:
        from edge.sinks import open_sink

        sink = open_sink("null:", [])
    feeds = [Feed(f"memory{i}", "memory:", cast(Any, source)) for i, source in enumerate(sources)]
    run = Run(network, feeds, [("sink:", sink)], limit=frames, serial=serial)
    wall, cpu = time.perf_counter(), time.process_time()
    data = run.go().data
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Streamed(data, wall, cpu, sum(feed["delivered"] for feed in data["feeds"]))
