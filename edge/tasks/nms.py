"""Non-maximum suppression: exactly the greedy loop, without a Python step a candidate.

The greedy loop takes candidates in order of falling score and keeps each that no kept box of its class
overlaps. Three things make it fast without changing what it keeps:

- only the next few hundred candidates are looked at, then four times as many: once `limit` boxes are kept,
  what is less likely cannot matter, and is neither sorted nor compared;
- a candidate is first compared with one kept box alone, one that lies where it lies: on crowded input nearly
  all are settled by that, and a box that overlaps a kept one is gone whichever kept one is tried first;
- the rest are compared in arrays small enough for the processor's cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge.types import Array

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Marks = NDArray[np.bool_]

FIRST, LARGEST = 256, 4096
"""Candidates looked at in the first round, and the most in a later one."""
BLOCK = 128
"""Candidates compared with each other at once."""
PAIRS = 1 << 14
"""Pairs compared at once: 64 KiB an array, small enough for the allocator to keep."""
CELLS = 32
"""Cells of a side of the map in which a kept box is looked up by place."""
STRIDE = CELLS + 2
"""From a cell to the one below: the map has a border of one."""
AROUND = np.array([[x + y * STRIDE] for y in (-1, 0, 1) for x in (-1, 0, 1)])
"""From a cell to itself and its neighbours."""
ROUNDING = 4e-7
"""Overlaps that lie above the limit by no more than float32 can tell count as equal to it."""


@np.errstate(over="ignore", invalid="ignore")  # boxes beyond all measure have no area to compare
def suppress(boxes: Floats, scores: Floats, classes: Indices, overlap: float, limit: int) -> Indices:
    """The best `limit` boxes, of which no two of one class overlap more than `overlap`.

    Args:
        boxes: N × 4, x1 y1 x2 y2, finite. A box without area overlaps none.
        scores: N. A box whose score is NaN is left out; of equal scores the first comes first.
        overlap: intersection over union, 0–1.

    Returns:
        Indices of the kept boxes, best first.
    """
    falling = -scores
    rest = np.flatnonzero(falling == falling)
    table = _table(boxes, classes, overlap)
    kept, size = rest[:0], FIRST
    while rest.size and len(kept) < limit:
        best, rest = _best(rest, falling, size)
        if kept.size and len(best) > FIRST:
            best = _clear_nearby(table, kept, best)
        best = _clear(table, kept, best)
        best = best[np.argsort(falling[best], kind="stable")]
        kept = _resolve(table, kept, best, limit)
        size = min(4 * size, LARGEST)
    return kept[:limit]


def _table(boxes: Floats, classes: Indices, overlap: float) -> Floats:
    """6 × N, a column a candidate: −x1 −y1 x2 y2, its share of the area that two may have in common, class.

    IoU > t is shared > t · (a + b − shared), and that is shared > (a + b) · t / (1 + t).
    """
    table = np.empty((6, len(boxes)), np.float32)
    table[:2], table[2:4] = -boxes.T[:2], boxes.T[2:]
    width, height = np.maximum(table[:2] + table[2:4], 0)
    table[4] = width * height * np.float32(overlap / (1 + overlap) * (1 + ROUNDING))
    table[5] = classes
    return table


def _best(rest: Indices, falling: Floats, count: int) -> tuple[Indices, Indices]:
    """The `count` best (more if the last score is a tie), not sorted, and the others; both in index order."""
    if len(rest) <= count:
        return rest, rest[:0]
    values = falling[rest]
    first = values <= np.partition(values, count - 1)[count - 1]
    return rest[first], rest[~first]


def _resolve(table: Floats, kept: Indices, best: Indices, limit: int) -> Indices:
    """`kept`, and those of `best` (sorted, none overlaps a kept one) that the greedy loop keeps."""
    while best.size and len(kept) < limit:
        block, best = best[:BLOCK], best[BLOCK:]
        columns = table[:, block]
        new = block[_greedy(np.triu(_clash(columns[:, :, None], columns), 1))]
        kept = np.concatenate([kept, new])
        if len(kept) < limit:
            best = _clear(table, new, best)
    return kept


def _greedy(clash: Marks) -> Marks:
    """Who stays, if row i removes column j > i wherever `clash` says so and i itself stays.

    Each pass settles at least one more row from the top, and usually all of them in two or three.
    """
    stays = np.logical_not(clash.any(0))
    while True:
        after = np.logical_not(clash[stays].any(0))
        if np.array_equal(after, stays):
            return stays
        stays = after


def _clear(table: Floats, kept: Indices, rest: Indices) -> Indices:
    """`rest` without those that overlap one of `kept`; a few of `kept` at a time, as `rest` shrinks."""
    start = 0
    while start < len(kept) and rest.size:
        some = kept[start : start + max(1, PAIRS // rest.size)]
        hit = _clash(table.take(some, 1)[:, :, None], table.take(rest, 1))
        rest = rest[~hit.any(0)]
        start += len(some)
    return rest


def _clear_nearby(table: Floats, kept: Indices, rest: Indices) -> Indices:
    """`rest` without those that overlap the one kept box which a map of places has for them."""
    columns = table.take(rest, 1)
    own, theirs = _cells(table.take(kept, 1), columns)
    owner = np.full(STRIDE**2, kept[0])
    owner[own + AROUND] = kept
    owner[own] = kept  # a box's own cell is not its neighbour's
    hit = _clash(table.take(owner[theirs], 1), columns)
    return rest[~hit]


def _cells(kept: Floats, rest: Floats) -> tuple[Array, Array]:
    """Where the centres of table columns lie in a map of CELLS × CELLS with a border of one."""
    centres, others = kept[2:4] - kept[:2], rest[2:4] - rest[:2]
    low, high = others.min(1, keepdims=True), others.max(1, keepdims=True)
    scale = CELLS / np.maximum(high - low, 1)
    places = [((c - low) * scale).astype(np.int32) for c in (centres, others)]
    own, theirs = (np.minimum(np.maximum(place, 0, out=place), CELLS - 1, out=place) for place in places)
    return own[1] * STRIDE + own[0] + STRIDE + 1, theirs[1] * STRIDE + theirs[0] + STRIDE + 1


def _clash(a: Array, b: Array) -> Marks:
    """Which pairs of columns (broadcast against each other) are of one class and overlap too much."""
    width = np.minimum(a[2], b[2])
    width += np.minimum(a[0], b[0])
    np.maximum(width, 0, out=width)
    height = np.minimum(a[3], b[3])
    height += np.minimum(a[1], b[1])
    shared = np.multiply(width, height, out=width)
    clash: Marks = shared > np.add(a[4], b[4], out=height)
    clash &= a[5] == b[5]
    return clash
