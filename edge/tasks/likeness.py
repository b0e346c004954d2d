"""How far two results lie apart, in units in which small independent errors add up.

Probabilities are compared by Kullback–Leibler divergence (nats), everything else by squared error over
squared value. Both are quadratic in small errors, so the figures of two layers that are quantized add up to
that of both: what the search for a plan relies on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge.types import Array

LEAST = 1e-6
"""Probabilities below are taken as this."""


def categorical(reference: Array, this: Array) -> float:
    """Σ p·ln(p/q) of two distributions over the last axis, summed over the others; nats."""
    p, q = (np.maximum(np.asarray(x, np.float64), LEAST) for x in (reference, this))
    return float((p * np.log(p / q) + q - p).sum())


def bernoulli(reference: Array, this: Array) -> NDArray[np.float64]:
    """Divergence of each probability on its own; nats."""
    p, q = (np.clip(np.asarray(x, np.float64), LEAST, 1 - LEAST) for x in (reference, this))
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def relative(reference: Mapping[str, Array], this: Mapping[str, Array]) -> float:
    """Squared error over squared value, summed over the outputs."""
    total = 0.0
    for name, value in reference.items():
        signal = float(np.square(value, dtype=np.float64).sum())
        error = float(np.square(value.astype(np.float64) - this[name]).sum())
        total += error / signal if signal else error
    return total
