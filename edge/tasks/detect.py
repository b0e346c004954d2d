"""Where the objects are: boxes with a class and a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from edge.config import SamplesConfig, Section, validate
from edge.errors import ModelError
from edge.preprocess import Placement
from edge.tasks import Sample, drawing
from edge.tasks.coco import AveragePrecision, read_annotations
from edge.tasks.nms import suppress
from edge.tasks.outputs import one_picture
from edge.tasks.samples import find_samples, read_picture
from edge.types import Array, Image

Floats = NDArray[np.float32]


class DetectSettings(Section):
    """The keys of `[task]` with `kind = "detect"`."""

    output: str | None = Field(None, description="the graph's output; default: its first")
    decode: Literal["yolox", "yolov8", "boxes"] = Field(
        description="yolox: cells × (4 raw + objectness + classes); "
        "yolov8: (cx cy w h + classes) × candidates; boxes: candidates × (x1 y1 x2 y2 score class)"
    )
    strides: tuple[PositiveInt, ...] = Field(
        (8, 16, 32), description="yolox: network pixels a cell, by level"
    )
    confidence: float = Field(0.3, ge=0, le=1, description="lowest score that is reported")
    overlap: float = Field(
        0.45, ge=0, le=1, description="of two boxes of one class that overlap more (IoU), the better stays"
    )
    max_detections: PositiveInt = Field(100, description="most boxes a picture, best first")
    labels: tuple[str, ...] = Field(
        (), description="class names by index (or `labels_file`, one name a line)"
    )


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
    classes: NDArray[np.intp]

    def __getitem__(self, chosen: Any) -> Candidates:
        return Candidates(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What was found, best first.

    Attributes:
        boxes: N × 4, x1 y1 x2 y2 in pixels of the source image.
        scores, classes: N.
        labels: class names by index; may be empty.
    """

    boxes: Floats
    scores: Floats
    classes: NDArray[np.intp]
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        found = []
        for box, score, index in zip(self.boxes, self.scores, self.classes, strict=True):
            entry = {"box": [round(float(v), 1) for v in box], "score": round(float(score), 4)}
            found.append(entry | {"class": int(index)} | self._name(int(index)))
        return {"detections": found}

    def draw(self, image: Image) -> Image:
        out = drawing.canvas(image)
        for box, index in zip(self.boxes.tolist(), self.classes.tolist(), strict=True):
            drawing.outline(out, box, drawing.color_of(index))
        for i in reversed(range(len(self.boxes))):  # the best lie on top
            index, box = int(self.classes[i]), self.boxes[i].tolist()
            color = drawing.color_of(index)
            name = self._name(index).get("name", f"class {index}")
            drawing.tag(out, f"{name} {100 * self.scores[i]:.0f}%", box[0], box[1], color)
        return out

    def _name(self, index: int) -> dict[str, str]:
        return {"name": self.labels[index]} if index < len(self.labels) else {}


