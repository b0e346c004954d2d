"""The device's part of detection: of all candidates the best K, decoded to boxes.

A YOLO head at 640 × 640 puts out 8,400 candidates of 85 values, 2.9 MB a picture. What can become a detection
are its best few; copied to the host are K = 1000 rows of 6 values, 24 KB. Suppression goes by falling score
and never looks back, so the detections are the very same as long as no more than K candidates lie above
`confidence`; beyond that they are the first of them, down to the score of candidate K.

The same rules as `decode`, in fp32: a coordinate of a thousand pixels has no fraction in bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge.tasks.decode import check_yolov8, check_yolox, grid
from edge.tasks.outputs import BOXES, CANDIDATES, CLASSES, COUNT, SCORES

if TYPE_CHECKING:
    from edge.build.tails import TailWriter
    from edge.tasks.detect import DetectSettings

KEPT = 1000
"""Candidates that reach the host; more if `max_detections` asks for more."""
LARGEST_TOP = 3840
"""K that TensorRT's TopK takes (NVIDIA's operator reference, TopK, volume limits)."""
NMS_PLUGIN = "EfficientNMS_TRT"


def write(settings: DetectSettings, w: TailWriter) -> None:
    """Decode the best candidates and publish them, or what the engine's own suppression leaves of them.

    Raises:
        ModelError: the output is not what `decode` in [task] says it is.
    """
    if len(w.shape) != 3:
        return  # no detector's output; `postprocess` says so
    count = w.shape[1 if settings.decode == "yolox" else 2]
    kept = min(count, max(KEPT, settings.max_detections))
    if kept > LARGEST_TOP:
        return
    decoded = _yolox(settings, w, kept) if settings.decode == "yolox" else _yolov8(settings, w, kept)
    corners, scores, classes = decoded
    if settings.nms == "engine" and NMS_PLUGIN in w.plugins:
        _suppress(settings, w, corners, w.node("Mul", _only_best(w, classes), scores))
    else:
        best = w.node("ArgMax", classes, axis=2, keepdims=1)
        index = w.node("Cast", best, to=w.FLOAT)
        table = w.node("Concat", corners, scores, index, axis=2)
        w.publish(table, CANDIDATES, (kept, 6))
    w.publish_sum()


def _yolox(settings: DetectSettings, w: TailWriter, kept: int) -> tuple[str, str, str]:
    """N × K × 4 corners, N × K × 1 scores and N × K × C classes of the best candidates, best first."""
    _, cells, columns = w.shape
    check_yolox((cells, columns), settings, w.size)
    likely = w.node("ReduceMax", w.slice(w.raw, 2, 5, columns), [2], keepdims=1)
    scores = w.node("Mul", w.slice(w.raw, 2, 4, 5), likely)
    top, index = _top(w, w.node("Squeeze", scores, [2]), kept)
    rows = w.node("GatherND", w.raw, w.node("Unsqueeze", index, [2]), batch_dims=1)
    table = np.concatenate(grid(w.size, settings.strides), 1)  # x, y, stride by candidate
    places = w.node("Gather", table, index, axis=0)
    strides = w.slice(places, 2, 2, 3)
    centre = w.node("Mul", w.node("Add", w.slice(rows, 2, 0, 2), w.slice(places, 2, 0, 2)), strides)
    size = w.node("Mul", w.node("Exp", w.slice(rows, 2, 2, 4)), strides)
    return _corners(w, centre, size), top, w.slice(rows, 2, 5, columns)


def _yolov8(settings: DetectSettings, w: TailWriter, kept: int) -> tuple[str, str, str]:
    """As `_yolox`, from rows of values whose columns are the candidates."""
    _, values, _ = w.shape
    check_yolov8((values, w.shape[2]))
    scores = w.node("ReduceMax", w.slice(w.raw, 1, 4, values), [1], keepdims=0)
    top, index = _top(w, scores, kept)
    columns = w.node("Transpose", w.raw, perm=[0, 2, 1])
    rows = w.node("GatherND", columns, w.node("Unsqueeze", index, [2]), batch_dims=1)
    corners = _corners(w, w.slice(rows, 2, 0, 2), w.slice(rows, 2, 2, 4))
    return corners, top, w.slice(rows, 2, 4, values)


def _top(w: TailWriter, scores: str, kept: int) -> tuple[str, str]:
    """N × K × 1 scores of the best of N × candidates, and their N × K indices. NaN counts as 0."""
    zero = np.float32(0)
    scores = w.node("Where", w.node("Greater", scores, zero), scores, zero)
    top, index = w.nodes("TopK", scores, [kept], outputs=2, axis=1)
    return w.node("Unsqueeze", top, [2]), index


def _corners(w: TailWriter, centre: str, size: str) -> str:
    half = w.node("Mul", size, np.float32(0.5))
    return w.node("Concat", w.node("Sub", centre, half), w.node("Add", centre, half), axis=2)


def _only_best(w: TailWriter, classes: str) -> str:
    """1 for the class that is likeliest in its row, 0 for the others: a candidate stands for one class."""
    likeliest = w.node("ReduceMax", classes, [2], keepdims=1)
    return w.node("Cast", w.node("Equal", classes, likeliest), to=w.FLOAT)


def _suppress(settings: DetectSettings, w: TailWriter, corners: str, scores: str) -> None:
    """NVIDIA's EfficientNMS plugin (TensorRT's plugin/efficientNMSPlugin): in boxes N × K × 4 and scores
    N × K × C, out the number of detections, their boxes, scores and classes."""
    limit = settings.max_detections
    outputs = w.nodes(
        NMS_PLUGIN,
        corners,
        scores,
        outputs=4,
        domain="TRT",
        plugin_version="1",
        score_threshold=settings.confidence,
        iou_threshold=settings.overlap,
        max_output_boxes=limit,
        background_class=-1,  # none
        score_activation=0,  # the scores are probabilities already
        class_agnostic=0,
        box_coding=0,  # corners
    )
    w.publish(outputs[0], COUNT, (1,), w.INT32)
    w.publish(outputs[1], BOXES, (limit, 4))
    w.publish(outputs[2], SCORES, (limit,))
    w.publish(outputs[3], CLASSES, (limit,), w.INT32)
