"""Where the objects are: boxes with a class and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from edge.config import SamplesConfig, Section, validate
from edge.preprocess import Placement
from edge.tasks import Sample, Tail, decode, detect_tail, drawing, likeness
from edge.tasks.coco import Annotations, AveragePrecision, read_annotations
from edge.tasks.decode import DECODERS, SCORING, Candidates, Thresholds
from edge.tasks.nms import suppress
from edge.tasks.outputs import BOXES, CANDIDATES, CLASSES, COUNT, SCORES, one_picture
from edge.tasks.samples import find_samples, read_picture
from edge.types import Array, Image

Floats = NDArray[np.float32]

DRAWS = 16
"""Sets of objects drawn for a picture where it has no labels."""
FAINT = 0.003
"""A place whose best score is below is background, whatever an engine makes of it."""
EDGE = 0.1
"""Standard deviation of their edges, as a part of the box: an IoU around 0.8."""


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
    nms: Literal["host", "engine"] = Field(
        "host",
        description="who drops boxes that overlap a better one: the processor, or the engine where its "
        "runtime has the plugin EfficientNMS_TRT (full TensorRT)",
    )
    labels: tuple[str, ...] = Field(
        (), description="class names by index (or `labels_file`, one name a line)"
    )


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

    def found(self) -> dict[str, float]:
        best: dict[str, float] = {}
        for index, score in zip(self.classes.tolist(), self.scores.tolist(), strict=True):
            name = self._name(index).get("name", str(index))
            best[name] = max(best.get(name, 0.0), score)
        return best

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

    def tail(self) -> Tail | None:
        """Boxes of the best candidates, decoded on the device; a graph that ends in boxes needs none."""
        if self.settings.decode == "boxes":
            return None
        return Tail(self.settings.output, partial(detect_tail.write, self.settings))

    def postprocess(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Detections:
        """From the network's output, or from what the tail made of it where it is among `outputs`."""
        if COUNT in outputs:
            return self._suppressed_by_engine(outputs, index, placement)
        if CANDIDATES in outputs:
            found = decode.rows(outputs[CANDIDATES][index], self._display.confidence)
            return self._detections(found, placement, self._display)
        return self._from_raw(outputs, index, placement, self._display)

    def score_payload(self, outputs: Mapping[str, Array], index: int, placement: Placement) -> Detections:
        """Always from the network's own output: the tail keeps one class a candidate and the best alone."""
        return self._from_raw(outputs, index, placement, SCORING)

    def scorer(self) -> AveragePrecision:
        return AveragePrecision()

    def divergence(
        self, reference: Mapping[str, Array], this: Mapping[str, Array], placement: Placement
    ) -> float:
        """Of the scores wherever anything is seen, and of the boxes there: squared shift over squared size,
        times the score."""
        size = (placement.network_height, placement.network_width)
        raws = (
            one_picture(o, self.settings.output, 0, 2, "batch × candidates × values")
            for o in (reference, this)
        )
        a, b = (decode.dense(raw, self.settings, size) for raw in raws)
        if a is None or b is None:
            return likeness.relative(reference, this)
        seen = np.maximum(a.scores.max(1), b.scores.max(1)) > FAINT
        a, b = a[seen], b[seen]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            moved = np.square((a.centres - b.centres) / a.sizes).sum(1)
            grown = np.square(np.log(b.sizes / a.sizes)).sum(1)
            boxes = a.scores.max(1) * np.nan_to_num(np.minimum(moved + grown, 1.0), nan=1.0)
        return float(likeness.bernoulli(a.scores, b.scores).sum() + boxes.sum(dtype=np.float64))

    def believed(
        self, sample: Sample, outputs: Mapping[str, Array], placement: Placement, random: Generator
    ) -> Sequence[Sample]:
        """Objects drawn from the findings by their scores, with edges as uncertain as a detector's are."""
        found = self.score_payload(outputs, 0, placement)
        raw = one_picture(outputs, self.settings.output, 0, 2, "batch × candidates × values")
        places = decode.dense(raw, self.settings, (placement.network_height, placement.network_width))
        classes = int(found.classes.max(initial=0)) + 1 if places is None else places.scores.shape[1]
        drawn = (_drawn(found, f"{sample.path.name}#{i}", classes, placement, random) for i in range(DRAWS))
        return [Sample(sample.path, label) for label in drawn]

    def _from_raw(
        self, outputs: Mapping[str, Array], index: int, placement: Placement, thresholds: Thresholds
    ) -> Detections:
        raw = one_picture(outputs, self.settings.output, index, 2, "batch × candidates × values")
        size = (placement.network_height, placement.network_width)
        with np.errstate(over="ignore", invalid="ignore"):  # a box without bounds is no box
            found = self._decode(raw, self.settings, size, thresholds)
        return self._detections(found, placement, thresholds)

    def _detections(self, found: Candidates, placement: Placement, thresholds: Thresholds) -> Detections:
        """What is left of the candidates once boxes that overlap a better one are gone."""
        found = _finite(found)
        overlap = 1.0 if self.settings.decode == "boxes" else thresholds.overlap  # the graph did it itself
        best = found[suppress(found.boxes, found.scores, found.classes, overlap, thresholds.limit)]
        return Detections(to_image(best.boxes, placement), best.scores, best.classes, self.settings.labels)

    def _suppressed_by_engine(
        self, outputs: Mapping[str, Array], index: int, placement: Placement
    ) -> Detections:
        """The boxes that the engine's own suppression kept: the first `count` rows hold them, best first."""
        count = int(outputs[COUNT][index, 0])
        boxes, scores, classes = (np.array(outputs[name][index, :count]) for name in (BOXES, SCORES, CLASSES))
        return Detections(to_image(boxes, placement), scores, classes.astype(np.intp), self.settings.labels)


def _drawn(found: Detections, image: str, count: int, placement: Placement, random: Generator) -> Annotations:
    """Annotations of `count` classes as COCO has them, of an image of this name."""
    kept = random.random(len(found.scores)) < found.scores
    boxes, classes = found.boxes[kept].astype(np.float64), found.classes[kept]
    boxes += random.normal(0, EDGE, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    annotations = []
    for (x1, y1, x2, y2), category in zip(boxes.tolist(), classes.tolist(), strict=True):
        width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
        entry = {"image_id": image, "category_id": category, "bbox": [x1, y1, width, height]}
        annotations.append(entry | {"area": width * height, "iscrowd": 0})
    categories = tuple({"id": c, "name": str(c)} for c in range(count))
    picture = {"id": image, "width": placement.width, "height": placement.height, "file_name": image}
    return Annotations(picture, tuple(annotations), categories)


def _finite(found: Candidates) -> Candidates:
    """Without those that a broken network gave: a sum with NaN or infinity in it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = found.boxes @ np.ones(4, np.float32) + found.scores
    sound = np.isfinite(total)
    return found if sound.all() else found[sound]


def to_image(boxes: Floats, placement: Placement) -> Floats:
    """Boxes in network pixels → boxes in pixels of the source image, cut at its edges."""
    offset = np.array([placement.left, placement.top] * 2, np.float32)
    scale = np.array([placement.scale_x, placement.scale_y] * 2, np.float32)
    limits = np.array([placement.width, placement.height] * 2, np.float32)
    return np.asarray(np.clip((boxes - offset) / scale, 0, limits), np.float32)


def create(settings: dict[str, Any], where: str) -> Detect:
    return Detect(validate(DetectSettings, settings, where))