class Detect:
    kind = "detect"
    metric = "ap"

    def __init__(self, settings: DetectSettings) -> None:
        self.settings = settings
        self._display = Thresholds(
            settings.confidence, settings.overlap, settings.max_detections, multi_label=False
        )
        self._decode = DECODERS[settings.decode]

    def samples(self, config: SamplesConfig) -> Sequence[Sample]:
        """`config.labels` is a COCO annotation file; pictures that it does not name stay unlabelled."""
        if config.labels is None:
            return find_samples(config)
        annotations = read_annotations(config.labels)
        return find_samples(config, lambda path: annotations.get(path.name))

    def network_image(self, sample: Sample) -> Image:
        return read_picture(sample.path)

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Detections:
        return self._detections(outputs, index, placement, self._display)

    def score_payload(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Detections:
        return self._detections(outputs, index, placement, SCORING)

    def scorer(self) -> AveragePrecision:
        return AveragePrecision()

    def _detections(
        self, outputs: Mapping[str, Array], index: int, placement: Placement, thresholds: Thresholds
    ) -> Detections:
        raw = one_picture(outputs, self.settings.output, index, 2, "batch × candidates × values")
        with np.errstate(over="ignore", invalid="ignore"):  # a box without bounds is no box
            found = self._decode(raw, self.settings, placement, thresholds)
        found = found[np.isfinite(found.boxes).all(1)]
        overlap = 1.0 if self.settings.decode == "boxes" else thresholds.overlap  # the graph did it itself
        best = found[suppress(found.boxes, found.scores, found.classes, overlap, thresholds.limit)]
        boxes = to_image(best.boxes, placement)
        return Detections(boxes, best.scores, best.classes, self.settings.labels)


def to_image(boxes: Floats, placement: Placement) -> Floats:
    """Boxes in network pixels → boxes in pixels of the source image, cut at its edges."""
    offset = np.array([placement.left, placement.top] * 2, np.float32)
    scale = np.array([placement.scale_x, placement.scale_y] * 2, np.float32)
    limits = np.array([placement.width, placement.height] * 2, np.float32)
    return np.asarray(np.clip((boxes - offset) / scale, 0, limits), np.float32)


def _classes(boxes: Floats, scores: Floats, thresholds: Thresholds) -> Candidates:
    """Boxes and their scores in all classes (N × classes) → one candidate a class that is likely enough."""
    if thresholds.multi_label:
        rows, classes = np.nonzero(scores > thresholds.confidence)
    else:
        classes = scores.argmax(1)
        rows = np.flatnonzero(scores[np.arange(len(scores)), classes] > thresholds.confidence)
        classes = classes[rows]
    return Candidates(boxes[rows], scores[rows, classes], classes)


@lru_cache(maxsize=8)
def _grid(height: int, width: int, strides: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Cell (x, y) and stride of every candidate of a YOLOX head: N × 2 and N × 1."""
    cells, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x, y], 2).reshape(-1, 2))
        sizes.append(np.full((x.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def _decode_yolox(
    raw: Floats, settings: DetectSettings, placement: Placement, thresholds: Thresholds
) -> Candidates:
    """xy = (o + cell) · stride, wh = exp(o) · stride, score = objectness · class (YOLOX demo_postprocess)."""
    size = (placement.network_height, placement.network_width)
    cells, strides = _grid(*size, settings.strides)
    if len(cells) != len(raw) or raw.shape[1] < 6:
        raise ModelError(
            f"the detector's output is {raw.shape[0]}×{raw.shape[1]}",
            f"YOLOX with strides {settings.strides} has {len(cells)}×(5 + classes) at {size[1]}×{size[0]}",
            "check `strides` and `decode` in [task] and `size` in [input]",
        )
    likely = np.flatnonzero(raw[:, 4] > thresholds.confidence)  # a class is at most as likely as the object
    raw, cells, strides = raw[likely], cells[likely], strides[likely]
    centre, half = (raw[:, :2] + cells) * strides, np.exp(raw[:, 2:4]) * strides / 2
    boxes = np.concatenate([centre - half, centre + half], 1)
    return _classes(boxes, raw[:, 4:5] * raw[:, 5:], thresholds)


def _decode_yolov8(
    raw: Floats, settings: DetectSettings, placement: Placement, thresholds: Thresholds
) -> Candidates:
    if raw.shape[0] < 5:
        raise ModelError(
            f"the detector's output has {raw.shape[0]} rows", "4 + classes are expected", "check `decode`"
        )
    likely = np.flatnonzero(raw[4:].max(0) > thresholds.confidence)
    chosen = raw[:, likely].T
    centre, half = chosen[:, :2], chosen[:, 2:4] / 2
    return _classes(np.concatenate([centre - half, centre + half], 1), chosen[:, 4:], thresholds)


def _decode_boxes(
    raw: Floats, settings: DetectSettings, placement: Placement, thresholds: Thresholds
) -> Candidates:
    if raw.shape[1] != 6:
        raise ModelError(
            f"the detector's output has {raw.shape[1]} columns",
            "x1 y1 x2 y2 score class are expected",
            "check `decode`",
        )
    likely = raw[raw[:, 4] > thresholds.confidence]
    return Candidates(likely[:, :4], likely[:, 4], likely[:, 5].astype(np.intp))


DECODERS: dict[str, Callable[[Floats, DetectSettings, Placement, Thresholds], Candidates]] = {
    "yolox": _decode_yolox,
    "yolov8": _decode_yolov8,
    "boxes": _decode_boxes,
}


def create(settings: dict[str, Any], where: str) -> Detect:
    return Detect(validate(DetectSettings, settings, where))
