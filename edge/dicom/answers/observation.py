"""What a payload says, in the terms that answers have words for: classes, regions, a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.preprocess import Placement
from edge.tasks.detect import Detections
from edge.tasks.segment import Mask
from edge.types import Payload

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels; (0, 0) is the outer corner of the first pixel, as in PS3.3 C.18.6.1.2."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a frame.

    Attributes:
        score: 0–1.
    """

    name: str
    score: float
    box: Box


@dataclass(frozen=True, slots=True)
class Observation:
    """What was found in one frame.

    Attributes:
        classes: name and score (0–1) of what the frame as a whole shows, best first.
        regions: None where the task looks for none; best first.
        share: part of the frame that the mask covers, 0–1; None where there is no mask.
    """

    classes: tuple[tuple[str, float], ...] = ()
    regions: tuple[Region, ...] | None = None
    share: float | None = None

    @property
    def positive(self) -> bool:
        """Something was found at a place; a class alone may as well mean that nothing is there."""
        return bool(self.regions or self.share)


def observe(payload: Payload, width: int, height: int) -> Observation:
    """
    Args:
        width, height: of the source frame; boxes are cut at its edges.
    """

    def cut(box: NDArray[np.float32]) -> Box:
        x1, y1, x2, y2 = np.clip(box, 0, (width, height, width, height)).tolist()
        return x1, y1, x2, y2

    if isinstance(payload, Detections):
        objects = zip(payload.boxes, payload.scores, payload.classes, strict=True)
        named = ((_name(payload.labels, int(index)), float(score), box) for box, score, index in objects)
        return Observation(regions=_ranked([Region(n, s, cut(b)) for n, s, b in named if _finite(b)]))
    if isinstance(payload, Mask):
        name = label_of(payload)
        parts = zip(*payload.boxes, strict=True)
        regions = [Region(name, float(score), cut(box)) for box, score in parts if _finite(box)]
        return Observation(regions=_ranked(regions), share=payload.share)
    scores = [(name, float(score)) for name, score in payload.found().items() if math.isfinite(score)]
    return Observation(classes=tuple(sorted(scores, key=lambda entry: -entry[1])))


def label_of(mask: Mask) -> str:
    """What a mask shows, in a word."""
    return mask.label or "mask"


def pixels(mask: Mask) -> NDArray[np.bool_]:
    """The mask at the size of its source frame; pixels that the network did not see are outside of it."""
    place = mask.placement
    y, x = np.arange(place.height), np.arange(place.width)
    full: NDArray[np.bool_] = mask.cells[np.ix_(mask.cell_of(y, True), mask.cell_of(x, False))]
    rows, columns = _seen(place)
    return full & rows[:, None] & columns


def _seen(place: Placement) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows and which columns of the picture the network saw: all, unless it was cropped."""
    y = (np.arange(place.height) + 0.5) * place.scale_y + place.top
    x = (np.arange(place.width) + 0.5) * place.scale_x + place.left
    return (y >= 0) & (y < place.network_height), (x >= 0) & (x < place.network_width)


def _name(labels: tuple[str, ...], index: int) -> str:
    return labels[index] if index < len(labels) else f"class {index}"


def _finite(box: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(box).all())


def _ranked(regions: list[Region]) -> tuple[Region, ...]:
    """Best first; a score that is no number comes last, as 0."""
    sound = [Region(r.name, r.score if math.isfinite(r.score) else 0.0, r.box) for r in regions]
    return tuple(sorted(sound, key=lambda region: -region.score))
