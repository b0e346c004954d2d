"""How long does a detector's post-processing take, against the usual loop over cv2.dnn.NMSBoxes?

    python benchmarks/nms.py [--repeat 40] [--json FILE]

8,400 candidates of 80 classes at 640 × 640, in the layouts of YOLOX and YOLOv8. Measured is the whole way
from the raw output to boxes in source pixels, suppression alone, and the way from the 1000 candidates that a
GPU engine's tail leaves. The yardstick is suppression alone, from boxes decoded beforehand: a loop over the
80 classes that calls `cv2.dnn.NMSBoxes` on all boxes, and the same loop with each class's own likely boxes.
All alternate in one run; given are the fastest and the median of each, and ratios of medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import cv2
import numpy as np
from common import arguments, report

from edge.preprocess import Placement
from edge.tasks.decode import grid
from edge.tasks.detect import Detect, create
from edge.tasks.nms import suppress
from edge.tasks.outputs import CANDIDATES

SIDE, COUNT, CLASSES = 640, 8400, 80
CONFIDENCE, OVERLAP, LIMIT = 0.3, 0.45, 100
PLACE = Placement(1920, 1080, 1 / 3, 1 / 3, 0, 140, SIDE, SIDE)
REACH_MS, REACH_RATIO = 2.0, 0.5


@dataclass(frozen=True)
class Scene:
    """Boxes x1 y1 x2 y2 in network pixels, and a score for every class."""

    boxes: np.ndarray
    scores: np.ndarray

    @property
    def likely(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, scores and classes of the candidates above the threshold."""
        best = self.scores.max(1)
        rows = np.flatnonzero(best > CONFIDENCE)
        return self.boxes[rows], best[rows], self.scores[rows].argmax(1)

    @property
    def yolov8(self) -> np.ndarray:
        """1 × 84 × 8400."""
        corner, end = self.boxes[:, :2], self.boxes[:, 2:]
        values = np.concatenate([(corner + end) / 2, end - corner, self.scores], 1)
        return np.ascontiguousarray(values.T[None], np.float32)

    @property
    def yolox(self) -> np.ndarray:
        """1 × 8400 × 85."""
        cells, strides = grid((SIDE, SIDE), (8, 16, 32))
        corner, end = self.boxes[:, :2], self.boxes[:, 2:]
        objectness = np.maximum(self.scores.max(1, keepdims=True), 1e-3)
        values = [(corner + end) / 2 / strides - cells, np.log((end - corner) / strides), objectness]
        return np.concatenate([*values, self.scores / objectness], 1)[None].astype(np.float32)

    @property
    def candidates(self) -> np.ndarray:
        """1 × 1000 × 6, as a tail leaves them."""
        best = self.scores.max(1)
        top = np.argsort(-best, kind="stable")[:1000]
        rows = [self.boxes[top], best[top, None], self.scores[top].argmax(1)[:, None]]
        return np.concatenate(rows, 1)[None].astype(np.float32)


def scene(objects: int, likely: int, classes: int, seed: int = 0) -> Scene:
    """`likely` candidates around `objects` things (0: anywhere), the others background."""
    rng = np.random.default_rng(seed)
    whose = rng.integers(0, objects or COUNT, COUNT)
    centre = rng.uniform(60, SIDE - 60, (objects or COUNT, 2))[whose] + rng.normal(0, 3, (COUNT, 2))
    size = rng.uniform(20, 120, (objects or COUNT, 2))[whose] * rng.uniform(0.9, 1.1, (COUNT, 2))
    scores = rng.uniform(0, 0.05, (COUNT, CLASSES))
    chosen = rng.permutation(COUNT)[:likely]
    scores[chosen, whose[chosen] % classes] = rng.uniform(0.31, 0.99, likely)
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return Scene(boxes.astype(np.float32), scores.astype(np.float32))


SCENES = {
    "few: 12 objects, 100 likely": scene(12, 100, 80),
    "many: 60 objects, 1000 likely": scene(60, 1000, 80),
    "all likely, anywhere": scene(0, COUNT, 80),
    "all likely, 20 objects of one class": scene(20, COUNT, 1),
    "all likely, 60 objects of one class": scene(60, COUNT, 1),
    "all likely, 90 objects of one class": scene(90, COUNT, 1),
}


def every_class(boxes: np.ndarray, scores: np.ndarray) -> int:
    """The usual loop: all boxes, once for each class."""
    return sum(
        len(cv2.dnn.NMSBoxes(boxes, scores[:, index], CONFIDENCE, OVERLAP)) for index in range(CLASSES)
    )


def own_boxes(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> int:
    """The same loop where each class is given its own likely boxes."""
    found = 0
    for index in np.unique(classes):
        own = classes == index
        found += len(cv2.dnn.NMSBoxes(boxes[own], scores[own], CONFIDENCE, OVERLAP))
    return found


def contenders(this: Scene) -> dict[str, Callable[[], Any]]:
    boxes, scores, classes = this.likely
    corners_and_sizes = np.concatenate([this.boxes[:, :2], this.boxes[:, 2:] - this.boxes[:, :2]], 1)
    own = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    tasks: dict[str, Detect] = {kind: create({"decode": kind}, "here") for kind in ("yolox", "yolov8")}
    outputs = {"yolox": {"raw": this.yolox}, "yolov8": {"raw": this.yolov8}}
    tail = {CANDIDATES: this.candidates}
    return {
        "yolox": lambda: tasks["yolox"].postprocess(outputs["yolox"], 0, PLACE),
        "yolov8": lambda: tasks["yolov8"].postprocess(outputs["yolov8"], 0, PLACE),
        "candidates": lambda: tasks["yolox"].postprocess(tail, 0, PLACE),
        "suppress": lambda: suppress(boxes, scores, classes, OVERLAP, LIMIT),
        "cv2_every_class": lambda: every_class(corners_and_sizes, this.scores),
        "cv2_own_boxes": lambda: own_boxes(own, scores, classes),
    }


def measure(this: Scene, repeat: int) -> dict[str, list[float]]:
    """Fastest and median milliseconds by contender; the slow yardsticks are run less often."""
    runs = contenders(this)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, run in runs.items():
            if name.startswith("cv2") and turn % 8:
                continue
            start = time.perf_counter()
            run()
            if turn:  # the first warms up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: [min(values), median(values)] for name, values in times.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=40)
    args = parser.parse_args()
    figures: dict[str, Any] = {"reach_ms": REACH_MS, "reach_ratio": REACH_RATIO, "repeat": args.repeat}
    for name, this in SCENES.items():
        ms = measure(this, args.repeat)
        usual = {contender: values[1] for contender, values in ms.items()}
        figures[name] = {
            **{f"{contender}_ms": values for contender, values in ms.items()},
            "to_cv2_every_class": max(usual["yolox"], usual["yolov8"]) / usual["cv2_every_class"],
            "suppress_to_cv2_own_boxes": usual["suppress"] / usual["cv2_own_boxes"],
        }
    report("nms", figures, args.json)


if __name__ == "__main__":
    main()
