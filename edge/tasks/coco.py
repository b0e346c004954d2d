"""COCO annotations and the average precision that is defined on them."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import InputError, missing_package
from edge.tasks import Sample

if TYPE_CHECKING:
    from edge.tasks.detect import Detections


@dataclass(frozen=True, slots=True)
class Annotations:
    """The boxes of one picture, as COCO records them.

    Attributes:
        image: the entry of the file's `images`.
        boxes: its entries of `annotations`.
        categories: all of the file's categories; a network's class i is the one with the i-th lowest id.
    """

    image: dict[str, Any]
    boxes: tuple[dict[str, Any], ...]
    categories: tuple[dict[str, Any], ...]


def read_annotations(path: Path) -> dict[str, Annotations]:
    """File name → annotations.

    Raises:
        InputError: the file cannot be read, or is not a COCO annotation file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        boxes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            boxes[annotation["image_id"]].append(annotation)
        categories = tuple(sorted(content["categories"], key=lambda category: category["id"]))
        return {
            image["file_name"]: Annotations(image, tuple(boxes[image["id"]]), categories)
            for image in content["images"]
        }
    except OSError as e:
        raise InputError(f"cannot read the labels {path}", e.strerror or str(e), "check the path") from e
    except (ValueError, KeyError, TypeError) as e:
        why = f"it is not a COCO annotation file ({type(e).__name__}: {e})"
        raise InputError(f"cannot use the labels {path}", why, "see docs/tasks.md") from e


@dataclass
class AveragePrecision:
    """COCO's AP over IoU 0.50–0.95, in %."""

    labels: list[Annotations] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, sample: Sample, payload: Detections) -> None:
        if sample.label is None:
            return
        label: Annotations = sample.label
        self.labels.append(label)
        for (x1, y1, x2, y2), score, index in zip(
            payload.boxes.tolist(), payload.scores.tolist(), payload.classes.tolist(), strict=True
        ):
            if index < len(label.categories):
                category, box = label.categories[index]["id"], [x1, y1, x2 - x1, y2 - y1]
                image = label.image["id"]
                self.found.append({"image_id": image, "category_id": category, "score": score, "bbox": box})

    def value(self) -> float:
        """
        Raises:
            MissingPackage: pycocotools is not installed.
        """
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError as e:
            raise missing_package("pycocotools", "eval", "scoring a detector") from e
        if not self.labels:
            return float("nan")
        if not self.found:
            return 0.0
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and a table
            truth = COCO()
            truth.dataset = self._dataset()
            truth.createIndex()
            judge = COCOeval(truth, truth.loadRes([dict(f) for f in self.found]), "bbox")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return 100 * max(float(judge.stats[0]), 0.0)  # −1 where no label holds a box

    def _dataset(self) -> dict[str, Any]:
        return {
            "info": {},
            "images": [label.image for label in self.labels],
            "annotations": [
                dict(box, id=number)
                for number, box in enumerate((b for label in self.labels for b in label.boxes), 1)
            ],
            "categories": list(self.labels[0].categories),
        }
