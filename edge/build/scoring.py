"""A task's metric over held-out samples, and how far chance moves the difference between two engines.

Of a few dozen pictures a metric is itself uncertain: a detector's AP moves by half a point when one rare
object is ranked otherwise. So the metric is also computed with each eighth of the samples left out, for fp32
and for the engine alike, and the spread of their difference gives its standard error (the delete-a-group
jackknife, Shao & Wu 1989).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.tasks import Sample, Scorer, Task
from edge.types import Payload

FOLDS = 8
"""Parts of the samples that are left out, one at a time."""
FEWEST = 2 * FOLDS
"""Samples below which no error is given."""


@dataclass(frozen=True, slots=True)
class Score:
    """A metric, and the same without each part of the samples; none where they are too few."""

    value: float
    without: tuple[float, ...] = ()


class Scores:
    """Adds samples up.

    Args:
        count: of samples that are to come.
        folds: whether parts are left out, too.
    """

    def __init__(self, task: Task, count: int, folds: bool) -> None:
        self._whole: Scorer = task.scorer()
        self._without = [task.scorer() for _ in range(FOLDS)] if folds and count >= FEWEST else []

    def add(self, index: int, labelled: Sequence[Sample], payload: Payload) -> None:
        """What became of the sample with this place, once for each of its labels."""
        scorers = [s for part, s in enumerate(self._without) if part != index % FOLDS]
        for sample in labelled:
            for scorer in (self._whole, *scorers):
                scorer.add(sample, payload)

    def score(self) -> Score:
        return Score(self._whole.value(), tuple(scorer.value() for scorer in self._without))


def standard_error(fp32: Score, this: Score) -> float | None:
    """Of the difference between two scores of the same samples; None where it cannot be told."""
    if not fp32.without or len(fp32.without) != len(this.without):
        return None
    drops = np.subtract(fp32.without, this.without)
    if not np.isfinite(drops).all():
        return None
    count = len(drops)
    return math.sqrt((count - 1) / count * float(np.square(drops - drops.mean()).sum()))
