"""The data that crosses room boundaries: frozen, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edge.dicom.volume import Volume

Image = NDArray[np.uint8]
"""H × W × 3, BGR (OpenCV's order), 0–255."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of an engine. A dimension is a size, or a name where it is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one feed.

    Attributes:
        feed: the feed's name, unique in a run.
        seq: 0, 1, 2 … in the order the source gave them; a dropped frame keeps its number.
        image: H × W × 3 uint8 BGR.
        pts: presentation time in seconds on the feed's own clock, None where it has none.
        captured: `time.perf_counter()` seconds, when the frame was complete in memory.
        captured_at: UNIX seconds (UTC) of the same moment.
        read_seconds: how long the source took to read and decode it.
        meta: what the source knows (file name; DICOM UIDs, frame number, transforms applied).
        truth: the right answer where the source knows it (test patterns), in the task's own form.
        flags: what is wrong with the picture: `frozen`, `black`, `overexposed`, `smeared`.
        thumb: a small grey copy (`edge.stream.thumb`), where something is decided by it.
        volume: the series that `image` is the middle slice of, where a whole one is looked at.
    """

    feed: str
    seq: int
    image: Image
    pts: float | None
    captured: float
    captured_at: float
    read_seconds: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)
    truth: Array | None = None
    flags: tuple[str, ...] = ()
    thumb: Array | None = None
    volume: Volume | None = None


class Payload(Protocol):
    """What a task found in one frame, in coordinates of the source image."""

    def to_json(self) -> dict[str, Any]:
        """The task's part of a result line (docs/result.schema.json)."""
        ...

    def draw(self, image: Image) -> Image:
        """The finding drawn over a copy of the image it was found in."""
        ...

    def found(self) -> Mapping[str, float]:
        """Classes found → best score of each; a class without a name goes by its number as text."""
        ...


@dataclass(frozen=True, slots=True)
class EngineId:
    """Which engine gave a result."""

    model: str
    target: str
    variant: str
    key: str


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A frame, what the task found in it, and how long each stage took (seconds, monotonic clock).

    Stages: capture (read and decode), queue (waiting for a slot), preprocess, infer, postprocess, total
    (from the frame being complete in memory to the result being ready; capture not included).
    """

    frame: Frame
    engine: EngineId
    payload: Payload
    stages: Mapping[str, float]
    flags: tuple[str, ...] = ()
