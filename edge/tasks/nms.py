"""Non-maximum suppression, exact and without a Python step a candidate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

BLOCK = 128
"""Candidates compared at once: small enough for the cache, large enough to make Python's share small."""


def suppress(boxes: Floats, scores: Floats, classes: Indices, overlap: float, limit: int) -> Indices:
    """The best `limit` boxes, of which no two of one class overlap more than `overlap`.

    The result is that of the usual greedy loop: the best box stays and removes what overlaps it, then the
    best of the rest. Candidates are taken in blocks of falling score, so work ends once `limit` are found.

    Args:
        boxes: N × 4, x1 y1 x2 y2.
        overlap: intersection over union, 0–1.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable")
    kept = order[:0]
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        block = block[~_clash(boxes, classes, kept, block, overlap).any(0)]
        among = np.triu(_clash(boxes, classes, block, block, overlap), 1)
        kept = np.concatenate([kept, block[_greedy(among)]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def _greedy(clash: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Who stays, if row i removes column j > i wherever `clash` says so and i itself stays.

    Each pass settles at least one more row from the top, and usually all of them in two or three.
    """
    stays = np.ones(len(clash), bool)
    while True:
        after = np.logical_not(clash[stays].any(0))
        if np.array_equal(after, stays):
            return stays
        stays = after


def _clash(boxes: Floats, classes: Indices, a: Indices, b: Indices, overlap: float) -> NDArray[np.bool_]:
    """len(a) × len(b): same class, and IoU above `overlap`."""
    first, second = boxes[a].T[:, :, None], boxes[b].T[:, None, :]
    width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    total = _area(first) + _area(second) - shared
    return np.asarray((shared > overlap * total) & (classes[a][:, None] == classes[b]), np.bool_)


def _area(boxes: Floats) -> Floats:
    return np.asarray((boxes[2] - boxes[0]) * (boxes[3] - boxes[1]), np.float32)
