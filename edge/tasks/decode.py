"""Raw detector outputs → candidates: boxes in network pixels with a class and a score.

Nothing is computed for candidates that cannot be reported: the score decides first, and only the rows that
pass are copied, classed and turned into boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge.errors import ModelError
from edge.types import Array

if TYPE_CHECKING:
    from edge.tasks.detect import DetectSettings

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Size = tuple[int, int]
"""Height and width of the network's input in pixels."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """
    Attributes:
        multi_label: one candidate may give a box for each of its classes, as COCO scoring is done;
            otherwise only for its best.
    """

    confidence: float
    overlap: float
    limit: int
    multi_label: bool


SCORING = Thresholds(confidence=0.01, overlap=0.65, limit=100, multi_label=True)
"""YOLOX's own evaluation settings; the figures of its model zoo are defined with them."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """N boxes in network pixels, x1 y1 x2 y2, each with one class and its score."""

    boxes: Floats
    scores: Floats
    classes: Indices

    def __getitem__(self, chosen: Any) -> Candidates:
        return Candidates(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


@lru_cache(maxsize=8)
def grid(size: Size, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Cell (x, y) and stride of every candidate of a YOLOX head: N × 2 and N × 1."""
    cells, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([x, y], 2).reshape(-1, 2))
        sizes.append(np.full((x.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def check_yolox(shape: tuple[int, int], settings: DetectSettings, size: Size) -> None:
    """Raise ModelError unless `shape` is the output of a YOLOX head at this input size."""
    cells = len(grid(size, settings.strides)[0])
    if shape[0] != cells or shape[1] < 6:
        raise ModelError(
            f"the detector's output is {shape[0]}×{shape[1]}",
            f"YOLOX with strides {settings.strides} has {cells}×(5 + classes) at {size[1]}×{size[0]}",
            "check `strides` and `decode` in [task] and `size` in [input]",
        )


def check_yolov8(shape: tuple[int, int]) -> None:
    """Raise ModelError unless `shape` is that of a YOLOv8 head."""
    if shape[0] < 5:
        raise ModelError(
            f"the detector's output has {shape[0]} rows", "4 + classes are expected", "check `decode`"
        )


def _yolox(raw: Floats, settings: DetectSettings, size: Size, thresholds: Thresholds) -> Candidates:
    """xy = (o + cell) · stride, wh = exp(o) · stride, score = objectness · class (YOLOX demo_postprocess)."""
    check_yolox((raw.shape[0], raw.shape[1]), settings, size)
    likely = np.flatnonzero(raw[:, 4] > thresholds.confidence)  # a class is at most as likely as the object
    objectness, shares = raw[likely, 4], raw[likely, 5:]
    if thresholds.multi_label:
        scores = objectness[:, None] * shares
        rows, classes = np.nonzero(scores > thresholds.confidence)
        scores = scores[rows, classes]
    else:
        best = shares.argmax(1)
        scores = objectness * shares[np.arange(len(shares)), best]
        rows = np.flatnonzero(scores > thresholds.confidence)
        scores, classes = scores[rows], best[rows]
    cells, strides = (table[likely[rows]] for table in grid(size, settings.strides))
    offsets = raw[likely[rows], :4]
    centre, half = (offsets[:, :2] + cells) * strides, np.exp(offsets[:, 2:]) * strides / 2
    return Candidates(_corners(centre, half), scores, classes)


def _yolov8(raw: Floats, settings: DetectSettings, size: Size, thresholds: Thresholds) -> Candidates:
    check_yolov8((raw.shape[0], raw.shape[1]))
    best = raw[4:].max(0)  # along the rows, as they lie in memory
    likely = np.flatnonzero(best > thresholds.confidence)
    some = raw if len(likely) == raw.shape[1] else raw[:, likely]
    if thresholds.multi_label:
        columns, classes = np.nonzero(np.greater(some[4:].T, thresholds.confidence))
        scores = some[classes + 4, columns]
        some = some[:, columns]
    else:
        scores, classes = best[likely], some[4:].argmax(0)
    centre, half = some[:2].T, some[2:4].T / 2
    return Candidates(_corners(centre, half), scores, classes)


def _boxes(raw: Floats, settings: DetectSettings, size: Size, thresholds: Thresholds) -> Candidates:
    if raw.shape[1] != 6:
        raise ModelError(
            f"the detector's output has {raw.shape[1]} columns",
            "x1 y1 x2 y2 score class are expected",
            "check `decode`",
        )
    return rows(raw, thresholds.confidence)


def rows(table: Floats, confidence: float) -> Candidates:
    """The rows x1 y1 x2 y2 score class of an N × 6 table whose score is above `confidence`."""
    likely = table[table[:, 4] > confidence]
    return Candidates(likely[:, :4], likely[:, 4], likely[:, 5].astype(np.intp))


def _corners(centre: Array, half: Array) -> Floats:
    return np.concatenate([centre - half, centre + half], 1, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """What a detector says of every place, before anything is dropped.

    Attributes:
        scores: places × classes, 0–1.
        centres, sizes: places × 2, network pixels.
    """

    scores: Floats
    centres: Floats
    sizes: Floats

    def __getitem__(self, chosen: Any) -> Dense:
        return Dense(self.scores[chosen], self.centres[chosen], self.sizes[chosen])


def dense(raw: Floats, settings: DetectSettings, size: Size) -> Dense | None:
    """One picture's output place by place; None where the graph has sorted and dropped them itself."""
    if settings.decode == "yolox":
        check_yolox((raw.shape[0], raw.shape[1]), settings, size)
        cells, strides = grid(size, settings.strides)
        with np.errstate(over="ignore"):
            sizes = np.exp(raw[:, 2:4]) * strides
        return Dense(raw[:, 4:5] * raw[:, 5:], (raw[:, :2] + cells) * strides, sizes)
    if settings.decode == "yolov8":
        check_yolov8((raw.shape[0], raw.shape[1]))
        return Dense(raw[4:].T, raw[:2].T, raw[2:4].T)
    return None


Decoder = Callable[[Floats, "DetectSettings", Size, Thresholds], Candidates]
DECODERS: dict[str, Decoder] = {"yolox": _yolox, "yolov8": _yolov8, "boxes": _boxes}
"""Decoders by the name that `decode` in [task] gives. Their first argument is one picture's output."""
