"""A batch on its way through a slot, who is in it, and how long each stage took."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from edge.backends import Slot
from edge.stream.feed import Feed
from edge.types import Frame

if TYPE_CHECKING:
    from edge.preprocess import Placement


class Rider(NamedTuple):
    """One frame of a batch."""

    feed: Feed
    frame: Frame
    placement: Placement | None = None
    gated: bool = False
    """It is not run, and gets the finding of the frame `like` once more."""
    like: int | None = None


class Flight(NamedTuple):
    """A batch in a slot, on its way, and the frames that only wait for its results."""

    slot: Slot
    riders: list[Rider]
    started: float
    """When the loop took the batch up, `time.perf_counter()` seconds."""
    prepared: float
    """When its slot was filled."""


def stages_of(
    frame: Frame, started: float, prepared: float, infer: float, executed: float, done: float
) -> dict[str, float]:
    """Seconds of each stage. What `total` has beyond their sum is waiting: for a stream, or for the loop."""
    return {
        "capture": frame.read_seconds,
        "queue": started - frame.captured,
        "preprocess": prepared - started,
        "infer": infer,
        "postprocess": done - executed,
        "total": done - frame.captured,
    }
